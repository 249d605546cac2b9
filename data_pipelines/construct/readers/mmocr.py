"""Detection and spotting annotations of mmocr: the JSON of 1.0; and of 0.x, COCO's JSON or a JSON object per line."""

import json
from collections.abc import Iterator
from pathlib import Path

from data_pipelines.construct.readers.pictures import MarkedWord, Picture, box_corners, corners, form_checked, label

_FORM = (
    '{"data_list": [{"img_path": ..., "instances": [{"polygon": ...}]}]} of mmocr 1.0, or of 0.x '
    '{"images": ..., "annotations": ...} or a line {"file_name": ..., "annotations": [...]} per picture'
)


def read_mmocr(path: Path) -> Iterator[Picture]:
    """Words with a ``text``, where there is one; detection has none."""
    with form_checked(str(path), _FORM):
        text = path.read_text("utf-8-sig")
        try:
            document = json.loads(text)
        except json.JSONDecodeError as error:
            if error.msg != "Extra data":
                raise
            document = {}
        if "data_list" in document:
            yield from _read_entries(path, document["data_list"])
        elif "images" in document:
            yield from _read_coco(path, document)
        else:
            yield from _read_lines(path, text)


def _read_entries(path: Path, entries: list[dict]) -> Iterator[Picture]:
    for number, entry in enumerate(entries):
        with form_checked(f"{path}: data_list[{number}]", _FORM):
            yield Picture(entry["img_path"], [_instance(word) for word in entry["instances"]])


def _instance(word: dict) -> MarkedWord:
    polygon = corners(word["polygon"]) if "polygon" in word else box_corners(*word["bbox"])
    return MarkedWord(polygon, label(word.get("text")), "ignored" if word.get("ignore") else "")


def _read_coco(path: Path, document: dict) -> Iterator[Picture]:
    words: dict[int, list[MarkedWord]] = {picture["id"]: [] for picture in document["images"]}
    for number, word in enumerate(document["annotations"]):
        with form_checked(f"{path}: annotations[{number}]", _FORM):
            words[word["image_id"]].append(_annotation(word))
    for picture in document["images"]:
        yield Picture(picture["file_name"], words[picture["id"]])


def _read_lines(path: Path, text: str) -> Iterator[Picture]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            with form_checked(f"{path}:{number}", _FORM):
                picture = json.loads(line)
                yield Picture(picture["file_name"], [_annotation(word) for word in picture["annotations"]])


def _annotation(word: dict) -> MarkedWord:
    if word.get("segmentation"):
        polygon = corners(word["segmentation"][0])
    else:
        left, top, width, height = word["bbox"]
        polygon = box_corners(left, top, left + width, top + height)
    return MarkedWord(polygon, label(word.get("text")), "ignored" if word.get("iscrowd") else "")
