"""LSVT and ArT, and other sets of their form: one JSON object from the names of pictures to their words."""

from collections.abc import Iterator
from pathlib import Path

from data_pipelines.construct.readers.pictures import MarkedWord, Picture, corners, form_checked, label, load_document

_FORM = '{"gt_0": [{"points": [[x, y], ...], "transcription": ..., "illegibility": false}, ...], ...}'


def read_lsvt(path: Path) -> Iterator[Picture]:
    """The words (in LSVT, lines) of a file such as train_full_labels.json; names of pictures have no ending."""
    document = load_document(path)
    with form_checked(str(path), _FORM):
        for name, words in document.items():
            with form_checked(f"{path}: {name}", _FORM):
                yield Picture(name, [_word(word) for word in words])


def _word(word: dict) -> MarkedWord:
    return MarkedWord(
        corners(word["points"]), label(word["transcription"]), "illegible" if word.get("illegibility") else ""
    )
