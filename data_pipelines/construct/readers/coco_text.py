"""COCO-Text (one JSON file, its versions 1 and 2) and TextOCR, which has the same form and other fields."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_pipelines.construct.readers.pictures import (
    Mark,
    MarkedWord,
    Picture,
    Polygon,
    box_corners,
    corners,
    form_checked,
    label,
    load_document,
)

_FORM = '{"imgs": {ID: {"file_name": ...}}, "imgToAnns": {ID: [...]}, "anns": {ID: {"utf8_string": ...}}}'
_UNREADABLE = "."  # what TextOCR writes for it


def read_coco_text(path: Path) -> Iterator[Picture]:
    """COCO-Text: words have a ``mask`` (version 2) or ``polygon``, and a ``legibility``."""
    return _read(path, _coco_text_word)


def read_textocr(path: Path) -> Iterator[Picture]:
    """TextOCR: words have ``points``; the text of those that nobody can read is "."."""
    return _read(path, _textocr_word)


def _read(path: Path, word_of: Any) -> Iterator[Picture]:
    document = load_document(path)
    with form_checked(str(path), _FORM):
        pictures, words, listed = document["imgs"], document["anns"], document["imgToAnns"]
        for key, picture in pictures.items():
            with form_checked(f"{path}: picture {key}", _FORM):
                yield Picture(picture["file_name"], [word_of(words[str(word)]) for word in listed.get(key, ())])


def _coco_text_word(word: dict) -> MarkedWord:
    mark: Mark = "" if word["legibility"] == "legible" else "illegible"
    return MarkedWord(_outline(word, "mask", "polygon"), label(word.get("utf8_string")), mark)


def _textocr_word(word: dict) -> MarkedWord:
    text = label(word["utf8_string"])
    return MarkedWord(_outline(word, "points"), text, "illegible" if text == _UNREADABLE else "")


def _outline(word: dict, *fields: str) -> Polygon:
    """The polygon in the first of ``fields`` that a word has, or else its box."""
    for field in fields:
        if field in word:
            return corners(word[field])
    left, top, width, height = word["bbox"]
    return box_corners(left, top, left + width, top + height)
