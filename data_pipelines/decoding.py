"""From the bytes of an image file to uint8 RGB of a fixed size."""

import io
import struct
from typing import Literal

import cv2
import numpy as np
from PIL import Image

Interpolation = Literal["bilinear", "bicubic"]
"""How images are resized: "bilinear" as OpenCV does it (the reference's recogniser), "bicubic" as Pillow does it, which
averages over all source pixels when it shrinks (the reference's pre-training)."""

MAX_PIXELS = 50_000_000
"""Largest image that is decoded, in pixels: some 150 MB of RGB. A word crop is a thousandth of that."""

_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF")

# Batches are decoded in several processes at once: OpenCV's own threads would only get in the way.
cv2.setNumThreads(1)


class DecodeError(ValueError):
    """Bytes that are no usable image. The message states the reason."""


def decode_image(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode an image file to uint8 RGB ``(height, width, 3)``, turned as its EXIF orientation says.

    Grey and palette images become RGB, 16-bit images 8-bit, and transparency is ignored, as OpenCV does it. The size is
    read from the header first, so that a forged or damaged header cannot ask for gigabytes.

    Raises ``DecodeError`` for empty, damaged or foreign data and for more than ``max_pixels`` pixels.
    """
    if not data:
        raise DecodeError("the file is empty")
    height, width = image_size(data)
    if width * height > max_pixels:
        raise DecodeError(f"{width} x {height} pixels are more than {max_pixels}")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:
        raise DecodeError(f"OpenCV cannot decode it ({error.err})") from error
    if image is None:
        raise DecodeError("OpenCV cannot decode it")
    return image


def turn_image(image: np.ndarray, turns: int) -> np.ndarray:
    """Turn uint8 RGB ``(h, w, 3)`` by ``turns`` times 90 degrees against the clock."""
    # OpenCV wants rows that lie one after the other.
    return np.ascontiguousarray(np.rot90(image, turns)) if turns % 4 else image


def resize_image(
    image: np.ndarray, height: int, width: int, interpolation: Interpolation, out: np.ndarray | None = None
) -> np.ndarray:
    """Resize uint8 RGB ``(h, w, 3)`` to ``(height, width, 3)``, aspect ratio not kept; into ``out`` if given."""
    if image.shape[:2] != (height, width):
        if interpolation == "bilinear":
            return cv2.resize(image, (width, height), dst=out, interpolation=cv2.INTER_LINEAR)
        image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
    if out is None:
        return image
    out[:] = image
    return out


def warp_image(image: np.ndarray, matrix: np.ndarray, out: np.ndarray, interpolation: Interpolation) -> None:
    """Move and resize uint8 RGB ``(h, w, 3)`` into ``out`` ``(height, width, 3)`` in one go.

    What comes in from outside of the image repeats its border: black corners would tell where the border was. As in
    ``resize_image``, bilinear samples the source as it is. "bicubic" averages a source that is far larger beforehand.

    Args:
      image: the image.
      matrix: float64 (3, 3), from its pixels (x, y, 1) to those of ``out``.
      out: uint8, is overwritten.
      interpolation: how pixels are made up between those of the image.

    Raises ``cv2.error`` for an image with a side of over 32,766 pixels.
    """
    height, width = out.shape[:2]
    flags = cv2.INTER_LINEAR
    if interpolation == "bicubic":
        flags = cv2.INTER_CUBIC
        y, x = max(1, image.shape[0] // height), max(1, image.shape[1] // width)
        if max(y, x) > 1:
            small = (image.shape[1] // x, image.shape[0] // y)
            grow = np.diag([image.shape[1] / small[0], image.shape[0] / small[1], 1.0])
            grow[:2, 2] = (grow[0, 0] - 1) / 2, (grow[1, 1] - 1) / 2
            image, matrix = cv2.resize(image, small, interpolation=cv2.INTER_AREA), matrix @ grow
    cv2.warpPerspective(image, matrix, (width, height), dst=out, flags=flags, borderMode=cv2.BORDER_REPLICATE)


def image_size(data: bytes) -> tuple[int, int]:
    """Height and width in the header of an image file, before it is turned as EXIF says.

    Raises ``DecodeError`` where there are none.
    """
    size = _jpeg_size(data) if data.startswith(b"\xff\xd8") else None
    if size is None:
        try:
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                size = image.height, image.width
        except Image.DecompressionBombError as error:
            raise DecodeError(f"it is too large ({error})") from error
        except Exception as error:  # Pillow's plug-ins raise whatever they meet in damaged headers.
            raise DecodeError("it is no image, or its header is damaged") from error
    return size


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Height and width from a JPEG's frame header, ten times as fast as Pillow; None where the header is unusual."""
    place = 2
    while place + 9 <= len(data) and data[place] == 0xFF:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4])
        # Frame headers are C0 to CF but for the tables C4 and CC and the reserved C8.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, place + 5)
            return height, width
        place += 2 + length
    return None
