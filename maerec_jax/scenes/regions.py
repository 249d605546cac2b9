"""Places in a picture that hold words, the interface of what finds them, and its settings."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal, Protocol

import numpy as np

from data_pipelines.errors import UserError

LARGE = 400
"""Pixels of the shorter side, from which a picture is taken for a whole scene: crops of one word are hardly ever as
large."""


def is_large(pixels: np.ndarray) -> bool:
    """Whether a picture, uint8 RGB (height, width, 3), is more likely a whole scene than the crop of one word."""
    return min(pixels.shape[:2]) >= LARGE


@dataclass(frozen=True)
class Region:
    """A place in a picture that holds text."""

    polygon_N2: np.ndarray
    """float32: its corners (x, y) in pixels of the picture, at least 3, clockwise as one sees it. Pixel i reaches from
    i to i + 1."""
    confidence: float
    """How sure the detector is, 0 to 1."""


class Detector(Protocol):
    """Finds the words of a picture. Whatever has such a method can be given to a ``SceneReader``."""

    def detect(self, image_HWC: np.ndarray) -> list[Region]:
        """The words of a picture, uint8 RGB, in reading order: lines from top to bottom, each from left to right."""
        ...


Method = Literal["db", "dbnetpp"]
"""How pictures are prepared and words taken from the map of probabilities: as PP-OCR's detectors do, which are "db", or
exactly as the published DBNet++ does."""
Shape = Literal["quadrilateral", "polygon"]


@dataclass(frozen=True)
class DetectionSettings:
    """A ``DetectionConfig``, which explains the fields, for one method: nothing is left open."""

    short_side: int
    long_side: int
    threshold: float
    min_confidence: float
    unclip_ratio: float
    min_size: int
    max_words: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    channels: Literal["rgb", "bgr"]
    shape: Shape = "quadrilateral"

    def __post_init__(self) -> None:
        for name, least, most in (
            ("long_side", 32, 8192),
            ("short_side", 32, self.long_side),
            ("threshold", 0, 1),
            ("min_confidence", 0, 1),
            ("unclip_ratio", 0, 10),
            ("min_size", 1, 8192),
            ("max_words", 1, 10**6),
        ):
            if not least <= getattr(self, name) <= most:
                raise UserError(f"detection.{name} must be {least} to {most}, not {getattr(self, name)}")
        if not all(deviation > 0 for deviation in self.std):
            raise UserError(f"detection.std must be above 0, not {self.std}")


_HALF, _IMAGENET = ((0.5,) * 3, (0.5,) * 3), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_USUAL: dict[Method, DetectionSettings] = {
    "db": DetectionSettings(736, 2000, 0.3, 0.5, 1.3, 3, 1000, *_HALF, "bgr"),
    "dbnetpp": DetectionSettings(1024, 4068, 0.3, 0.3, 1.5, 5, 3001, *_IMAGENET, "rgb"),
}


@dataclass(frozen=True)
class DetectionConfig:
    """How words are found in a picture. Defaults depend on the method: PP-OCR's, or those of the published DBNet++."""

    detector: str = ""
    """ONNX file of a text detector, or an imported DBNet++ (.safetensors). Default: PP-OCR's detector in rapidocr."""
    method: Literal["auto", "db", "dbnetpp"] = "auto"
    """dbnetpp: as the published DBNet++. db: as PP-OCR. auto: what the file says, db where it says nothing."""
    shape: Shape = "quadrilateral"
    """Outline of a word: quadrilateral (rotated rectangle), or polygon, which follows curved text."""
    short_side: int | None = None
    """Enlarge pictures until the shorter side has so many pixels; dbnetpp shrinks, too. Default: 736; dbnetpp: 1024."""
    long_side: int | None = None
    """Pixels that the longer side has at most: larger pictures shrink. Default: 2000; dbnetpp: 4068."""
    threshold: float | None = None
    """Pixels with at least this probability belong to a word. Default: 0.3."""
    min_confidence: float | None = None
    """Leave out words with a lower mean probability. Default: 0.5; dbnetpp: 0.3."""
    unclip_ratio: float | None = None
    """Expand outlines by area / perimeter times this. Default: 1.3 (rapidocr has 1.6); dbnetpp: 1.5."""
    min_size: int | None = None
    """Leave out words whose shorter side has fewer pixels. Default: 3, before expanding, and in the picture itself;
    dbnetpp: 5, after expanding."""
    max_words: int | None = None
    """Words per picture, at most; the most confident are kept. Default: 1000; dbnetpp: 3001."""
    mean: tuple[float, float, float] | None = None
    """Mean to subtract from each channel (white is 1), in the order of channels. Default: 0.5; dbnetpp: ImageNet's."""
    std: tuple[float, float, float] | None = None
    """Standard deviation to divide each channel by. Default: 0.5; dbnetpp: ImageNet's."""
    channels: Literal["rgb", "bgr"] | None = None
    """Order of the channels that the detector expects. Default: bgr; dbnetpp: rgb."""

    def __post_init__(self) -> None:
        # Which method "auto" comes to is known later, and DBNet++'s limits are the wider ones.
        self.settings("dbnetpp" if self.method == "auto" else self.method)

    def settings(self, method: Method) -> DetectionSettings:
        """What is set, and else the defaults of a method. Raises ``UserError`` for a value out of range."""
        usual = _USUAL[method]
        given = {f.name: getattr(self, f.name) for f in fields(usual) if getattr(self, f.name) is not None}
        return replace(usual, **given)


def reading_order(regions: Sequence[Region]) -> list[Region]:
    """Regions in lines from top to bottom, each from left to right.

    A region continues a line where its middle is within the middle half of the height that they have in common.
    """
    boxes = [np.concatenate([r.polygon_N2.min(axis=0), r.polygon_N2.max(axis=0)]) for r in regions]
    lines: list[list[int]] = []
    for i in sorted(range(len(regions)), key=lambda i: boxes[i][1] + boxes[i][3]):
        middle, height = (boxes[i][1] + boxes[i][3]) / 2, boxes[i][3] - boxes[i][1]
        for line in reversed(lines):
            last = boxes[line[-1]]
            if abs((last[1] + last[3]) / 2 - middle) < 0.5 * min(height, last[3] - last[1]):
                line.append(i)
                break
        else:
            lines.append([i])
    return [regions[i] for line in lines for i in sorted(line, key=lambda i: boxes[i][0])]
