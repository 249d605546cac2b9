"""From the bytes of an image file to uint8 RGB."""

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageStat

from data_pipelines.sources.records import Record

MAX_PIXELS = 50_000_000
"""Largest image that is decoded, in pixels: some 150 MB of RGB. A word crop is a thousandth of that."""

_SEGMENT, _FRAME = struct.Struct(">BBH"), struct.Struct(">HH")  # of a JPEG: marker and length; height and width
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF")
_UPRIGHT = 1  # the EXIF orientation of what is stored as it is to be shown
_END = b"\0\0\0\0IEND\xaeB`\x82"  # the last chunk of a PNG
_KEPT = "which is not read: save it as PNG or JPEG"

# Batches are decoded in several processes at once: OpenCV's own threads would only get in the way.
cv2.setNumThreads(1)
# Whoever decodes hears of damage by an exception: OpenCV and Pillow would print lines about it, which name no file.
(cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel)(0)
warnings.filterwarnings("ignore", module=r"PIL\.")


class DecodeError(ValueError):
    """Bytes that are no usable image. The message states the reason."""


class _Header(NamedTuple):
    """What is known of an image before its pixels: their rows and columns in the file, and its EXIF data."""

    height: int
    width: int
    exif: bytes
    transparent: bool = False


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
    header = _header(data)
    if header is None or header.transparent:
        # What is rare: OpenCV's versions differ in GIF and WebP, and it ignores transparency.
        with _open(data) as opened:
            return rgb_of(opened, max_pixels)
    _refuse_above(max_pixels, header.height, header.width)
    plain = np.frombuffer(_without_extras(data) if data.startswith(b"\x89PNG") else data, np.uint8)
    try:
        image = cv2.imdecode(plain, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise DecodeError(f"OpenCV cannot decode it ({error.err})") from error
    if image is None:
        raise DecodeError("OpenCV cannot decode it")
    return _turned(image, header.exif)


def pixels_of(record: Record) -> np.ndarray:
    """The image of a record, uint8 RGB ``(height, width, 3)``. Raises ``DecodeError`` as ``decode_image`` does."""
    return decode_image(record.image) if isinstance(record.image, bytes) else record.image


def image_size(data: bytes) -> tuple[int, int]:
    """Height and width of an image file by its header, as ``decode_image`` turns it.

    Raises ``DecodeError`` where there are none.
    """
    header = _header(data)
    if header is None:
        with _open(data) as image:  # of a TIFF Pillow tells the size that it turns it to
            header = _Header(image.height, image.width, image.info.get("exif", b""))
    height, width = header.height, header.width
    return (width, height) if _is_lying(_orientation(header.exif)) else (height, width)


def rgb_of(image: Image.Image, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """A Pillow image as ``decode_image`` gives the file that it would be saved to. Raises ``DecodeError`` likewise."""
    _refuse_above(max_pixels, image.height, image.width)
    try:
        image.load()  # which turns a TIFF
        return _turned(_to_rgb(image), image.info.get("exif", b""))
    except DecodeError:
        raise
    except Exception as error:
        raise DecodeError(f"Pillow cannot decode it ({' '.join(str(error).split())})") from error


def _orientation(exif: bytes) -> int:
    """The orientation, 1 to 8, that EXIF data tell; 1 where there are none, or damaged ones.

    Sizes and pixels of all formats go by this alone, and not by XMP: browsers, OpenCV and most others do not, so that
    whoever labelled an image did not see it turned.
    """
    if not exif:
        return _UPRIGHT
    tags = Image.Exif()
    try:
        tags.load(exif)
        orientation = tags.get(ExifTags.Base.Orientation, _UPRIGHT)
    except Exception:  # Pillow raises whatever it meets in them
        return _UPRIGHT
    return int(orientation) if orientation in range(1, 9) else _UPRIGHT


def _is_lying(orientation: int) -> bool:
    """Whether rows are to be shown as columns."""
    return orientation > 4


def _turned(pixels: np.ndarray, exif: bytes) -> np.ndarray:
    """Pixels ``(h, w, 3)`` in a file as they are to be shown."""
    orientation = _orientation(exif)
    if orientation == _UPRIGHT:
        return pixels
    if _is_lying(orientation):
        pixels = pixels.swapaxes(0, 1)
    down, along = ((1, 1), (1, -1), (-1, -1), (-1, 1))[(orientation - 1) % 4]
    return np.ascontiguousarray(pixels[::down, ::along])


def _refuse_above(max_pixels: int, height: int, width: int) -> None:
    if width * height > max_pixels:
        raise DecodeError(f"{width} x {height} pixels are more than {max_pixels}")


def _open(data: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except Image.DecompressionBombError as error:
        raise DecodeError(f"it is too large ({error})") from error
    except Exception as error:  # Pillow's plug-ins raise whatever they meet in damaged files.
        raise DecodeError(_foreign(data)) from error
    image.info.pop("xmp", None)  # by which Pillow would turn a TIFF
    return image


def _foreign(data: bytes) -> str:
    """What data without the header of an image are."""
    start = data[:256].lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(b"%PDF-"):
        return "it is a PDF, not an image: save its pages as PNG or JPEG"
    if start.startswith(b"<"):
        return "it is a web page or XML, not an image"
    if start and not start.translate(None, bytes(range(32, 127)) + b"\t\r\n"):
        return "it is text, not an image"
    if data[4:8] == b"ftyp":
        return f"it is {'an AVIF' if data[8:12] in (b'avif', b'avis') else 'a HEIC'} image, {_KEPT}"
    if data[4:8] == b"jP  ":
        return f"it is a JPEG 2000 image, {_KEPT}"
    return "it is not an image, or its header is damaged"


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


def _header(data: bytes) -> _Header | None:
    """The header of a JPEG or PNG; None for other data and an unusual header."""
    return _png_header(data) if data.startswith(b"\x89PNG") else _jpeg_header(data)


def _png_header(data: bytes) -> _Header | None:
    """Raises ``DecodeError`` as ``_png_chunks`` does."""
    if data[:8] != b"\x89PNG\r\n\x1a\n" or data[12:16] != b"IHDR" or len(data) < 33:
        return None
    width, height, _, color_type = struct.unpack_from(">IIBB", data, 16)
    transparent = color_type in (4, 6)  # types with a channel for it; the others tell of it in a chunk
    exif = b""
    for kind, start, stop in _png_chunks(data):
        transparent |= kind == b"tRNS"
        exif = data[start:stop] if kind == b"eXIf" else exif
    return _Header(height, width, exif, transparent)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The kind of each chunk of a PNG, and where its contents start and stop.

    Raises ``DecodeError`` for a PNG that ends early or has a chunk that is longer than the file: OpenCV would first set
    aside the gigabytes that such a chunk claims.
    """
    place, kind = 8, b""
    while kind != b"IEND" and place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        yield kind, place + 8, place + 8 + length
        place += 12 + length
    if kind != b"IEND" or place > len(data):
        raise DecodeError("it is a truncated PNG")


def _without_extras(data: bytes) -> bytes:
    """A PNG with what its pixels are made of and nothing else: of profiles, times and the like that it finds odd libpng
    prints lines, which name no file, and so it does of checksums.

    Raises ``DecodeError`` where a checksum is wrong.
    """
    kept = [data[:8]]
    for kind, start, stop in _png_chunks(data):
        if kind[:1].isupper() and kind != b"IEND":  # a critical chunk
            if zlib.crc32(data[start - 4 : stop]) != int.from_bytes(data[stop : stop + 4], "big"):
                raise DecodeError("it is a damaged PNG (a checksum is wrong)")
            kept.append(data[start - 8 : stop + 4])
    return b"".join((*kept, _END))


def _jpeg_header(data: bytes) -> _Header | None:
    """None for other data and an unusual header."""
    if data[:2] != b"\xff\xd8":
        return None
    place, exif = 2, b""
    while place + 9 <= len(data):
        start, marker, length = _SEGMENT.unpack_from(data, place)
        if start != 0xFF:
            break
        # Frame headers are C0 to CF but for the tables C4 and CC and the reserved C8.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = _FRAME.unpack_from(data, place + 5)
            return _Header(height, width, exif)
        if marker == 0xE1 and data.startswith(b"Exif\0\0", place + 4):
            exif = exif or data[place + 4 : place + 2 + length]
        place += 2 + length
    return None
