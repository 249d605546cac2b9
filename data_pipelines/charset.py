"""Text to class ids and back, in one Unicode form."""

import re
import string
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

UNKNOWN_TEXT = "<UKN>"
"""What an unknown character reads as, like in the reference implementation."""

MAEREC_CHARACTERS = string.digits + string.ascii_letters + "!\"#$%&'()*+,-./:;<=>?@[\\]_`~ "
"""The 91 characters of the published recognisers, in the order of their classes."""

_SYMBOLS = re.compile("[^A-Z^a-z0-9\u4e00-\u9fa5]")


def composed(text: str) -> str:
    """A text in Unicode's composed form (NFC): each letter one character with its marks, where there is such a one.

    The form of all labels, lexicons and readings: texts that are the same but for their form are the same text.
    """
    return unicodedata.normalize("NFC", text)


def without_symbols(text: str) -> str:
    """Lower-cased, with only ASCII letters, digits, carets (as the reference has it) and CJK U+4E00-U+9FA5 kept: what
    WAICS compares."""
    lowered = text.lower()
    return lowered if lowered.isascii() and lowered.isalnum() else _SYMBOLS.sub("", lowered)  # most have no symbols


def _joined(pieces: Iterable[str]) -> list[tuple[str, int]]:
    """Characters, marks joined to the letter before them where both are one character; and the place of the last part
    of each."""
    joined: list[tuple[str, int]] = []
    for place, piece in enumerate(pieces):
        if joined and not piece.isascii() and len(whole := composed(joined[-1][0] + piece)) == 1:
            joined[-1] = whole, place
        else:
            joined.append((piece, place))
    return joined


def _is_part(character: str) -> bool:
    """Whether it is a mark, or a Hangul vowel or final, which belongs to what stands before it."""
    return unicodedata.combining(character) != 0 or "\u1160" <= character <= "\u11ff"


@cache
def _letters_of_parts() -> dict[str, str]:
    """Letters that can be written in parts: Latin to kana, and Hangul; and their parts."""
    letters = map(chr, chain(range(0xC0, 0x3100), range(0xAC00, 0xD7A4)))
    parts = ((c, unicodedata.normalize("NFD", c)) for c in letters if composed(c) == c)
    return {c: apart for c, apart in parts if apart != c}


_warn = partial(warnings.warn, stacklevel=3)  # as of the line that asks for a charset


def characters_of_file(path: str | Path, tell: Callable[[str], Any] = _warn) -> str:
    """The characters that ``Charset.from_file`` reads; raises what it does."""
    try:
        text = Path(path).read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error.reason})") from error
    lines = text.rstrip("\n").split("\n")  # reading has made all ends of lines \n
    if len(lines) == 1:
        found = [(c, f"{path}:1, character {place + 1}") for c, place in _joined(lines[0])]
        # Letters and marks, each once and in any order: some stand beside each other by chance.
        if len(set(lines[0])) == len(lines[0]) and any(_is_part(c) for c, _ in found):
            return lines[0]
    else:
        places = (f"{path}:{number}" for number in range(1, len(lines) + 1))
        found = [(_only(line, place), place) for line, place in zip(lines, places, strict=True)]
    first: dict[str, str] = {}
    for character, place in found:
        if character in first:
            raise ValueError(f"{place}: {character!r} is there already, at {first[character]}: give it once")
        first[character] = place
    characters = "".join(first)
    if changed := len(first) - len(set(characters).intersection(text)):
        tell(f"{path}: {changed:,} characters in decomposed Unicode form (NFD) are taken as composed ones (NFC)")
    return characters


def _only(line: str, where: str) -> str:
    """The character of a line. Raises ``ValueError`` where there is none or are several."""
    found = [c for c, _ in _joined(line)]
    if len(found) == 1:
        return found[0]
    problem = f"{where}: {line!r} is not one character"
    if len(found) > 1 and all(map(_is_part, found[1:])):
        several = ", ".join(f"U+{ord(c):04X}" for c in found)
        problem += f" but {len(found)}, for which Unicode has no single one: give {several} each once, in its own line"
    raise ValueError(problem)


@dataclass(frozen=True)
class Charset:
    """The characters that a recogniser can read; after them come the start/end, padding and unknown classes.

    Texts are composed (NFC), whatever form they are given in. A charset may have letters and marks apart: a letter that
    it lacks, but whose parts it has, is written in parts, and read as one character.
    """

    characters: str = MAEREC_CHARACTERS
    """The characters, in the order of their classes."""
    lower_case: bool = False
    """Texts are written in lower case: labels with capitals are learnt as their small letters."""

    def __post_init__(self) -> None:
        twice = sorted({c for c in self.characters if self.characters.count(c) > 1})
        if twice:  # letters with marks that an editor has saved apart repeat the letters
            whole = "".join(c for c, _ in _joined(self.characters))
            if len(set(whole)) == len(whole):
                object.__setattr__(self, "characters", whole)
                twice = []
        if twice or not self.characters:
            raise ValueError(f"a charset needs each character once, but {twice or 'it is empty'}")
        if self.lower_case and (capitals := [c for c in self.characters if c.lower() != c]):
            raise ValueError(f"a charset in lower case has no capitals, but {capitals}")

    @classmethod
    def from_file(cls, path: str | Path, tell: Callable[[str], Any] = _warn) -> "Charset":
        """The charset in a UTF-8 text file: all characters in one line, or one a line.

        Letters whose marks stand apart (NFD) are taken as composed ones (NFC); ``tell`` is called with a line that says
        how many.

        Raises:
          ValueError: naming the line, for a file that is neither; for one that is not UTF-8 or has a character twice.
          OSError: where it cannot be read.
        """
        return cls(characters_of_file(path, tell))

    @property
    def written(self) -> str:
        """All characters of composed texts that are written in those of the charset: these themselves, letters of
        which it has the parts, and capitals in lower case."""
        letters = "".join(dict.fromkeys(map(composed, self.characters)))
        if not letters.isascii():
            known = set(self.characters)
            letters += "".join(
                c for c, parts in _letters_of_parts().items() if c not in letters and known.issuperset(parts)
            )
        if not self.lower_case:
            return letters
        return letters + "".join(c.upper() for c in letters if c.upper().lower() == c != c.upper())

    @cached_property
    def _others(self) -> dict[str, str]:
        """Composed texts of characters that are not composed: the ångström sign is Å, and some Indic letters two."""
        return {form: c for c in self.characters if (form := composed(c)) != c}

    def spell(self, text: str) -> str:
        """The same text in the characters of the charset; what it cannot write is left as it is, composed."""
        text = composed(text)
        if all(c in self.characters for c in text):
            return text
        for form, character in self._others.items():
            if form not in self.characters:
                text = text.replace(form, character)
        return "".join(c if c in self.characters else self._in_parts(c) for c in text)

    def _in_parts(self, character: str) -> str:
        parts = unicodedata.normalize("NFD", character)
        return parts if all(part in self.characters for part in parts) else character

    @property
    def start_end(self) -> int:
        """Class of the start of a text, and of its end."""
        return len(self.characters)

    @property
    def padding(self) -> int:
        """Class of the places after the end."""
        return len(self.characters) + 1

    @property
    def unknown(self) -> int:
        """Class of every character outside the charset."""
        return len(self.characters) + 2

    @property
    def n_classes(self) -> int:
        """Number of classes, the three special ones included."""
        return len(self.characters) + 3

    def encode(self, text: str, length: int) -> np.ndarray:
        """[start, characters..., end], cut or padded to int32 (length,)."""
        text = self.spell(text.lower() if self.lower_case else text)
        # A search through a hundred characters is no slower than hashing them, and needs no table beside the field.
        found = [self.characters.find(c) for c in text[:length]]
        ids = [self.start_end, *(self.unknown if i < 0 else i for i in found), self.start_end][:length]
        return np.array(ids + [self.padding] * (length - len(ids)), np.int32)

    def decode(self, ids: Sequence[int] | np.ndarray) -> tuple[str, np.ndarray]:
        """Read class ids, int (length,) without the start token: padding is skipped, the first end token ends the text.

        Returns the text, composed, and the places in ``ids`` of its characters, int (characters,). A letter that is
        written in parts has the place of its last part.
        """
        pieces: list[str] = []
        places: list[int] = []
        for place, i in enumerate(np.asarray(ids).tolist()):
            if i == self.start_end:
                break
            if i != self.padding:
                read = (UNKNOWN_TEXT,) if i == self.unknown else composed(self.characters[i])
                pieces += read
                places += [place] * len(read)
        joined = _joined(pieces)
        return "".join(piece for piece, _ in joined), np.array([places[last] for _, last in joined], int)
