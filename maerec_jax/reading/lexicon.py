"""Lexicons: the words that may be read, one list for all images or one for each, as tries for ``beam_read``."""

import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.charset import Charset
from data_pipelines.errors import UserError
from maerec_jax.models.trie import Trie, build_trie

_CODE_POINTS = 0x110000
_SHOWN = 3  # words that messages name


@dataclass(frozen=True)
class WordList:
    """Words that may be read in an image, or in all."""

    words: Sequence[str]
    """The words. Of those that are the same but for case, where case is ignored, the first is read."""
    places: Sequence[str] = ()
    """Where each word stands, or all of them, for messages: "words.txt:12"."""
    of: str = ""
    """What the list is for, for messages, where there are no places."""

    def place(self, number: int) -> str:
        """Where word ``number`` stands."""
        if not self.places:
            return f"word {number + 1}{self.of}"
        return self.places[number if len(self.places) > 1 else 0]


@dataclass(frozen=True)
class Lexicon:
    """The words that may be read.

    Words that cannot be written, since they have characters outside the charset or are too long, are left out and told.
    """

    trie: Trie
    """The tries of all lists, NumPy arrays."""
    words: Sequence[str] = field(repr=False)
    """The different words of all lists; ``Trie.word`` counts them."""
    roots: Mapping[str, int] | None = field(default=None, repr=False)
    """The root of each file's list; None where one list, whose root is 0, is for all files."""
    source: str = "the lexicon"
    """Where the words come from, for messages."""
    left_out: int = 0
    """Number of words that cannot be written."""

    @classmethod
    def of(
        cls,
        words: Iterable[str] | Mapping[str, Iterable[str]],
        charset: Charset,
        longest: int,
        ignore_case: bool = True,
        tell: Callable[[str], Any] = warnings.warn,
    ) -> "Lexicon":
        """A lexicon of the words given: one list for all images, or a list for each file name.

        Args:
          words: the words.
          charset: the characters that can be read.
          longest: the most characters of a word. A recogniser was trained with up to ``max_length - 2``; one more can
            be written.
          ignore_case: allow each character in any case on the way; what is read is spelt as in the list.
          tell: called with one line where words are left out.

        Raises:
          UserError: where a list has no word that can be written.
        """
        lists = words if isinstance(words, Mapping) else {"": words}
        if any(isinstance(some, str) for some in lists.values()):
            raise TypeError("a lexicon has several words: put a single one into a list")
        lists = {name: list(some) for name, some in lists.items()}
        for word in (word for some in lists.values() for word in some):
            if not isinstance(word, str):
                raise TypeError(f"a word of a lexicon is a str, not {type(word).__name__}: {word!r}")
        return cls._build(
            {name: WordList(some, of=f" for {name}" if name else "") for name, some in lists.items()},
            isinstance(words, Mapping),
            "the lexicon",
            charset,
            longest,
            ignore_case,
            tell,
        )

    @classmethod
    def read(
        cls,
        path: str | Path,
        charset: Charset,
        longest: int,
        ignore_case: bool = True,
        tell: Callable[[str], Any] = warnings.warn,
    ) -> "Lexicon":
        """Read a lexicon from a file, which is UTF-8; the other arguments are those of ``of``.

        - ``.txt``: a word a line, for all images. Spaces around it are dropped, and empty lines skipped.
        - ``.jsonl``: ``{"file": "1.png", "words": ["one", "two"]}`` a line, the list of each image.

        Raises:
          UserError: where the file cannot be read, or has a list without a word that can be written.
        """
        path = Path(path)
        readers = {".txt": _words_of_lines, ".jsonl": _lists_of_json}
        if path.suffix not in readers:
            raise UserError(f"{path}: a lexicon is a .txt with a word a line, or a .jsonl with the words of each image")
        try:
            text = path.read_text("utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: a lexicon must be UTF-8, but byte {error.start} is not") from None
        except OSError as error:
            raise UserError(f"cannot read the lexicon {path}: {error.strerror}") from None
        lists = readers[path.suffix](path, text)
        return cls._build(lists, path.suffix == ".jsonl", str(path), charset, longest, ignore_case, tell)

    @classmethod
    def _build(
        cls,
        lists: Mapping[str, WordList],
        per_file: bool,
        source: str,
        charset: Charset,
        longest: int,
        ignore_case: bool,
        tell: Callable[[str], Any],
    ) -> "Lexicon":
        if not lists:
            raise UserError(f"{source} has no words")
        numbers: dict[str, int] = {}
        word_E = np.array(
            [numbers.setdefault(w, len(numbers)) for some in lists.values() for w in some.words], np.int64
        )
        sizes = np.array([len(some.words) for some in lists.values()])
        list_E = np.repeat(np.arange(len(lists)), sizes)
        words = list(numbers)
        fold = _folded(charset, ignore_case)
        labels_UL, length_U = _labels(words, charset, fold, longest, ignore_case)
        kept_E = length_U[word_E] > 0

        def why(entry: int) -> str:
            word, number = words[word_E[entry]], int(entry - sizes[: list_E[entry]].sum())
            place = list(lists.values())[list_E[entry]].place(number)
            return f"{place}: {word[:80]!r} {_obstacle(word, charset, fold, longest, ignore_case)}"

        without = np.flatnonzero(np.bincount(list_E[kept_E], minlength=len(lists)) == 0)
        if len(without):
            of = f" for {list(lists)[without[0]]}" if per_file else ""
            if not sizes[without[0]]:
                raise UserError(f"{source} has no words{of}")
            first = int(np.flatnonzero(list_E == without[0])[0])
            raise UserError(f"{source}: none of the words{of} can be written; the first, {why(first)}")
        refused = np.flatnonzero(~kept_E)
        if len(refused):
            shown = np.sort(np.unique(word_E[refused], return_index=True)[1])  # each word once
            some = "; ".join(why(entry) for entry in refused[shown[:_SHOWN]])
            more = "; ..." if len(shown) > _SHOWN else ""
            tell(
                f"{source}: {len(refused):,} of {len(word_E):,} words cannot be written and are left out: {some}{more}"
            )
        trie = build_trie(list_E[kept_E], word_E[kept_E], labels_UL, length_U, len(lists), fold)
        roots = {name: root for root, name in enumerate(lists)} if per_file else None
        return cls(trie, words, roots, source, len(refused))

    def root_of(self, file_name: str) -> int:
        """The root of an image's list, for ``beam_read``.

        Raises:
          UserError: where each file has a list, but not this one.
        """
        if self.roots is None:
            return 0
        if file_name not in self.roots:
            example = next(iter(self.roots))
            which = file_name or "an image without a name"
            raise UserError(f"{self.source} has no words for {which}; its files are named like {example}")
        return self.roots[file_name]

    def word(self, node: int) -> str:
        """The word that ends at a node, as the lexicon spells it: what a hypothesis of ``beam_read`` reads.

        Raises:
          ValueError: where no word ends; check first that the hypothesis exists (its score is not -inf).
        """
        number = int(self.trie.word[node])
        if number < 0:
            raise ValueError(f"no word ends at node {node}")
        return self.words[number]


def _words_of_lines(path: Path, text: str) -> dict[str, WordList]:
    found = [(line.strip(), number) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    return {"": WordList([word for word, _ in found], [f"{path}:{number}" for _, number in found])}


def _lists_of_json(path: Path, text: str) -> dict[str, WordList]:
    lists: dict[str, WordList] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            raise UserError(f"{place} is no JSON") from None
        name, words = (entry.get("file"), entry.get("words")) if isinstance(entry, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(words, list) or not all(isinstance(w, str) for w in words):
            raise UserError(f'{place}: expected {{"file": "1.png", "words": ["one", "two"]}}')
        if name in lists:
            raise UserError(f"{place}: {name} has a list already, at {lists[name].place(0)}")
        if not words:
            raise UserError(f"{place}: no words for {name}")
        lists[name] = WordList(words, [place])
    return lists


def _folded(charset: Charset, ignore_case: bool) -> np.ndarray:
    """The class that stands for each class: where case is ignored, the first of the character's cases."""
    fold = np.arange(charset.n_classes, dtype=np.int32)
    first: dict[str, int] = {}
    for number, character in enumerate(charset.characters if ignore_case else ""):
        fold[number] = first.setdefault(character.lower(), number)
    return fold


def _character_classes(characters: Iterable[str], charset: Charset, fold: np.ndarray, ignore_case: bool) -> list[int]:
    """The folded class of each character, or -1. One that is in the charset in another case only counts as that."""
    cases = {(c.lower() if ignore_case else c): int(fold[number]) for number, c in enumerate(charset.characters)}
    return [cases.get(c.lower() if ignore_case else c, -1) for c in characters]


def _obstacle(word: str, charset: Charset, fold: np.ndarray, longest: int, ignore_case: bool) -> str:
    """Why a word cannot be written."""
    if not word:
        return "is empty"
    outside = [c for c in dict.fromkeys(word) if _character_classes([c], charset, fold, ignore_case) == [-1]]
    if outside:
        return f"has {', '.join(map(repr, outside[:8]))} outside the charset"
    return f"is longer than {longest} characters"


def _labels(
    words: Sequence[str], charset: Charset, fold: np.ndarray, longest: int, ignore_case: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Folded classes of U words, one more than the class with 0 after the end, (U, L); and lengths (U).

    The length of a word that cannot be written is 0.
    """
    length_U = np.fromiter(map(len, words), np.int64, len(words))
    points = np.frombuffer("".join(words).encode("utf-32-le", "surrogatepass"), np.uint32)
    seen = np.zeros(_CODE_POINTS, bool)
    seen[points] = True
    codes = np.flatnonzero(seen)
    table = np.zeros(_CODE_POINTS, np.min_scalar_type(charset.n_classes))
    table[codes] = np.array(_character_classes(map(chr, codes), charset, fold, ignore_case), int) + 1
    label_P = table[points]

    end_U = np.cumsum(length_U)
    outside_P = np.concatenate([[0], np.cumsum(label_P == 0)])
    kept_U = (length_U <= longest) & (outside_P[end_U] == outside_P[end_U - length_U])
    length_U = np.where(kept_U, length_U, 0)
    place_L = np.arange(length_U.max(initial=1))
    labels_UL = np.zeros((len(words), len(place_L)), table.dtype)
    first_U = end_U - length_U
    for place in place_L:
        there = np.flatnonzero(length_U > place)
        labels_UL[there, place] = label_P[first_U[there] + place]
    return labels_UL, length_U
