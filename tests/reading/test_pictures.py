"""Pictures of words and their readings."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from data_pipelines.charset import MAEREC_CHARACTERS, UNKNOWN_TEXT
from maerec_jax.reading.pictures import (
    _draw_character,
    annotated_picture,
    attention_picture,
    characters_of,
    confidence_colour,
    readings_sheet,
    save_picture,
)

BLACK = np.zeros((32, 128, 3), np.uint8)


def annotated(text, confidences, image=BLACK, maps=None):
    return annotated_picture(image, text, float(np.mean(confidences or [0])), confidences, maps)


def test_every_character_looks_like_itself():
    """All 91 leave ink, and no two the same: none is a box that stands for a missing glyph."""
    seen = set()
    for character in MAEREC_CHARACTERS:
        cell = Image.new("L", (60, 60), 255)
        _draw_character(ImageDraw.Draw(cell), 30, 5, character, 30, 0)
        assert (np.asarray(cell) < 128).sum() > 5, character
        seen.add(cell.tobytes())
    assert len(seen) == 91


@pytest.mark.parametrize("shape", [(32, 128), (7, 5), (300, 90), (2000, 3000), (1, 1), (5, 900)])
def test_images_of_any_size_are_shown_at_one_that_can_be_read(shape):
    image = np.full((*shape, 3), (200, 30, 30), np.uint8)
    for maps in (None, np.ones((2, 8, 32), np.float32)):
        picture = annotated("Ab", (0.5, 1.0), image, maps)
        assert picture.dtype == np.uint8
        assert picture.shape[0] < 700
        assert picture.shape[1] < 680
        red = (picture == (200, 30, 30)).all(axis=2)
        assert red.sum(axis=1).max() == 640 or red.sum(axis=0).max() in (160, 320)


def test_colours_tell_the_confidence_of_each_character():
    first, second, both = (annotated_picture(BLACK, "ab", 0.5, c) for c in ((0.1, 0.99), (0.99, 0.1), (0.99, 0.99)))
    changed = [(picture != both).any(axis=(0, 2)).nonzero()[0] for picture in (first, second)]
    assert changed[0].max() < changed[1].min()


def test_unsure_characters_can_still_be_read():
    """A contrast of at least 3 with white paper (WCAG 2.1, large text)."""
    for confidence in np.linspace(0, 1, 11):
        share = np.array(confidence_colour(confidence)) / 255
        linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
        assert 1.05 / (linear @ (0.2126, 0.7152, 0.0722) + 0.05) >= 3


def test_long_readings_go_on_in_the_next_line():
    one, many = annotated("W", (0.9,)), annotated("W" * 46, (0.9,) * 46)
    assert one.shape[0] < many.shape[0] < 600
    assert many.shape[1] < 680


def test_maps_lie_over_the_image_where_they_belong():
    """The panel of each character is light where its map is high."""
    maps = np.zeros((2, 4, 16), np.float32)
    maps[0, 1, 2], maps[1, 2, 13] = 0.7, 0.2
    plain, shown = annotated("ab", (0.9, 0.9)), annotated("ab", (0.9, 0.9), maps=maps)
    rows, columns = 44, 176  # 128 x 32 pixels, fitted into a panel
    for left, row, column in ((6 + 30, 0.375, 2.5 / 16), (6 + 30 + columns + 6 + 30, 0.625, 13.5 / 16)):
        panel = shown[plain.shape[0] :][:rows, left : left + columns].astype(int).sum(axis=2)
        y, x = np.unravel_index(panel.argmax(), panel.shape)
        assert abs(y / rows - row) < 0.1
        assert abs(x / columns - column) < 0.05


def test_a_reading_of_nothing():
    assert annotated("", ()).shape == annotated("", (), maps=np.zeros((0, 8, 32))).shape


def test_unknown_characters_are_one_each():
    text = f"a{UNKNOWN_TEXT}b"
    assert characters_of(text, 3) == ["a", UNKNOWN_TEXT, "b"]
    assert characters_of(text, 7) == list(text)
    assert characters_of(UNKNOWN_TEXT * 2, 2) == [UNKNOWN_TEXT] * 2
    annotated(text, (0.1, 0.2, 0.3), maps=np.ones((3, 8, 32), np.float32))


@pytest.mark.parametrize(("text", "number"), [("abc", 2), ("abc", 4), (UNKNOWN_TEXT, 2), ("", 1), ("abcde", 1)])
def test_confidences_must_fit(text, number):
    with pytest.raises(ValueError, match=f"{number} confidences for the characters of"):
        annotated(text, (0.5,) * number)


def test_maps_must_fit():
    with pytest.raises(ValueError, match="zip"):
        annotated("ab", (0.5, 0.5), maps=np.ones((3, 8, 32)))


def test_sheets_are_saved_in_new_folders(tmp_path):
    sheet = readings_sheet([BLACK], [{"text": "a", "reading": "b", "confidence": 0.5}])
    save_picture(sheet, tmp_path / "new" / "sheet.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "new" / "sheet.png")), sheet)
    assert readings_sheet([], []) is None


def test_an_attention_picture_is_brightest_where_the_model_looked():
    image = np.full((32, 128, 3), 90, np.uint8)
    map_RC = np.zeros((2, 8), np.float32)
    map_RC[:, 5] = 1
    picture = np.asarray(attention_picture(image, map_RC, 256, 256))
    assert picture.shape == (64, 256, 3)
    assert picture.sum(axis=(0, 2)).argmax() == pytest.approx(5.5 * 32, abs=8)
