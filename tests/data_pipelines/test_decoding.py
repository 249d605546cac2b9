"""Images come out exactly as the reference's two data paths make them, and bad ones are refused with a reason."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from data_pipelines.decoding import DecodeError, decode_image, image_size, resize_image


@pytest.fixture(scope="module")
def reference(fixtures):
    with np.load(fixtures / "datapath.npz") as numbers:
        return [
            {name.split("/")[1]: numbers[name] for name in numbers.files if name.startswith(f"{number}/")}
            for number in range(6)
        ]


def encode(image, format, **options):
    file = io.BytesIO()
    Image.fromarray(image).save(file, format, **options)
    return file.getvalue()


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (12, 30, 3), np.uint8)


def test_decoding_is_that_of_the_reference(reference):
    for case in reference:
        np.testing.assert_array_equal(decode_image(case["jpeg_bytes"].tobytes()), case["cv2_decoded_bgr"][..., ::-1])


def test_the_recogniser_path_is_exact(reference):
    for case in reference:
        image = resize_image(decode_image(case["jpeg_bytes"].tobytes()), 32, 128, "bilinear")
        np.testing.assert_array_equal(image, case["ft_resized_bgr"][..., ::-1])


def test_the_pretraining_path_is_exact(reference):
    for case in reference:
        image = resize_image(decode_image(case["jpeg_bytes"].tobytes()), 32, 128, "bicubic")
        np.testing.assert_array_equal(image, case["mae_resized_rgb"])


@pytest.mark.parametrize("format", ["PNG", "BMP", "WEBP", "TIFF"])
def test_lossless_formats_give_their_pixels(picture, format):
    data = encode(picture, format, **({"lossless": True} if format == "WEBP" else {}))
    np.testing.assert_array_equal(decode_image(data), picture)


def test_other_pixel_types_become_rgb(picture):
    gray = picture[..., 0]
    np.testing.assert_array_equal(decode_image(encode(gray, "PNG")), np.dstack([gray] * 3))
    wide = cv2.imencode(".png", picture[..., ::-1].astype(np.uint16) * 257)[1].tobytes()
    np.testing.assert_array_equal(decode_image(wide), picture)
    transparent = np.dstack([picture, picture[..., 1]])
    np.testing.assert_array_equal(decode_image(encode(transparent, "PNG")), picture)
    palette = Image.fromarray(picture).quantize(16)
    file = io.BytesIO()
    palette.save(file, "PNG")
    np.testing.assert_array_equal(decode_image(file.getvalue()), np.asarray(palette.convert("RGB")))


def test_exif_orientation_is_followed(picture):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = decode_image(encode(picture, "JPEG", exif=exif))
    np.testing.assert_array_equal(turned, np.rot90(decode_image(encode(picture, "JPEG")), -1))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}, {"dpi": (72, 72)}])
def test_the_size_comes_from_the_header(picture, options):
    for image in (picture, picture[..., 0]):
        assert image_size(encode(image, "JPEG", **options)) == (12, 30)
    assert image_size(encode(picture, "PNG")) == (12, 30)


def test_bytes_that_are_no_image_are_refused(picture):
    jpeg = encode(picture, "JPEG")
    for data in (b"", b"text", b"\xff\xd8", b"\xff\xd8\xff", jpeg[:20], b"\x89PNG\r\n\x1a\n", bytes(1000)):
        with pytest.raises(DecodeError) as error:
            decode_image(data)
        assert "\n" not in str(error.value)


def test_random_damage_is_refused_or_decoded_but_never_another_error(picture):
    rng = np.random.default_rng(0)
    for data in (encode(picture, "JPEG"), encode(picture, "PNG"), encode(picture, "GIF")):
        for _ in range(200):
            damaged = bytearray(data)
            damaged[rng.integers(len(data))] = rng.integers(256)
            try:
                image = decode_image(bytes(damaged[: rng.integers(1, 2 * len(data))]), max_pixels=10**6)
            except DecodeError:
                continue
            assert image.dtype == np.uint8
            assert image.shape[2] == 3


def test_too_many_pixels_are_refused_before_decoding(picture, monkeypatch):
    jpeg = bytearray(encode(picture, "JPEG"))
    place = jpeg.index(b"\xff\xc0")
    jpeg[place + 5 : place + 9] = struct.pack(">HH", 60000, 60000)
    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    monkeypatch.setattr(cv2, "imdecode", None)
    for data, size in ((bytes(jpeg), "60000 x 60000"), (encode(picture, "PNG"), "30 x 12")):
        with pytest.raises(DecodeError, match=f"{size} pixels are more than 300"):
            decode_image(data, max_pixels=300)
    with pytest.raises(DecodeError, match=r"too large|header"):
        decode_image(png)
