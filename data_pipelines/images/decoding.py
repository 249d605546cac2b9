"""From the bytes of an image file to uint8 RGB."""

import io
import struct
import warnings

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageOps, ImageStat

from data_pipelines.sources.records import Record

MAX_PIXELS = 50_000_000
"""Largest image that is decoded, in pixels: some 150 MB of RGB. A word crop is a thousandth of that."""

_SEGMENT, _FRAME = struct.Struct(">BBH"), struct.Struct(">HH")  # of a JPEG: marker and length; height and width

# What a JPEG's EXIF data begin with, and in which of its bytes that is; orientations that exchange width and height.
_EXIF, _EXIF_IN, _LYING = b"Exif\0\0", 2**16, (5, 6, 7, 8)

_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF")

# Batches are decoded in several processes at once: OpenCV's own threads would only get in the way.
cv2.setNumThreads(1)
# Whoever decodes hears of damage by an exception: OpenCV and Pillow would print lines about it, which name no file.
(cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel)(0)
warnings.filterwarnings("ignore", module=r"PIL\.")


class DecodeError(ValueError):
    """Bytes that are no usable image. The message states the reason."""


def decode_image(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode an image file to uint8 RGB ``(height, width, 3)``, turned as its EXIF orientation says.

    What counts is the content, not the name. Grey, palette and CMYK images become RGB and 16-bit images 8-bit; of
    several frames or pages the first is taken. A transparent image is laid on white, or on black where what can be seen
    of it is light: words on a transparent background can be read this way whatever their colour. Images that lack data
    at their end are refused, as OpenCV, Pillow and the reference do: their label may tell more than they show.

    The size is read from the header first, so that a forged or damaged header cannot ask for gigabytes.

    Raises ``DecodeError`` for empty, damaged or foreign data and for more than ``max_pixels`` pixels.
    """
    if not data:
        raise DecodeError("the file is empty")
    size = _jpeg_size(data) or _opaque_png_size(data)
    if size is None:  # what is rare: OpenCV's versions differ in GIF and WebP, and it ignores transparency
        with _open(data) as opened:
            return rgb_of(opened, max_pixels)
    _refuse_above(max_pixels, size)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:
        raise DecodeError(f"OpenCV cannot decode it ({error.err})") from error
    if image is None:
        raise DecodeError("OpenCV cannot decode it")
    return image


def pixels_of(record: Record) -> np.ndarray:
    """The image of a record, uint8 RGB ``(height, width, 3)``. Raises ``DecodeError`` as ``decode_image`` does."""
    return decode_image(record.image) if isinstance(record.image, bytes) else record.image


def image_size(data: bytes) -> tuple[int, int]:
    """Height and width of an image file by its header, as ``decode_image`` turns it.

    Raises ``DecodeError`` where there are none.
    """
    size = _jpeg_size(data)
    if size is not None and _EXIF not in data[:_EXIF_IN]:
        return size
    with _open(data) as image:
        height, width = size or (image.height, image.width)
        try:
            lies = image.getexif().get(ExifTags.Base.Orientation) in _LYING
        except Exception:  # as in _turned
            lies = False
    return (width, height) if lies else (height, width)


def _refuse_above(max_pixels: int, size: tuple[int, int]) -> None:
    height, width = size
    if width * height > max_pixels:
        raise DecodeError(f"{width} x {height} pixels are more than {max_pixels}")


def rgb_of(image: Image.Image, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """A Pillow image as ``decode_image`` gives the file that it would be saved to. Raises ``DecodeError`` likewise."""
    _refuse_above(max_pixels, (image.height, image.width))
    try:
        image.load()
        return _to_rgb(_turned(image))
    except DecodeError:
        raise
    except Exception as error:
        raise DecodeError(f"Pillow cannot decode it ({' '.join(str(error).split())})") from error


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=_FORMATS)
    except Image.DecompressionBombError as error:
        raise DecodeError(f"it is too large ({error})") from error
    except Exception as error:  # Pillow's plug-ins raise whatever they meet in damaged files.
        raise DecodeError(_foreign(data)) from error


def _foreign(data: bytes) -> str:
    """What data without the header of an image are."""
    start = data[:256].lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(b"<"):
        return "it is a web page or XML, not an image"
    if start and not start.translate(None, bytes(range(32, 127)) + b"\t\r\n"):
        return "it is text, not an image"
    return "it is not an image, or its header is damaged"


def _turned(image: Image.Image) -> Image.Image:
    """The image as its EXIF orientation says; as it is, where the EXIF data are damaged."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # Pillow raises whatever it meets in them
        return image


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode in ("I", "F"):
        raise DecodeError("its samples have 32 bits; save it with 8 or 16")
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))  # Pillow would cut off at 255
    if not image.has_transparency_data:
        return np.array(image.convert("RGB"))
    image = image.convert("RGBA")
    seen = ImageStat.Stat(image.convert("L"), image.getchannel("A"))  # of pixels that are not quite transparent
    if not seen.count[0]:
        return np.array(image.convert("RGB"))  # nothing could be seen: this is no transparency but a mistake
    canvas = Image.new("RGBA", image.size, "black" if seen.mean[0] > 127.5 else "white")
    canvas.alpha_composite(image)
    return np.array(canvas.convert("RGB"))


def _opaque_png_size(data: bytes) -> tuple[int, int] | None:
    """Height and width from a PNG's header; None for other data and for one with transparency.

    Raises ``DecodeError`` for a PNG that ends early or has a chunk that is longer than the file: OpenCV would first set
    aside the gigabytes that such a chunk claims.
    """
    if data[:8] != b"\x89PNG\r\n\x1a\n" or data[12:16] != b"IHDR" or len(data) < 33:
        return None
    width, height, _, color_type = struct.unpack_from(">IIBB", data, 16)
    transparent = color_type in (4, 6)  # types with a channel for it; the others tell of it in a chunk
    place, kind = 8, b""
    while kind != b"IEND" and place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        transparent |= kind == b"tRNS"
        place += 12 + length
    if kind != b"IEND" or place > len(data):
        raise DecodeError("it is a truncated PNG")
    return None if transparent else (height, width)


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Height and width from a JPEG's frame header; None for other data and an unusual header."""
    if data[:2] != b"\xff\xd8":
        return None
    place = 2
    while place + 9 <= len(data):
        start, marker, length = _SEGMENT.unpack_from(data, place)
        if start != 0xFF:
            break
        # Frame headers are C0 to CF but for the tables C4 and CC and the reserved C8.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = _FRAME.unpack_from(data, place + 5)
            return height, width
        place += 2 + length
    return None
