"""What becomes of one image when a set is prepared: its bytes as they are, or a smaller copy; and what that costs."""

from dataclasses import dataclass, field
from typing import get_args

import cv2
import numpy as np
from PIL import Image

from data_pipelines.images.decoding import decode_image
from data_pipelines.images.resizing import Interpolation, resize_image

# Measured on real words (docs/datasets.md): chroma in full resolution costs few bytes and saves more than a higher
# quality would; optimized tables are worth 13 % of the bytes. PNG and lossless WebP take more than the originals.
_JPEG = (
    *(cv2.IMWRITE_JPEG_QUALITY, 95),
    *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
    *(cv2.IMWRITE_JPEG_OPTIMIZE, 1),
)


_HEIGHT, _WIDTH = 32, 128  # what training sees


@dataclass
class Cost:
    """How far the pictures that training sees differ from those of the original bytes, summed over resized images."""

    images: int = 0
    """Images that were resized."""
    kept: int = 0
    """Images above the limit that keep their bytes, because a copy would have more."""
    bytes_before: int = 0
    """Their bytes."""
    bytes_after: int = 0
    """The bytes of their copies."""
    absolute: dict[str, float] = field(default_factory=lambda: dict.fromkeys(get_args(Interpolation), 0.0))
    """For each way in which training resizes: sum of the images' mean absolute differences, in grey levels of 255."""
    squared: dict[str, float] = field(default_factory=lambda: dict.fromkeys(get_args(Interpolation), 0.0))
    """The same of their mean squared differences."""

    def __iadd__(self, other: "Cost") -> "Cost":
        """Add the costs of other images."""
        self.images += other.images
        self.kept += other.kept
        self.bytes_before += other.bytes_before
        self.bytes_after += other.bytes_after
        for name in self.absolute:
            self.absolute[name] += other.absolute[name]
            self.squared[name] += other.squared[name]
        return self


@dataclass(frozen=True)
class Stored:
    """An image as it is stored."""

    data: bytes
    """The bytes of an image file."""
    height: int
    """Its height, once turned as its EXIF orientation says."""
    width: int
    """Its width."""


def store(image: bytes | np.ndarray, max_height: int, cost: Cost) -> Stored:
    """Decide what to store of a record's image.

    Its bytes stay as they are unless it is higher than ``max_height`` pixels (0: no limit) and the copy is smaller in
    bytes. Of a vertical image, which is read after a quarter turn, the width counts: else it would become a few pixels
    wide. The copy is resized by Lanczos' filter, which averages over all source pixels, and stored as JPEG. Pixels that
    are no file yet are stored as PNG.

    What a copy costs is added to ``cost``. Raises ``DecodeError`` for what is no image.
    """
    data = image if isinstance(image, bytes) else cv2.imencode(".png", image[..., ::-1])[1].tobytes()
    pixels = decode_image(data)
    height, width = pixels.shape[:2]
    stored, short = Stored(data, height, width), min(height, width)
    if not max_height or short <= max_height:
        return stored
    height, width = (max(1, round(side * max_height / short)) for side in (height, width))
    small = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))
    copy = cv2.imencode(".jpg", small[..., ::-1], _JPEG)[1].tobytes()
    if len(copy) >= len(data):
        cost.kept += 1
        return stored
    cost.images += 1
    cost.bytes_before += len(data)
    cost.bytes_after += len(copy)
    decoded = decode_image(copy)
    for interpolation in get_args(Interpolation):
        seen, was = (
            resize_image(picture, _HEIGHT, _WIDTH, interpolation).astype(np.float32) for picture in (decoded, pixels)
        )
        cost.absolute[interpolation] += float(np.abs(seen - was).mean())
        cost.squared[interpolation] += float(np.square(seen - was).mean())
    return Stored(copy, height, width)
