"""English words in four tiers, from those that signs show to those that only dictionaries know."""

import re
from collections import Counter
from functools import lru_cache
from pathlib import Path

from english_words import get_english_words_set

from data_pipelines.charset import composed
from data_pipelines.errors import DataError


def listed(words: str) -> tuple[str, ...]:
    """The words of a blank-separated list."""
    return tuple(words.split())


SIGNS = listed((Path(__file__).parent / "signs.txt").read_text(encoding="utf-8"))
"""Words that signs, packages and screens show often. Written for this project."""


_EVERYDAY, _KNOWN = 3_000, 20_000  # ranks of the last everyday and the last known word of a long list


def _ranked(file: Path) -> tuple[tuple[str, ...], ...]:
    """The words of a file with the most frequent first, as (everyday, known, obscure)."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot read this list of words: {error}; check `words`") from None
    words = tuple(dict.fromkeys(composed(line.strip().lower()) for line in lines if line.strip()))
    if len(words) < 3:
        raise DataError(f"{file}: {len(words)} words are too few; `words` names a text file with a word a line")
    everyday = max(1, min(_EVERYDAY, len(words) // 3))
    known = max(everyday + 1, min(_KNOWN, 2 * len(words) // 3))
    return words[:everyday], words[everyday:known], words[known:]


def _inflected(word: str) -> list[str]:
    """The regular forms that dictionaries leave out: ``offer`` -> ``offers``, ``offered``, ``offering``."""
    if len(word) < 3 or word.endswith(("s", "x", "z", "ing", "ed")):
        return []
    if word.endswith("y") and word[-2] not in "aeiou":
        return [word[:-1] + "ies", word[:-1] + "ied", word + "ing"]
    if word.endswith("e"):
        return [word + "s", word + "d", word[:-1] + "ing"]
    return [word + ("es" if word.endswith(("ch", "sh")) else "s"), word + "ed", word + "ing"]


@lru_cache(maxsize=4)
def word_tiers(file: Path | None = None) -> tuple[tuple[str, ...], ...]:
    """Lower-case words as (signs, everyday, known, obscure), in an order in which an index always means the same word.

    Those of ``file``, a word a line with the most frequent first, are everyday words, known or obscure by their place.
    Raises ``DataError`` where it cannot be read or holds less than three words.

    Without a file they come from dictionaries. These carry no frequencies. A dictionary's compounds ("water wheel",
    "high-tech") are a good stand-in: a part of several of them is an everyday word. Those parts and their regular
    inflections are ``everyday``; words that both dictionaries have are ``known``; the rest is ``obscure``. Takes about
    0.4 s, once a process.
    """
    if file is not None:
        return SIGNS, *_ranked(file)
    plain = re.compile("[a-z]+").fullmatch
    web2 = {word for word in get_english_words_set(["web2"], lower=True) if plain(word)}
    gcide = get_english_words_set(["gcide"], lower=True)
    parts = Counter(part for entry in gcide for part in re.findall("[a-z]+", entry) if len(part) < len(entry))
    base = {part for part, times in parts.items() if times > 1 and len(part) > 2 and part in web2}
    everyday = base.union(*(_inflected(word) for word in base if len(word) < 9))
    known = (web2 & gcide) - everyday
    obscure = {word for word in (web2 | gcide) - known - everyday if plain(word)}
    return SIGNS, *(tuple(sorted(words)) for words in (everyday, known, obscure))
