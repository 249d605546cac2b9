"""Turning, resizing and moving pixels: from uint8 RGB of any size to that of a batch."""

import math
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from PIL import Image

Interpolation = Literal["bilinear", "bicubic", "area"]
"""How images are resized: "bilinear" as OpenCV does it, which looks at four source pixels however far it shrinks (the
reference's recogniser); "bicubic" as Pillow does it, which averages over all source pixels when it shrinks (the
reference's pre-training); "area", the mean over all source pixels along a side that shrinks, bilinear along others."""

cv2.setNumThreads(1)  # see decoding.py


@dataclass(frozen=True)
class KeepRatio:
    """Images keep their aspect ratio: they get the height of a batch, and are filled up with black on the right."""

    smallest: int
    """Least width in pixels."""
    divisor: int
    """Widths are multiples of this number in training."""
    reading_divisor: int
    """Widths are multiples of this number in reading."""

    def width(self, size: tuple[int, int], height: int, largest: int, training: bool) -> int:
        """The width of an image of ``size`` (rows, columns) at a height; wider ones are squeezed to ``largest``.

        Halves are rounded to even multiples, as in the reference.
        """
        divisor = self.divisor if training else self.reading_divisor
        width = min(max(math.ceil(height / size[0] * size[1]), self.smallest), largest)
        return width if width % divisor == 0 else round(width / divisor) * divisor


def turn_image(image: np.ndarray, turns: int) -> np.ndarray:
    """Turn uint8 RGB ``(h, w, 3)`` by ``turns`` times 90 degrees against the clock."""
    # OpenCV wants rows that lie one after the other.
    return np.ascontiguousarray(np.rot90(image, turns)) if turns % 4 else image


def resize_image(
    image: np.ndarray, height: int, width: int, interpolation: Interpolation, out: np.ndarray | None = None
) -> np.ndarray:
    """Resize uint8 RGB ``(h, w, 3)`` to ``(height, width, 3)``, aspect ratio not kept; into ``out`` if given."""
    if image.shape[:2] != (height, width):
        if interpolation == "area":
            image = _shrunk(image, height, width)
        if interpolation != "bicubic":
            return cv2.resize(image, (width, height), dst=out, interpolation=cv2.INTER_LINEAR)
        image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
    if out is None:
        return image
    out[:] = image
    return out


def _shrunk(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """An image ``(h, w, 3)`` averaged down to ``height`` and ``width`` along each side that is longer."""
    size = min(image.shape[1], width), min(image.shape[0], height)
    return image if size == image.shape[1::-1] else cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def warp_image(image: np.ndarray, matrix: np.ndarray, out: np.ndarray, interpolation: Interpolation) -> None:
    """Move and resize uint8 RGB ``(h, w, 3)`` into ``out`` ``(height, width, 3)`` in one go.

    What comes in from outside of the image repeats its border: black corners would tell where the border was. As in
    ``resize_image``, bilinear samples the source as it is. "bicubic" averages a source that is far larger beforehand,
    and "area" one that is larger at all, as if it were not turned.

    ``matrix`` is float64 (3, 3), from pixels (x, y, 1) of the image to those of ``out``. Raises ``cv2.error`` for
    an image with a side of over 32,766 pixels.
    """
    height, width = out.shape[:2]
    flags, (rows, columns) = cv2.INTER_LINEAR, image.shape[:2]
    if interpolation == "bicubic":
        flags = cv2.INTER_CUBIC
        image = _shrunk(image, rows // max(1, rows // height), columns // max(1, columns // width))
    elif interpolation == "area":
        image = _shrunk(image, height, width)
    if image.shape[:2] != (rows, columns):
        grow = np.diag([columns / image.shape[1], rows / image.shape[0], 1.0])
        grow[:2, 2] = (grow[0, 0] - 1) / 2, (grow[1, 1] - 1) / 2
        matrix = matrix @ grow
    cv2.warpPerspective(image, matrix, (width, height), dst=out, flags=flags, borderMode=cv2.BORDER_REPLICATE)
