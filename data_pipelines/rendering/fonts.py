"""The fonts that pip packages and a folder offer, and the glyphs that each of them can really draw."""

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.metadata import distribution, entry_points
from pathlib import Path
from typing import NamedTuple
from unicodedata import category

import cv2
import numpy as np
from PIL import ImageFont

from data_pipelines.errors import DataError
from data_pipelines.rendering.shaping import has_shaper, shaped_in

CAPITAL_HEIGHT = 32
"""The height of a capital H in pixels in every mask: each font gets the one size that yields it (within 16 to 96)."""

_UNMAPPED = "\U0010fffe"  # A code point that no font may map: drawing it shows what the font draws for a missing one.
_CASE_PAIRS = "abdegnqrt"  # Letters whose two cases differ in shape, not only in size.
# A font of text has the letters of one of these: others hold symbols. Many alphabets come in fonts of their own.
_TEXT = (
    "AEHNORST 0123456789 ابتد אבגד कखगत কখগত ਕਖਗਤ કખગત கஙசத కఖగత ಕಖಗತ കഖഗത กขคง ກຂຄງ កខគង ကခဂင ཀཁགང "
    "бгдж βδλψ აბგდ բգդզ አበገደ あいうえ 가나다라 一二三四"
)


class Glyph(NamedTuple):
    """One character: its uint8 mask ``(h, w)``, the offset of that from the pen at the line's top, and its advance."""

    mask: np.ndarray
    left: int
    top: int
    advance: float


@dataclass(frozen=True)
class Face:
    """One font file, which is opened when first used."""

    path: Path
    family: str
    style: str

    @cached_property
    def _font(self) -> ImageFont.FreeTypeFont:
        probe = _open(self.path, 64)
        _, top, _, bottom = probe.getbbox("H")
        size = round(64 * CAPITAL_HEIGHT / max(bottom - top, 1))
        return _open(self.path, min(max(size, 16), 96))

    @cached_property
    def _shaping_font(self) -> ImageFont.FreeTypeFont:
        return ImageFont.truetype(str(self.path), self._font.size, layout_engine=ImageFont.Layout.RAQM)

    def glyph(self, text: str) -> Glyph:
        """The drawing of a character, or of a text that needs shaping; the font must have it.

        Of characters it is cached for all faces together.
        """
        if len(text) == 1:
            return _glyph(self, text)
        mask, (left, top) = _bitmap(self._shaping_font, text)
        return Glyph(mask, left, top, float(self._shaping_font.getlength(text)))

    def can_draw(self, text: str) -> bool:
        """Whether every character of ``text`` has its own visible drawing in this font."""
        return all(character == " " or category(character) == "Cf" or _has(self, character) for character in set(text))

    @cached_property
    def _missing(self) -> bytes:
        return _bitmap(self._font, _UNMAPPED)[0].tobytes()

    @cached_property
    def _one_case(self) -> bool:
        """Whether small letters are drawn as capitals, so that no reader could tell the case of the label."""
        alike = []
        for letter in _CASE_PAIRS:
            masks = [_bitmap(self._font, form)[0] for form in (letter, letter.upper())]
            if all(mask.size and mask.min() < mask.max() for mask in masks):  # A box has no shape to compare.
                # Blurred, so that a stroke counts as the same where it lies near, in thin and fat fonts alike.
                same_box = (cv2.resize(mask, (24, 24), interpolation=cv2.INTER_AREA) for mask in masks)
                small, capital = (cv2.GaussianBlur(mask, (0, 0), 2).ravel() for mask in same_box)
                alike.append(np.corrcoef(small, capital)[0, 1])
        # Small-capital fonts come to 0.9, fonts with two cases to 0.6 at most.
        return bool(alike) and float(np.mean(alike)) > 0.75


def open_face(path: Path) -> Face:
    """The face in a font file, under the names that it gives itself. Raises ``OSError`` or ``ValueError`` if broken."""
    family, style = _open(path, 16).getname()
    return Face(path, family or path.stem, style or "")


def _open(path: Path, size: int) -> ImageFont.FreeTypeFont:
    # The basic layout draws the same with every build of Pillow; letters are placed one by one anyway.
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


def _bitmap(font: ImageFont.FreeTypeFont, character: str) -> tuple[np.ndarray, tuple[int, int]]:
    """The uint8 mask ``(h, w)`` of ``character`` and its offset; empty where the font cannot draw it."""
    try:
        core, offset = font.getmask2(character, mode="L")
    except (OSError, ValueError, MemoryError):
        return np.zeros((0, 0), np.uint8), (0, 0)
    width, height = core.size
    return np.array(core, dtype=np.uint8).reshape(height, width), (int(offset[0]), int(offset[1]))


@lru_cache(maxsize=1 << 17)  # about 200 MB when full, with hundreds of fonts
def _glyph(face: Face, character: str) -> Glyph:
    mask, (left, top) = _bitmap(face._font, character)
    if character == " ":
        mask = mask[:0, :0]  # A font without a space would draw its box for missing characters.
    elif not mask.size:
        return Glyph(mask, left, top, 0.0)  # To ask for the width of what is broken would be an error.
    return Glyph(mask, left, top, float(face._font.getlength(character)))


@lru_cache(maxsize=1 << 17)
def _has(face: Face, character: str) -> bool:
    if character.islower() and face._one_case:
        return False
    mask = _glyph(face, character).mask  # which is kept: whoever asks is about to draw it
    # A font may map a character to nothing at all, and a broken one to something as large as a poster.
    usable = mask.size > 0 and mask.max() > 64 and max(mask.shape) < 6 * CAPITAL_HEIGHT
    return bool(usable) and mask.tobytes() != face._missing


class Fonts:
    """A set of faces, of which ``draw`` picks one that has all characters of a text."""

    def __init__(self, faces: Sequence[Face]) -> None:
        families: dict[str, list[Face]] = {}
        for face in faces:
            families.setdefault(face.family, []).append(face)
        self._families = list(families.values())
        self.faces = tuple(faces)

    def draw(self, text: str, rng: np.random.Generator) -> Face:
        """A face that can draw ``text``, of characters that ``check`` has passed.

        Every family is as likely, then every face of it.
        """
        for _ in range(4):
            family = self._families[int(rng.integers(len(self._families)))]
            face = family[int(rng.integers(len(family)))]
            if face.can_draw(text):
                return face
        able = [face for face in self.faces if face.can_draw(text)]
        return able[int(rng.integers(len(able)))]

    def check(self, characters: str) -> None:
        """Make sure that some face has all ``characters``, so that ``draw`` finds one for every text of them.

        Raises ``DataError`` where none has, which names what the best one lacks, and where they need shaping and Pillow
        cannot do that.
        """
        if (shaped := shaped_in(characters)) and not has_shaper():
            raise DataError(
                f"rendered words: {shaped[:20]!r} in `characters` join, stack or run from the right, which Pillow "
                "draws with Raqm and FriBiDi only: install FriBiDi (Debian: libfribidi0), or leave them out"
            )
        lacking = characters
        for face in self.faces:
            lacking = min(lacking, "".join(c for c in characters if not face.can_draw(c)), key=len)
            if not lacking:
                return
        raise DataError(
            f"rendered words: none of {len(self.faces)} fonts has all of `characters`, and the best one lacks "
            f"{lacking!r}: leave these out, or name a folder with a font that has them in `fonts`"
        )


def matplotlib_fonts() -> Path:
    """The folder of the fonts that Matplotlib brings. Found, not imported: that would take longer than all else."""
    return Path(str(distribution("matplotlib").locate_file("matplotlib/mpl-data/fonts/ttf")))


def _installed() -> list[Path]:
    """Font files of installed ``font-*`` packages, and the text fonts that Matplotlib brings."""
    paths = [Path(path) for entry in entry_points(group="fonts_ttf") for path in entry.load().values()]
    folder = matplotlib_fonts()
    # Its other fonts hold mathematical symbols at the places of letters.
    return [*paths, *folder.glob("DejaVuS*.ttf"), *folder.glob("STIXGeneral*.ttf")]


@lru_cache(maxsize=4)
def find_fonts(folder: Path | None) -> Fonts:
    """All usable fonts: those that pip installed, and every ``.ttf``, ``.otf`` and ``.ttc`` under ``folder``.

    The order depends on the fonts' names and contents alone, so a seed draws the same words wherever the files lie.
    Skips files without letters or digits (icons and symbols) and second copies; warns of files that cannot be
    opened. Raises ``DataError`` where ``folder`` holds no font.
    """
    paths = _installed()
    if folder is not None:
        added = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".ttf", ".otf", ".ttc"))
        if not added:
            raise DataError(f"{folder}: no .ttf or .otf files (nor .ttc) in this folder of fonts; name another")
        paths += added
    found: dict[str, Face] = {}
    broken = []
    for path in paths:
        try:
            digest = hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()
            face = open_face(path)
            if digest not in found and any(map(face.can_draw, _TEXT.split())):
                found[digest] = face
        except (OSError, ValueError):
            broken.append(path.name)
    if broken:
        warnings.warn(f"skipped {len(broken)} broken font files: {', '.join(broken[:8])}", stacklevel=2)
    return Fonts([found[digest] for digest in sorted(found, key=lambda d: (found[d].family, found[d].style, d))])
