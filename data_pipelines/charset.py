"""Text to class ids and back."""

import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

UNKNOWN_TEXT = "<UKN>"
"""What an unknown character reads as, like in the reference implementation."""

MAEREC_CHARACTERS = string.digits + string.ascii_letters + "!\"#$%&'()*+,-./:;<=>?@[\\]_`~ "
"""The 91 characters of the published recognisers, in the order of their classes."""


def characters_of_file(path: str | Path) -> str:
    """The characters that ``Charset.from_file`` reads."""
    try:
        text = Path(path).read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error.reason})") from error
    lines = text.rstrip("\n").split("\n")  # reading has made all ends of lines \n
    if len(lines) == 1:
        return lines[0]
    for number, line in enumerate(lines, 1):
        if len(line) != 1:
            raise ValueError(f"{path}:{number}: {line!r} is not one character")
    return "".join(lines)


@dataclass(frozen=True)
class Charset:
    """The characters that a recogniser can read; after them come the start/end, padding and unknown classes."""

    characters: str = MAEREC_CHARACTERS
    """The characters, in the order of their classes."""
    lower_case: bool = False
    """Texts are written in lower case: labels with capitals are learnt as their small letters."""

    def __post_init__(self) -> None:
        twice = sorted({c for c in self.characters if self.characters.count(c) > 1})
        if twice or not self.characters:
            raise ValueError(f"a charset needs each character once, but {twice or 'it is empty'}")
        if self.lower_case and (capitals := [c for c in self.characters if c.lower() != c]):
            raise ValueError(f"a charset in lower case has no capitals, but {capitals}")

    @classmethod
    def from_file(cls, path: str | Path) -> "Charset":
        """The charset in a UTF-8 text file: all characters in one line, or one a line.

        Raises:
          ValueError: naming the line, for a file that is neither; for one that is not UTF-8 or has a character twice.
          OSError: where it cannot be read.
        """
        return cls(characters_of_file(path))

    @property
    def written(self) -> str:
        """All characters that are written as one of the charset: those themselves, and capitals in lower case."""
        if not self.lower_case:
            return self.characters
        return self.characters + "".join(c.upper() for c in self.characters if c.upper().lower() == c != c.upper())

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
        text = text.lower() if self.lower_case else text
        # A search through a hundred characters is no slower than hashing them, and needs no table beside the field.
        found = [self.characters.find(c) for c in text[:length]]
        ids = [self.start_end, *(self.unknown if i < 0 else i for i in found), self.start_end][:length]
        return np.array(ids + [self.padding] * (length - len(ids)), np.int32)

    def decode(self, ids: Sequence[int] | np.ndarray) -> tuple[str, np.ndarray]:
        """Read class ids, int (length,) without the start token: padding is skipped, the first end token ends the text.

        Returns the text, and the places in ``ids`` of its characters, int (characters,).
        """
        text, places = [], []
        for place, i in enumerate(np.asarray(ids).tolist()):
            if i == self.start_end:
                break
            if i != self.padding:
                text.append(UNKNOWN_TEXT if i == self.unknown else self.characters[i])
                places.append(place)
        return "".join(text), np.array(places, int)
