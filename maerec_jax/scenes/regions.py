"""Places in a picture that hold words, the interface of what finds them, and its settings."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from data_pipelines.errors import UserError


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


@dataclass(frozen=True)
class DetectionConfig:
    """How words are found in a picture.

    The defaults suit PP-OCR's detectors. Settings for MMOCR's DBNet and DBNet++ are in docs/scenes.md.
    """

    detector: str = ""
    """ONNX file of a text detector (DBNet, DBNet++, PP-OCR). Default: the PP-OCR detector in rapidocr."""
    shape: Literal["quadrilateral", "polygon"] = "quadrilateral"
    """Outline of a word: quadrilateral (rotated rectangle), or polygon, which follows curved text."""
    short_side: int = 736
    """Enlarge smaller pictures until the shorter side has this many pixels (up to long_side)."""
    long_side: int = 2000
    """Shrink larger pictures until the longer side has this many pixels."""
    threshold: float = 0.3
    """Pixels with at least this probability belong to a word."""
    min_confidence: float = 0.5
    """Leave out words with a lower mean probability."""
    unclip_ratio: float = 1.3
    """Expand outlines by area / perimeter times this; rapidocr uses 1.6 (see docs/scenes.md)."""
    min_size: int = 3
    """Leave out words whose shorter side has fewer pixels (before expanding)."""
    max_words: int = 1000
    """Words per picture, at most; the most confident are kept."""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Mean to subtract from each channel, where white is 1; in the order of channels."""
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Standard deviation to divide each channel by."""
    channels: Literal["rgb", "bgr"] = "bgr"
    """Order of the channels that the detector expects."""

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
