"""What readers give: pictures, and the words that are marked in them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from data_pipelines.errors import DataError

Mark = Literal["", "ignored", "illegible"]
"""What an annotation says of a word beside its text: that it is to be ignored, or that nobody can read it."""

Polygon = list[list[float]]
"""(x, y) of each corner in pixels of the picture, in the order of the annotation."""


class MarkedWord(NamedTuple):
    """A word in a picture."""

    polygon: Polygon
    """Empty where the annotation gives no pairs of numbers; they may be anything else that numbers can be."""
    text: str | None
    """Its label, as it is given; None where there is none."""
    mark: Mark = ""
    """What else is said of it."""


class Picture(NamedTuple):
    """A picture, by its name in the annotations, which may lack an ending such as .jpg; and its words."""

    name: str
    words: list[MarkedWord]


def corners(given: Any) -> Polygon:
    """A polygon of a list of x, y, x, y ... or of pairs."""
    try:
        return np.asarray(given, float).reshape(-1, 2).tolist()
    except (TypeError, ValueError):
        return []


def label(given: Any) -> str | None:
    """The text of a word, where there is one. Raises ``TypeError`` for what is none."""
    if not isinstance(given, str | None):
        raise TypeError(f"the text {given!r} is no string")
    return given


def box_corners(left: float, top: float, right: float, bottom: float) -> Polygon:
    """The corners of an upright rectangle, clockwise from the upper left one."""
    return corners([left, top, right, top, right, bottom, left, bottom])


def load_document(path: Path) -> Any:
    """A JSON file. Raises ``DataError`` where it is none."""
    with form_checked(str(path), "a JSON document"):
        return json.loads(path.read_text("utf-8-sig"))


@contextmanager
def form_checked(place: str, form: str) -> Iterator[None]:
    """Turn the errors of taking an annotation apart into a ``DataError`` that tells its place and the form expected."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError) as error:
        problem = f"has no {error.args[0]!r}" if isinstance(error, KeyError) else str(error)
        raise DataError(f"{place}: {problem}; expected {form}") from error
