"""Images come out exactly as the reference's two data paths make them."""

import io

import numpy as np
import PIL
import pytest
from PIL import Image

from data_pipelines.images.decoding import decode_image, image_size
from data_pipelines.images.resizing import resize_image


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
        # Pillow rounds the weights of its filter more finely since version 13, which the reference's numbers are of.
        most = 0 if int(PIL.__version__.split(".")[0]) >= 13 else 1
        np.testing.assert_allclose(image.astype(int), case["mae_resized_rgb"].astype(int), rtol=0, atol=most)


@pytest.mark.parametrize("format", ["PNG", "BMP", "WEBP", "TIFF"])
def test_lossless_formats_give_their_pixels(picture, format):
    data = encode(picture, format, **({"lossless": True} if format == "WEBP" else {}))
    np.testing.assert_array_equal(decode_image(data), picture)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}, {"dpi": (72, 72)}])
def test_the_size_comes_from_the_header(picture, options):
    for image in (picture, picture[..., 0]):
        assert image_size(encode(image, "JPEG", **options)) == (12, 30)
    assert image_size(encode(picture, "PNG")) == (12, 30)
