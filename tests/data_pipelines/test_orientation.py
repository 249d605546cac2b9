"""One decision about orientation, for sizes and for pixels, in every format: that of EXIF."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from data_pipelines.images.decoding import decode_image, image_size

HEIGHT, WIDTH = 16, 40
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>'
SHOWN = {
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).swapaxes(0, 1),
    8: np.rot90,
}
"""What is to be seen of stored pixels, by orientation."""

FORMATS = ("JPEG", "PNG", "TIFF", "WEBP")


@pytest.fixture(scope="module")
def picture():
    """A smooth uint8 RGB picture without symmetry."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.dstack([5 * x, 12 * y, 200 - 2 * (x + y)]).astype(np.uint8)


def exif_of(orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


def encode(image, format, **options):
    file = io.BytesIO()
    Image.fromarray(image).save(file, format, **options, **({"lossless": True} if format == "WEBP" else {}))
    return file.getvalue()


def encode_with_xmp(image, format, orientation, exif_orientation=None):
    xmp, exif = XMP % orientation, {} if exif_orientation is None else {"exif": exif_of(exif_orientation)}
    if format == "PNG":
        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", xmp.decode())
        return encode(image, format, pnginfo=info, **exif)
    if format == "TIFF":
        tag = {} if exif_orientation is None else {ExifTags.Base.Orientation: exif_orientation}
        return encode(image, format, tiffinfo={700: xmp} | tag)
    return encode(image, format, xmp=xmp, **exif)


def assert_shown(data, expected, most):
    image = decode_image(data)
    assert image.flags.c_contiguous
    assert image_size(data) == image.shape[:2] == expected.shape[:2]
    assert np.abs(image.astype(int) - expected).max() <= most


@pytest.mark.parametrize("orientation", SHOWN)
@pytest.mark.parametrize("format", FORMATS)
def test_sizes_and_pixels_are_turned_alike(picture, format, orientation):
    data = encode(picture, format, exif=exif_of(orientation))
    assert_shown(data, SHOWN[orientation](picture), most=12 if format == "JPEG" else 0)


@pytest.mark.parametrize("orientation", SHOWN)
@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
def test_so_are_transparent_images(picture, format, orientation):
    transparent = np.dstack([picture, np.full((HEIGHT, WIDTH), 255, np.uint8)])
    transparent[0, 0, 3] = 0
    picture = picture.copy()
    picture[0, 0] = 255 if picture.mean() < 127 else 0
    assert_shown(encode(transparent, format, exif=exif_of(orientation)), SHOWN[orientation](picture), most=0)


@pytest.mark.parametrize("orientation", [3, 6, 7])
@pytest.mark.parametrize("format", FORMATS)
def test_xmp_alone_turns_nothing(picture, format, orientation):
    most = 12 if format == "JPEG" else 0
    assert_shown(encode_with_xmp(picture, format, orientation), picture, most)
    both = encode_with_xmp(picture, format, orientation, exif_orientation=8)
    assert_shown(both, SHOWN[8](picture), most)


@pytest.mark.parametrize("orientation", [1, 6])
def test_exif_data_after_the_pixels_count_too(picture, orientation):
    data = encode(picture, "PNG")
    exif = exif_of(orientation).tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(exif)) + b"eXIf" + exif + struct.pack(">I", zlib.crc32(b"eXIf" + exif))
    end = data.index(b"IEND") - 4
    assert_shown(data[:end] + chunk + data[end:], SHOWN[orientation](picture), most=0)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0II*\0", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0nothing"]
)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_damaged_exif_data_turn_nothing(picture, format, exif):
    assert_shown(encode(picture, format, exif=exif), picture, most=12 if format == "JPEG" else 0)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_orientations_that_do_not_exist_turn_nothing(picture, orientation):
    for format in FORMATS:
        data = encode(picture, format, exif=exif_of(orientation))
        assert_shown(data, picture, most=12 if format == "JPEG" else 0)
