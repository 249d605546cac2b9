"""Readings of labelled words: a line of JSON each, which tables, reports and comparisons are made from."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from data_pipelines.charset import composed
from data_pipelines.errors import UserError
from data_pipelines.sources.records import OUTCOMES
from maerec_jax.reading.word import probability_of

MADE_WITH = ".made_with.json"
"""The ending of what stands beside a file of predictions, after the whole name of that."""


# Texts of files that others wrote may be in another Unicode form.
_Text = Annotated[str, AfterValidator(composed)]


@dataclass(frozen=True)
class Prediction:
    """What was read in one labelled image."""

    set: str  # name of the set that the image belongs to
    index: int  # its place in the set
    file: str  # where it comes from: a path relative to the data root, or an LMDB and a key
    truth: _Text  # its label
    reading: _Text  # what was read; "" for an image that cannot be used
    confidence: Annotated[float, Field(ge=0, le=1)]  # mean of the character confidences; 0 where nothing was read
    character_confidences: tuple[float, ...]  # probability of each character of the reading, given those before it
    height: Annotated[int, Field(ge=0)]  # of the image as it is stored, in pixels; 0 for one that cannot be used
    width: Annotated[int, Field(ge=0)]
    outcome: str = OUTCOMES[0]  # one of ``OUTCOMES``: images that cannot be used count as read wrong

    @property
    def judged_reading(self) -> str | None:
        """The reading as ``scoring.verdicts`` takes it: None where the image could not be used."""
        return self.reading if self.outcome == OUTCOMES[0] else None

    @property
    def probability(self) -> float:
        """How likely the reading is by the model: ``Word.probability``."""
        return probability_of(self.character_confidences)

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
                raise UserError(f"{path}:{number}: not a prediction: {first_fault(error)}") from error


def first_fault(error: ValidationError) -> str:
    """The first thing that is wrong, after the field where it is."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'JSON'}: {first['msg']}"


class PredictionsFile:
    """Predictions that are written as they are made, so that a measurement that was stopped can go on.

    What they were made with, as JSON can hold it, is kept beside the file, in ``<file>.made_with.json``: only the same
    measurement goes on.
    """

    def __init__(self, path: Path, made_with: Mapping[str, Any]) -> None:
        self.path, self.made_with = path, dict(made_with)
        self._beside = path.with_name(path.name + MADE_WITH)

    def prepare(self, overwrite: bool = False) -> None:
        """Begin the file, or see to it that one which is there can be gone on with; for one process only.

        Raises:
          UserError: for a file with the predictions of another measurement; it names what differs.
        """
        if not self.path.exists() or overwrite:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_bytes(b"")
            self._beside.write_text(json.dumps(self.made_with, indent=2) + "\n")
            return
        try:
            found = json.loads(self._beside.read_text())
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(
                f"{self.path} exists, and {self._beside.name} does not say how it was made: give another file, "
                "or --overwrite"
            ) from error
        found = found if isinstance(found, dict) else {}
        if differ := sorted(name for name in found | self.made_with if found.get(name) != self.made_with.get(name)):
            raise UserError(
                f"{self.path} holds predictions made with other settings ({', '.join(differ)} differ): give "
                "another file, or --overwrite"
            )
        with self.path.open("r+b") as file:  # a last line that has no end is cut off: its writer was killed
            file.truncate(sum(len(line) for line in file if line.endswith(b"\n")))

    def done(self, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
        """Which images have been read, bool (size) for each set of the numbers of images given.

        Raises:
          UserError: where the file holds something else, or an image twice.
        """
        found = {name: np.zeros(size, bool) for name, size in sizes.items()}
        for number, prediction in enumerate(read_predictions(self.path), 1):
            name, index = prediction.set, prediction.index
            measured = 0 <= index < sizes.get(name, 0)
            if not measured or found[name][index]:
                problem = "appears twice" if measured else "is not measured"
                raise UserError(f"{self.path}:{number}: image {index} of {name} {problem}: start over with --overwrite")
            found[name][index] = True
        return found

    def add(self, predictions: Sequence[Prediction]) -> None:
        """Write the predictions of a batch behind those that are there."""
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(prediction.to_line() + "\n" for prediction in predictions)
