"""Where detectors found words: a line of JSON for each picture, of any detector."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field, FiniteFloat, ValidationError, model_validator

from data_pipelines.construct.records import inside


class Detections(BaseModel, frozen=True):
    """The words that a detector found in a picture; a picture in which it found none has a line, too."""

    img: Annotated[str, AfterValidator(inside)]
    """The picture: a path relative to the folder of the pictures."""
    polygons: list[Annotated[list[tuple[FiniteFloat, FiniteFloat]], Field(min_length=3)]]
    """The corners (x, y) of each word, in pixels of the picture, turned as its EXIF data say."""
    scores: list[FiniteFloat]
    """How sure the detector is of each, 0 to 1."""
    problem: str = ""
    """Why the picture could not be searched."""

    @model_validator(mode="after")
    def _one_score_each(self) -> "Detections":
        if len(self.scores) != len(self.polygons):
            raise ValueError(f"has {len(self.polygons)} polygons and {len(self.scores)} scores")
        return self


def parse_detections(line: bytes) -> tuple[str, Detections]:
    """The name of a picture and what was found in it. Raises ``ValueError`` with the field for another line."""
    try:
        found = Detections.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "line"
        form = '{"img": "...", "polygons": [[[x, y], ...], ...], "scores": [...]}'
        raise ValueError(f"{place}: {first['msg']}; expected {form}") from error
    return found.img, found
