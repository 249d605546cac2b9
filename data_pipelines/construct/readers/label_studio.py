"""JSON exports of Label Studio: rectangles and polygons, each with the text that was typed for it."""

import math
from collections.abc import Iterator
from pathlib import Path

from data_pipelines.construct.readers.pictures import MarkedWord, Picture, Polygon, corners, form_checked, load_document
from data_pipelines.sources.list_fields import without_server
from data_pipelines.sources.list_lines import is_image_name

_FORM = '[{"data": {"image": ...}, "annotations": [{"result": [{"id": ..., "type": ..., "value": ...}, ...]}]}, ...]'


def read_label_studio(path: Path) -> Iterator[Picture]:
    """The regions of each task, in all its annotations that were not cancelled; names lose what the server put first.

    A region of which no text is known is a word without a label.
    """
    with form_checked(str(path), _FORM):
        for number, task in enumerate(load_document(path)):
            with form_checked(f"{path}: [{number}]", _FORM):
                (name,) = (name for name in task["data"].values() if isinstance(name, str) and is_image_name(name))
                done = [each["result"] for each in task["annotations"] if not each.get("was_cancelled")]
                yield Picture(without_server(name), [word for results in done for word in _words(results)])


def _words(results: list[dict]) -> Iterator[MarkedWord]:
    texts = {each["id"]: " ".join(each["value"]["text"]) for each in results if each["type"] == "textarea"}
    outlines: dict[str, Polygon] = {}
    for each in results:  # a rectangle and its label may be two results of one region
        if each["id"] not in outlines and ("points" in each["value"] or "width" in each["value"]):
            outlines[each["id"]] = _outline(each)
    for region, polygon in outlines.items():
        yield MarkedWord(polygon, texts.get(region))


def _outline(result: dict) -> Polygon:
    """The corners in pixels; Label Studio gives percents, and turns rectangles about their upper left corner."""
    if result.get("image_rotation"):
        raise ValueError("was labelled on a turned picture: save the picture as it is to be seen, and label it again")
    value, across, down = result["value"], result["original_width"] / 100, result["original_height"] / 100
    if "points" in value:
        return corners([[x * across, y * down] for x, y in value["points"]])
    left, top = value["x"] * across, value["y"] * down
    width, height = value["width"] * across, value["height"] * down
    turn = math.radians(value.get("rotation", 0))
    cosine, sine = math.cos(turn), math.sin(turn)
    ends = ((0, 0), (width, 0), (width, height), (0, height))
    return corners([[left + x * cosine - y * sine, top + x * sine + y * cosine] for x, y in ends])
