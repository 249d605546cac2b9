"""Fonts for captions: texts below and beside pictures, in whatever writing they are."""

import os
from functools import cache, lru_cache
from pathlib import Path

from PIL import ImageFont

from data_pipelines.command import tell
from data_pipelines.rendering.fonts import Face, find_fonts, matplotlib_fonts, open_face
from data_pipelines.rendering.shaping import has_shaper, shaped_in

FOLDER = "MAEREC_FONTS"
"""The environment variable that names a folder (with subfolders) of more fonts for captions."""

_told: set[str] = set()  # characters


def caption_font(text: str, size: float, folder: Path | None = None) -> ImageFont.FreeTypeFont:
    """A font, ``size`` pixels high, with all characters of ``text``, or with most of them: those missing are told once.

    It is DejaVu Sans where that suffices (the alphabets of Europe, Arabic, Hebrew), or else an installed font or one of
    ``folder``, by default the one that ``FOLDER`` names.
    """
    characters = "".join(sorted(set(filter(str.isprintable, text))))
    named = os.environ.get(FOLDER)
    face = _face_for(characters, folder or (Path(named) if named else None))
    _tell_once("not in any font for captions", _lacking(face, characters), f"name a folder of fonts in {FOLDER}")
    if not has_shaper():
        _tell_once("drawn one by one in captions", shaped_in(characters), "Pillow needs FriBiDi to join letters")
    return _opened(face.path, size)


def _tell_once(problem: str, characters: str, advice: str) -> None:
    if new := "".join(c for c in characters if c not in _told):
        _told.update(new)
        tell(f"{problem}: {new!r}: {advice}")


def _lacking(face: Face, characters: str) -> str:
    return "".join(c for c in characters if not face.can_draw(c))


@cache
def _opened(path: Path, size: float) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(path), size)


@lru_cache(maxsize=1024)
def _face_for(characters: str, folder: Path | None) -> Face:
    usual = open_face(matplotlib_fonts() / "DejaVuSans.ttf")
    if not _lacking(usual, characters):
        return usual
    return min((usual, *find_fonts(folder).faces), key=lambda face: len(_lacking(face, characters)))
