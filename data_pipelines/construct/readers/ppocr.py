"""Label.txt of PPOCRLabel, and PaddleOCR's lists for detection, which have the same form: a line for each picture."""

import json
from collections.abc import Iterator
from pathlib import Path

from data_pipelines.construct.readers.pictures import Mark, MarkedWord, Picture, corners, form_checked, label

_FORM = 'picture, tab, [{"transcription": ..., "points": [[x, y], ...], "difficult": false}, ...]'


def read_ppocr(path: Path) -> Iterator[Picture]:
    """Words; "difficult" ones are ignored in training detectors, and "###" and "*" are no texts."""
    with form_checked(str(path), "UTF-8"):
        lines = path.read_text("utf-8-sig").splitlines()
    for number, line in enumerate(lines, 1):
        if line.strip():
            with form_checked(f"{path}:{number}", _FORM):
                name, words = line.split("\t")
                yield Picture(name, [_word(word) for word in json.loads(words)])


def _word(word: dict) -> MarkedWord:
    text = label(word["transcription"])
    mark: Mark = "illegible" if text == "*" else "ignored" if word.get("difficult") else ""
    return MarkedWord(corners(word["points"]), text, mark)
