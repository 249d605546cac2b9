"""What rendered words say: dictionary words, numbers, codes, addresses and invented strings, within a character set."""

import hashlib
import itertools
import re
import string
from bisect import bisect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.rendering.lexicon import listed, word_tiers
from data_pipelines.rendering.shaping import is_mark, letters_of

Split = Literal["train", "validation"]
T = TypeVar("T")
Draw = Callable[[np.random.Generator], str]

VALIDATION_SHARE = 1 / 20
"""The share of all texts that only the validation split may show."""

_TIER_SHARES = (0.22, 0.45, 0.26, 0.07)
# As in the labels of some 7,000 words of street scenes.
_CASES: tuple[tuple[Callable[[str], str], float], ...] = ((str.lower, 0.19), (str.capitalize, 0.28), (str.upper, 0.53))
_ALPHABET = string.ascii_lowercase
_TRIES = 400
_ONSETS = (*listed("b bl br c ch cl cr d dr f fl fr g gl gr h j k kl kn l m n p ph pl pr qu r s sc sh"), "", "")
_ONSETS += (*listed("sk sl sm sn sp st str sw t th tr tw v w wh x y z"), "", "")
_NUCLEI = listed("a e i o u a e i o u a e i o ai au ay ea ee ei eu ie oa oi oo ou oy y")
_CODAS = listed("b c ck d f ff g ght k l ll ld lt m mp n nd ng nk nt p r rd rk rm rn rt s ss st t th tt w x z")
_CODAS += ("",) * 14
_DOMAINS = listed("com net org co.uk de fr io info eu sg cn nl ca")
_MONTHS = listed("jan feb mar apr may jun jul aug sep oct nov dec")
_PUNCTUATION = listed("""{}, {}. {}! {}: {}? "{}" "{} {}" '{} ({}) {}... {}'s - &""")
_UNITS = listed("% % % % % % % % kg g ml cl L km m mm cm W V mph am pm h + °")


def in_split(text: str, split: Split) -> bool:
    """Whether ``split`` may show ``text``. Depends only on its letters and digits, whatever their case: ``Sale!`` and
    ``SALE`` are on the same side. A text without any is judged by itself.
    """
    core = re.sub(r"[\W_]", "", text.casefold()) or text
    hashed = int.from_bytes(hashlib.blake2b(core.encode(), digest_size=4).digest(), "little")
    return (hashed < VALIDATION_SHARE * 2**32) == (split == "validation")


def pick(rng: np.random.Generator, items: Sequence[T]) -> T:
    """One of ``items``, each as likely (``rng.choice`` is twenty times slower on a scalar)."""
    return items[int(rng.random() * len(items))]


def _digits(rng: np.random.Generator, low: int, high: int) -> str:
    """A number of ``low`` to ``high`` digits; only zero itself starts with a zero."""
    n = int(rng.integers(low, high + 1))
    return str(int(rng.integers(10 ** (n - 1) if n > 1 else 0, 10**n)))


def _drawer_of_words(allowed: frozenset[str], low: int, high: int, tiers: Sequence[Sequence[str]]) -> Draw:
    """What draws dictionary words of ``low`` to ``high`` letters that ``allowed`` can spell, or "" without any."""
    choices: list[tuple[Sequence[str], Callable[[str], str]]] = []
    shares: list[float] = []
    for tier, tier_share in zip(tiers, _TIER_SHARES, strict=True):
        sized = [word for word in tier if low <= len(word) <= high]
        for change_case, case_share in _CASES:
            # An alphabet with all letters allows all words; one list then serves all cases.
            everything = allowed.issuperset(change_case(_ALPHABET)) and allowed.issuperset(_ALPHABET)
            words = sized if everything else [word for word in sized if allowed.issuperset(change_case(word))]
            if words:
                choices.append((words, change_case))
                shares.append(tier_share * case_share)
    cumulative = list(itertools.accumulate(shares))

    def draw(rng: np.random.Generator) -> str:
        if not choices:
            return ""
        words, change_case = choices[bisect(cumulative, rng.random() * cumulative[-1])]
        word = pick(rng, words)
        if rng.random() < 0.4:  # Dictionaries are full of long words, and signs of short ones.
            word = min(word, pick(rng, words), key=len)
        return change_case(word)

    return draw


class Texts:
    """Draws labels of ``min_length`` to ``max_length`` characters, all from ``characters``, of one split.

    Its words come from the file ``words``, or from dictionaries where it is None. Marks (accents, vowel signs) stand
    only where some word has them: which letter takes which is a matter of spelling. Raises ``DataError`` where no such
    text exists, or no word has a mark.
    """

    def __init__(self, characters: str, min_length: int, max_length: int, split: Split, words: Path | None) -> None:
        self._allowed = frozenset(characters)
        self._min, self._max, self._split = min_length, max_length, split
        tiers = word_tiers(words)
        # Sorted, so that the order in which a user lists the characters changes nothing. A space only joins two words.
        drawable = sorted(c for c in self._allowed if not c.isspace() and not is_mark(c)) + self._marked(tiers)
        if not drawable or not 1 <= min_length <= max_length:
            raise DataError(
                f"rendered words: no text of {min_length} to {max_length} characters can be made of {characters!r}; "
                "check characters, min_length and max_length"
            )
        self._drawable = drawable
        self._alphanumeric = [c for c in drawable if c[0].isalnum()] or drawable
        self._symbols = [c for c in drawable if not c[0].isalnum()] or drawable
        self._letters = [c for c in drawable if c[0].isalpha()] or drawable
        self._capitals = [c for c in drawable if c.isupper()] or self._letters
        self._numerals = [c for c in drawable if c.isdecimal()] or drawable
        self._word = _drawer_of_words(self._allowed, min_length, max_length, tiers)
        self._part = _drawer_of_words(self._allowed, 1, max(1, max_length - 1), tiers)
        self._fallback = self._some_texts()
        if not self._fallback:
            raise DataError(
                f"rendered words: no text of {min_length} to {max_length} characters of {characters!r} belongs to the "
                f"{split} split; allow more characters or greater lengths"
            )
        self._kinds, self._shares = self._feasible_kinds()

    def _marked(self, tiers: Sequence[Sequence[str]]) -> list[str]:
        """Letters with marks, as words have them. Raises ``DataError`` for marks that no word has."""
        marks = set(filter(is_mark, self._allowed))
        if not marks:
            return []
        words = (word for tier in tiers for word in tier if not marks.isdisjoint(word))
        letters = {letter for word in words for letter in letters_of(word)}
        found = sorted(letter for letter in letters if len(letter) > 1 and self._allowed.issuperset(letter))
        if lacking := "".join(sorted(marks.difference(*found))):
            raise DataError(
                f"rendered words: no word of `words` has the marks {lacking!r} of `characters`: give words of that "
                "language, write letters that exist with their mark as one so in `characters`, or leave the marks out"
            )
        return found

    def draw(self, rng: np.random.Generator) -> str:
        """One label: about 15 us in the training split, 20 times that in the small validation split."""
        kind = self._kinds[bisect(self._shares, rng.random() * self._shares[-1])]
        for _ in range(_TRIES):
            text = kind(rng)
            if self._fits(text) and in_split(text, self._split):
                return text
        return pick(rng, self._fallback)

    def _fits(self, text: str) -> bool:
        return self._min <= len(text) <= self._max and self._allowed.issuperset(text)

    def _some_texts(self) -> list[str]:
        """Texts to fall back on, and the proof that there are any.

        2,000 draws find nearly all of a small set of strings, and some of any large one.
        """
        rng = np.random.default_rng(0)
        lengths = rng.integers(self._min, self._max + 1, size=2000)
        candidates = ("".join(pick(rng, self._alphanumeric) for _ in range(n)) for n in lengths)
        return sorted({text for text in candidates if self._fits(text) and in_split(text, self._split)})

    def _feasible_kinds(self) -> tuple[Sequence[Draw], list[float]]:
        """The kinds of text that the characters and lengths often allow, and their cumulative shares."""
        rng, often = np.random.default_rng(0), []
        for kind, share in (
            (self._word, 0.505),
            (self._punctuated, 0.075),
            (self._several_words, 0.1),
            (self._pseudo_word, 0.06),
            (self._brand, 0.02),
            (self._number, 0.08),
            (self._price, 0.02),
            (self._date, 0.015),
            (self._time, 0.015),
            (self._quantity, 0.03),
            (self._code, 0.035),
            (self._address, 0.015),
            (self._random_string, 0.03),
        ):
            texts = [text for text in (kind(rng) for _ in range(_TRIES)) if self._fits(text)]
            if len(texts) > 0.08 * _TRIES and any(in_split(text, self._split) for text in texts):
                often.append((kind, share))
        kinds, shares = zip(*often or [(lambda rng: pick(rng, self._fallback), 1.0)], strict=True)
        return kinds, list(itertools.accumulate(shares))

    # Every method below makes one kind of text. It may break the limits on characters and length, as draw() tries
    # again, and returns "" where the alphabet has nothing for it.

    def _punctuated(self, rng: np.random.Generator) -> str:
        word = self._part(rng)
        if rng.random() < 0.3:  # Any symbol at all, so that none is rare.
            symbol = pick(rng, self._symbols)
            return symbol + word if rng.random() < 0.4 else word + symbol
        form = pick(rng, _PUNCTUATION)
        if form == "-":
            return f"{word}-{self._part(rng)}"
        if form == "&":
            return f"{pick(rng, self._capitals)}&{pick(rng, self._capitals)}"
        return form.format(word) if form != "{}'s" or not word.isupper() else f"{word}'S"

    def _several_words(self, rng: np.random.Generator) -> str:
        text = f"{self._part(rng)} {self._number(rng) if rng.random() < 0.15 else self._part(rng)}"
        return f"{text} {self._part(rng)}" if rng.random() < 0.3 else text

    def _brand(self, rng: np.random.Generator) -> str:
        """Names that mix cases: ``FairPrice``, ``McCarthy``, ``prettyFIT``, ``dENiZEN``."""
        u, part = rng.random(), self._part(rng)
        if u < 0.5:
            return part.capitalize() + self._part(rng).capitalize()
        if u < 0.7:
            return pick(rng, ("Mc", "Mac", "De", "i", "e", "O'")) + part.capitalize()
        if u < 0.85:
            return part.lower() + self._part(rng).upper()
        return "".join(c.upper() if rng.random() < 0.5 else c.lower() for c in part)

    def _pseudo_word(self, rng: np.random.Generator) -> str:
        """Syllables that mean nothing, or a word with one wrong letter: a reader must not trust its dictionary."""
        if rng.random() < 0.3 and (word := self._word(rng)):
            letters = letters_of(word)
            at = int(rng.integers(len(letters)))
            letter = pick(rng, self._letters)
            letters[at] = letter.upper() if letters[at].isupper() else letter.lower()
            return "".join(letters)
        syllables = range(int(rng.integers(1, 4)))
        word = "".join(pick(rng, _ONSETS) + pick(rng, _NUCLEI) + pick(rng, _CODAS) for _ in syllables)
        return self._any_case(word, rng)

    def _any_case(self, word: str, rng: np.random.Generator) -> str:
        """``word`` in a case that the alphabet can spell, where there is one."""
        u = rng.random()
        forms = (word, word.capitalize(), word.upper())
        first = 0 if u < 0.4 else 1 if u < 0.65 else 2
        return next(filter(self._allowed.issuperset, (forms[first], *forms)), "")

    def _number(self, rng: np.random.Generator) -> str:
        u = rng.random()
        if u < 0.65:
            return _digits(rng, 1, 4)
        if u < 0.8:
            return "".join(pick(rng, self._numerals) for _ in range(int(rng.integers(2, 11))))
        if u < 0.9:
            return f"{_digits(rng, 4, 7)}" if u < 0.82 else f"{int(rng.integers(1000, 10**6)):,}"
        if u < 0.95:
            return f"{_digits(rng, 2, 4)}-{_digits(rng, 2, 4)}"
        return f"{'#' if u < 0.97 else 'No.'}{_digits(rng, 1, 3)}"

    def _price(self, rng: np.random.Generator) -> str:
        amount = _digits(rng, 1, 3)
        cents = pick(rng, ("", ".99", ".50", ".00", ",-", ".95", f".{int(rng.integers(10, 100))}"))
        return f"{pick(rng, ('$', '$', '', '', '£', '€', 'US$', 'Rs.'))}{amount}{cents}"

    def _date(self, rng: np.random.Generator) -> str:
        day, month, year = int(rng.integers(1, 32)), int(rng.integers(1, 13)), int(rng.integers(1900, 2031))
        name = self._any_case(_MONTHS[month - 1], rng)
        forms = [f"{day}/{month}", f"{day:02}.{month:02}.{year}", f"{year}-{month:02}-{day:02}"]
        forms += [f"{month}/{day}/{year % 100:02}", f"{year}", f"{day}{name}", f"{name}-{year % 100:02}"]
        return pick(rng, [*forms, f"'{year % 100:02}", f"{year}s"])

    def _time(self, rng: np.random.Generator) -> str:
        hour, minute = int(rng.integers(24)), 5 * int(rng.integers(12))
        half = pick(rng, ("am", "pm", "AM", "PM"))
        start, end = sorted(int(n) for n in rng.integers(1, 13, size=2))
        forms = (f"{hour}:{minute:02}", f"{hour:02}:{minute:02}", f"{start}{half}", f"{start}-{end}{half}")
        return pick(rng, (*forms, f"{start}.{minute:02}{half}", f"{hour:02}h{minute:02}"))

    def _quantity(self, rng: np.random.Generator) -> str:
        amount = _digits(rng, 1, 3) if rng.random() < 0.8 else f"{_digits(rng, 1, 2)}.{int(rng.integers(10))}"
        sign = "-" if rng.random() < 0.1 else ""
        return f"{sign}{amount}{pick(rng, _UNITS)}"

    def _code(self, rng: np.random.Generator) -> str:
        """Plates, part numbers, post codes: runs of capitals and digits."""
        text = ""
        letters = rng.random() < 0.6
        for _ in range(int(rng.integers(2, 5))):
            alphabet = self._capitals if letters else self._numerals
            text += "".join(pick(rng, alphabet) for _ in range(int(rng.integers(1, 4))))
            letters = not letters
        at = int(rng.integers(1, len(text)))
        return f"{text[:at]}-{text[at:]}" if rng.random() < 0.15 else text

    def _address(self, rng: np.random.Generator) -> str:
        site = f"{self._part(rng).lower()}.{pick(rng, _DOMAINS)}"
        u = rng.random()
        if u < 0.4:
            text = f"www.{site}"
        elif u < 0.6:
            text = f"{pick(rng, ('info', 'sales', 'mail', self._part(rng).lower()))}@{site}"
        elif u < 0.7:
            text = f"@{self._part(rng).lower()}"
        elif u < 0.8:
            text = f"#{self._part(rng)}"
        else:
            text = site if u < 0.9 else f"/{self._part(rng).lower()}"
        return text if u < 0.95 else text.upper()

    def _random_string(self, rng: np.random.Generator) -> str:
        """Letters and digits with some of everything else, never only punctuation where there is a choice."""
        n = int(rng.integers(self._min, min(self._max, self._min + 9) + 1))
        u = rng.random()
        alphabet = self._drawable if u < 0.25 else self._alphanumeric if u < 0.5 else self._letters
        text = [pick(rng, alphabet) for _ in range(n)]
        text[int(rng.integers(n))] = pick(rng, self._alphanumeric)
        return "".join(text)
