"""What the service answers, as models for JSON and its description."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

_Box = tuple[float, float, float, float]


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class Failure(_Answer):
    """Why an image was not read."""

    code: Literal["unreadable", "failed"] = Field(examples=["unreadable"])
    """unreadable: the image cannot be used, and sending it again does not help. failed: the service is at fault."""
    reason: str = Field(examples=["it is not an image, or its header is damaged"])
    """A sentence for people."""


class Alternative(_Answer):
    """Another text that the beam search found."""

    text: str = Field(examples=["HOTEI"])
    """The text."""
    confidence: float = Field(examples=[0.61])
    """Mean of its character confidences."""
    probability: float = Field(examples=[0.07])
    """Product of its character confidences."""


class _WordReading(_Answer):
    text: str | None = Field(default=None, examples=["HOTEL"])
    """The text; empty where nothing was seen, null where the image was not read."""
    confidence: float | None = Field(default=None, examples=[0.93])
    """Mean of the character confidences, 0 to 1: how sure the model was on its way, not the probability that the text
    is right. null where the image was not read."""
    probability: float | None = Field(default=None, examples=[0.69])
    """Product of the character confidences, 0 to 1: how likely the text is by the model. null where the image was not
    read."""
    character_confidences: list[float] = Field(default=[], examples=[[0.99, 0.97, 0.95, 0.98, 0.76]])
    """The model's probability of each character, given those before it; ``<UKN>`` counts as one character."""
    turns: int = Field(default=0, examples=[0])
    """By how many times 90 degrees the image was turned against the clock before it was read so."""
    doubtful: bool = False
    """Its confidence is so low that most such readings are wrong."""
    cut: bool = False
    """It is as long as the model can write, without an end: the image may show more."""
    box: _Box | None = Field(default=None, examples=[(3.5, 4.0, 91.0, 27.5)])
    """Where the word is: left, upper, right and lower edge in pixels of the picture that was sent, turned as its EXIF
    data say; null unless the service was started with --boxes."""
    character_boxes: list[_Box] = []
    """Where its characters are, where the service was started with --boxes."""
    alternatives: list[Alternative] = []
    """Other texts, best first, where the service was started with --beam or --views."""


class ImageReading(_WordReading):
    """What was read in an image, or why nothing was."""

    file: str = Field(examples=["word.jpg"])
    """The name of the file as it was sent; empty for a body that is an image."""
    note: str | None = Field(default=None, examples=[None])
    """What to know of the reading: that the image is as large as a whole picture. null for most."""
    error: Failure | None = None
    """Why the image was not read; null where it was."""


class Readings(_Answer):
    """The images of a request, in the order in which they were sent."""

    results: list[ImageReading]
    """One for each image."""


class SceneWordReading(_WordReading):
    """A word of a picture."""

    polygon: list[tuple[float, float]] = Field(examples=[[(10.0, 4.5), (92.0, 6.0), (91.5, 31.0), (9.5, 29.5)]])
    """Its corners (x, y) in pixels of the picture, turned as its EXIF data say."""
    detection_confidence: float = Field(examples=[0.87])
    """How sure the detector is that this is a word, 0 to 1."""


class SceneReading(_Answer):
    """The words of a picture, or why there are none."""

    file: str = Field(examples=["street.jpg"])
    """The name of the file as it was sent; empty for a body that is an image."""
    width: int | None = Field(default=None, examples=[1280])
    """Width of the picture in pixels, turned as its EXIF data say; null where it was not read."""
    height: int | None = Field(default=None, examples=[960])
    """Its height."""
    words: list[SceneWordReading] = []
    """Its words in reading order."""
    error: Failure | None = None
    """Why the picture was not read; null where it was."""


class SceneReadings(_Answer):
    """The pictures of a request, in the order in which they were sent."""

    results: list[SceneReading]
    """One for each picture."""


class Problem(_Answer):
    """Why a request got no reading at all."""

    code: str = Field(examples=["queue_full"])
    """A word for programs."""
    reason: str = Field(examples=["512 images are being read: try again later"])
    """A sentence for people."""


class State(_Answer):
    """How the service is."""

    state: Literal["ready", "alive", "starting", "stopping", "broken"]
    """ready: it reads. alive: the process works (whether it reads, /ready tells). starting: it compiles. stopping: it
    finishes what it accepted. broken: it has to be started again."""
