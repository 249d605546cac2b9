"""Writing whose letters cannot be drawn one by one: they join, stand on each other, or run from right to left."""

import unicodedata
from collections.abc import Iterable

from PIL import features

# Letters that join although they run from left to right: conjoining Jamo, Mongolian, Phags-pa.
_JOINING = ((0x1100, 0x11FF), (0x1800, 0x18AF), (0xA840, 0xA87F), (0xA960, 0xA97F), (0xD7B0, 0xD7FF))
_FROM_THE_RIGHT = ("R", "AL", "AN")  # Unicode's classes of letters and digits


def has_shaper() -> bool:
    """Whether Pillow can shape: it needs Raqm, which its packages contain, and FriBiDi."""
    return bool(features.check("raqm"))


def is_mark(character: str) -> bool:
    """Whether a character is drawn on the one before it, or only says how that one joins."""
    return unicodedata.category(character) in ("Mn", "Mc", "Me", "Cf")


def needs_shaping(text: str) -> bool:
    """Whether a text has to be drawn as a whole, by a shaper."""
    return not text.isascii() and any(map(_is_shaped, text))


def _is_shaped(character: str) -> bool:
    if is_mark(character) or unicodedata.bidirectional(character) in _FROM_THE_RIGHT:
        return True
    return any(first <= ord(character) <= last for first, last in _JOINING)


def letters_of(text: str) -> list[str]:
    """The characters of a text, each with the marks that follow it."""
    letters: list[str] = []
    for character in text:
        if letters and is_mark(character):
            letters[-1] += character
        else:
            letters.append(character)
    return letters


def shaped_in(characters: Iterable[str]) -> str:
    """Those of some characters that need shaping."""
    return "".join(filter(_is_shaped, characters))
