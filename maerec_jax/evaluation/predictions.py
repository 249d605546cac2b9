"""Readings of labelled words: a line of JSON each, which tables, reports and comparisons are made from."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from data_pipelines.records import OUTCOMES
from maerec_jax.config import UserError


@dataclass(frozen=True)
class Prediction:
    """What was read in one labelled image."""

    set: str
    """Name of the set that the image belongs to."""
    index: int
    """Its place in the set."""
    file: str
    """Where it comes from: a path relative to the data root, or an LMDB and a key."""
    truth: str
    """Its label."""
    reading: str
    """What was read; "" for an image that cannot be used."""
    confidence: Annotated[float, Field(ge=0, le=1)]
    """Mean of the character confidences, 0 to 1; 0 where nothing was read."""
    character_confidences: tuple[float, ...]
    """Probability of each character of the reading, given those before it."""
    height: Annotated[int, Field(ge=0)]
    """Height of the image as it is stored, in pixels; 0 for one that cannot be used."""
    width: Annotated[int, Field(ge=0)]
    """Its width."""
    outcome: str = OUTCOMES[0]
    """What became of it, one of ``OUTCOMES``: those that cannot be used count as read wrong."""

    def to_line(self) -> str:
        """The line of JSON that ``read_predictions`` reads, without its end."""
        rounded = {
            "confidence": round(self.confidence, 6),
            "character_confidences": [round(value, 6) for value in self.character_confidences],
        }
        return json.dumps(asdict(self) | rounded, ensure_ascii=False)


_ADAPTER = TypeAdapter(Prediction)


def read_predictions(path: Path) -> Iterator[Prediction]:
    """The predictions in a file, in its order.

    Raises:
      UserError: where there is no such file, or a line is no prediction; it names the line.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give a file of predictions, made by evaluate") from error
    with file:
        for number, line in enumerate(file, 1):
            try:
                yield _ADAPTER.validate_json(line)
            except ValidationError as error:
                first = error.errors()[0]
                field = ".".join(map(str, first["loc"])) or "JSON"
                raise UserError(f"{path}:{number}: not a prediction: {field}: {first['msg']}") from error
