"""What visitors bring is read as everywhere else in the project, and what cannot be is told in one sentence."""

import numpy as np
import pytest
from PIL import Image

from data_pipelines.errors import UserError
from data_pipelines.images.decoding import decode_image
from maerec_jax.demo_page.uploads import Limits, fitted, open_upload
from tests.demo.conftest import draw_word


def save_kinds(folder):
    """A word in all kinds of files, and what should be seen of it."""
    pixels = draw_word("lemon")
    word = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x112] = 6  # to be turned to the right
    word.rotate(90, expand=True).save(folder / "turned.png", exif=exif)
    word.convert("CMYK").save(folder / "cmyk.tif")
    Image.fromarray(np.asarray(word.convert("L")).astype(np.uint16) * 257).save(folder / "deep.png")
    word.save(folder / "frames.gif", save_all=True, append_images=[word.rotate(180)])
    clear = word.convert("RGBA")
    clear.putalpha(Image.eval(word.convert("L"), lambda level: max(0, 255 - level * 4 // 3)))  # the ground is clear
    clear.save(folder / "clear.png")
    return pixels


def test_all_kinds_of_pictures_are_seen_alike(tmp_path):
    pixels = save_kinds(tmp_path)
    for name, tolerance in {"turned.png": 0, "cmyk.tif": 2, "frames.gif": 24}.items():
        seen = open_upload(str(tmp_path / name), tmp_path, Limits())
        assert seen.shape == pixels.shape, name
        assert np.abs(seen.astype(int) - pixels).mean() <= tolerance, name
    for name in ("deep.png", "clear.png"):
        seen = open_upload(str(tmp_path / name), tmp_path, Limits())
        assert seen.dtype == np.uint8, name
        np.testing.assert_array_equal(seen, decode_image((tmp_path / name).read_bytes()))
        assert np.corrcoef(seen.mean(axis=2).ravel(), pixels.mean(axis=2).ravel())[0, 1] > 0.9, name


def test_fifty_megapixels_are_read_and_far_more_refused(tmp_path):
    Image.new("RGB", (8192, 6144), "white").save(tmp_path / "fifty.jpg")
    assert open_upload(str(tmp_path / "fifty.jpg"), tmp_path, Limits()).shape == (6144, 8192, 3)
    with pytest.raises(UserError, match=r"fifty\.jpg cannot be read: 8192 x 6144 pixels are more than 50000000"):
        open_upload(str(tmp_path / "fifty.jpg"), tmp_path, Limits(max_megapixels=50))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", r"a\.png cannot be read: "),
        (b"just text", r"a\.png cannot be read: it is text, not an image"),
        (b"<html>", r"a\.png cannot be read: it is a web page"),
        (b"\xff\xd8\xff\xe0" + b"\x00" * 40, r"a\.png cannot be read: "),
        (b"\x00" * 1_000_001, r"a\.png is larger than the limit of 1 MB"),
    ],
    ids=["empty", "text", "page", "cut", "large"],
)
def test_what_is_no_picture_is_told(content, told, tmp_path):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UserError, match=told):
        open_upload(str(tmp_path / "a.png"), tmp_path, Limits(max_megabytes=1))


def test_nothing_outside_the_folder_is_opened(tmp_path, word_files):
    (tmp_path / "uploads").mkdir()
    (tmp_path / "uploads" / "link.png").symlink_to(word_files["lemon"])
    outside = word_files["lemon"]
    for path in (
        str(outside),
        "uploads/../x.png",
        "",
        "\0",
        "https://host/a.png",
        str(tmp_path / "uploads" / "link.png"),
    ):
        with pytest.raises(UserError, match="no longer on the server"):
            open_upload(path, tmp_path / "uploads", Limits())


def test_limits_are_checked():
    for name in ("max_megapixels", "max_megabytes", "max_waiting"):
        with pytest.raises(UserError, match=f"{name} must be at least 1"):
            Limits(**{name: 0})


def test_pictures_are_only_made_smaller():
    assert fitted(np.zeros((10, 20, 3), np.uint8), 40, 40).shape == (10, 20, 3)
    assert fitted(np.zeros((100, 400, 3), np.uint8), 40, 40).shape == (10, 40, 3)
    assert fitted(np.zeros((1, 4000, 3), np.uint8), 40, 40).shape == (1, 40, 3)
