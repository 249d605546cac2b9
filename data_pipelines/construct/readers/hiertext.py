"""HierText: one JSON document (named .jsonl) of paragraphs, lines and words."""

from collections.abc import Iterator
from pathlib import Path

from data_pipelines.construct.readers.pictures import MarkedWord, Picture, corners, form_checked, label, load_document

_FORM = (
    '{"annotations": [{"image_id": ..., "paragraphs": [{"lines": [{"words": '
    '[{"vertices": ..., "text": ..., "legible": ...}]}]}]}]}'
)


def read_hiertext(path: Path) -> Iterator[Picture]:
    """The words of HierText; names of pictures are their ids, without an ending."""
    document = load_document(path)
    with form_checked(str(path), _FORM):
        for number, picture in enumerate(document["annotations"]):
            with form_checked(f"{path}: annotations[{number}]", _FORM):
                words = [w for paragraph in picture["paragraphs"] for line in paragraph["lines"] for w in line["words"]]
                yield Picture(picture["image_id"], [_word(word) for word in words])


def _word(word: dict) -> MarkedWord:
    return MarkedWord(corners(word["vertices"]), label(word["text"]), "" if word["legible"] else "illegible")
