"""Crops: boxes are slices, what is rectified is what was there before it was turned or bent, and nothing crashes."""

import cv2
import numpy as np
import pytest

from maerec_jax.reading.word import Word
from maerec_jax.scenes.crops import crop, in_picture
from maerec_jax.scenes.polygons import level_corners, long_sides
from tests.scenes.shapes import rectangle


@pytest.fixture(scope="module")
def picture():
    """Soft shapes, which survive being resampled twice."""
    noise = np.random.default_rng(0).uniform(0, 255, (12, 16, 3)).astype(np.float32)
    return np.clip(cv2.resize(noise, (400, 300), interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("polygon", [[(20, 10), (90, 10), (90, 40), (20, 40)], [(20.9, 25), (55, 10.3), (89.1, 39.5)]])
def test_a_box_is_a_slice(picture, polygon):
    made = crop(picture, np.array(polygon))
    np.testing.assert_array_equal(made, picture[10:40, 20:90])
    assert made.flags.c_contiguous


def test_a_box_ends_with_the_picture(picture):
    np.testing.assert_array_equal(crop(picture, np.array([(-50, 280), (30, 280), (30, 999)])), picture[280:, :30])


@pytest.mark.parametrize("degrees", [0, 8, -33, 60, -70])
@pytest.mark.parametrize("first", [0, 1, 2, 3])
def test_a_turned_rectangle_is_made_level(picture, degrees, first):
    corners = rectangle((200, 150), (120, 40), degrees)
    made = crop(picture, np.roll(corners, first, axis=0), "rectified")
    matrix = cv2.getRotationMatrix2D((199.5, 149.5), degrees, 1)
    expected = cv2.warpAffine(picture, matrix, (400, 300), flags=cv2.INTER_LINEAR)[130:170, 140:260]
    assert made.shape == expected.shape
    assert np.abs(made.astype(int) - expected).max() <= 2
    # A mirrored outline is the same outline.
    np.testing.assert_array_equal(crop(picture, corners[::-1], "rectified"), made)


def test_level_rectangles_are_copied_exactly(picture):
    polygon = np.array([(20, 10), (90, 10), (90, 40), (20, 40)])
    np.testing.assert_array_equal(crop(picture, polygon, "rectified"), picture[10:40, 20:90])
    outline = np.concatenate([np.linspace(polygon[i], polygon[(i + 1) % 4], 5)[:-1] for i in range(4)])
    straightened = crop(picture, outline, "rectified")
    assert straightened.shape == (30, 70, 3)
    assert np.abs(straightened.astype(int) - picture[10:40, 20:90]).max() <= 12  # of its own sampling of the outline


def test_upright_text_stays_upright(picture):
    polygon = rectangle((200, 150), (30, 200), 4)
    assert crop(picture, polygon, "rectified").shape == (200, 30, 3)
    outline = np.concatenate([np.linspace(polygon[i], polygon[(i + 1) % 4], 8)[:-1] for i in range(4)])
    height, width = crop(picture, outline, "rectified").shape[:2]
    assert abs(height - 200) <= 3
    assert abs(width - 30) <= 3
    matrix = cv2.getRotationMatrix2D((199.5, 149.5), 4, 1)
    expected = cv2.warpAffine(picture, matrix, (400, 300), flags=cv2.INTER_LINEAR)[50:250, 185:215]
    made = cv2.resize(crop(picture, outline, "rectified"), (30, 200))
    assert np.abs(made.astype(int) - expected).mean() < 3


def test_a_tapering_quadrilateral_is_seen_from_the_front():
    flat = np.zeros((40, 120, 3), np.uint8)
    flat[:, :60] = 200
    flat[20:] += 50
    corners = np.array([(50, 60), (250, 20), (250, 180), (50, 120)], np.float32)
    matrix = cv2.getPerspectiveTransform(np.array([(0, 0), (120, 0), (120, 40), (0, 40)], np.float32), corners)
    picture = cv2.warpPerspective(flat, matrix, (300, 200))
    made = crop(picture, corners, "rectified")
    height, width = made.shape[:2]
    for y, x in ((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)):
        assert np.abs(made[int(y * height), int(x * width)].astype(int) - flat[int(y * 40), int(x * 120)]).max() <= 2


def bent(radius, half, angles, corners=9):
    """A polygon around a part of a ring, from the left end of its upper side."""
    around = np.linspace(*angles, corners)
    outer, inner = (
        np.stack([500 + r * np.cos(around), 500 + r * np.sin(around)], 1) for r in (radius + half, radius - half)
    )
    return np.concatenate([outer, inner[::-1]])


@pytest.mark.parametrize("roll", [0, 4, 9, 15])
@pytest.mark.parametrize("mirror", [False, True])
def test_bent_text_is_straightened(roll, mirror):
    # The colour tells the angle and the radius of each pixel.
    y, x = np.mgrid[:1000, :1000] + 0.5
    radius, angle = np.hypot(y - 500, x - 500), np.arctan2(y - 500, x - 500)
    picture = np.stack([radius / 2, (angle + np.pi) * 40, np.zeros_like(x)], axis=-1).astype(np.uint8)
    polygon = np.roll(bent(300, 40, (-2.6, -0.7), corners=25), roll, axis=0)
    made = crop(picture, polygon[::-1] if mirror else polygon, "rectified").astype(float)
    height, width = made.shape[:2]
    assert abs(height - 80) <= 4
    assert abs(width - 300 * 1.9) <= 20
    rows, columns = made[..., 0].mean(axis=1) * 2, made[..., 1].mean(axis=0) / 40 - np.pi
    assert np.abs(rows - np.linspace(340, 260, height)).max() < 6
    assert np.abs(columns - np.linspace(-2.6, -0.7, width)).max() < 0.06


def test_round_ends_are_within_the_crop():
    around = np.linspace(-np.pi / 2, np.pi / 2, 12)
    right = np.stack([300 + 40 * np.cos(around), 100 + 40 * np.sin(around)], 1)
    upper, lower = long_sides(np.concatenate([right, [400, 200] - right]))
    assert np.abs((upper + lower)[0] / 2 - (60, 100)).max() < 6
    assert np.abs((upper + lower)[-1] / 2 - (340, 100)).max() < 6


def test_corners_are_ordered_along_the_text():
    for degrees in range(-74, 75, 4):
        corners = rectangle((50, 50), (60, 20), degrees)
        for roll in range(4):
            np.testing.assert_allclose(level_corners(np.roll(corners, roll, axis=0)), corners, atol=1e-4)
    # What is about as long as high lies on the side that is nearest to the horizontal.
    square = rectangle((50, 50), (24, 20), 80)
    np.testing.assert_allclose(level_corners(square), np.roll(square, 1, axis=0), atol=1e-4)


HOSTILE = {
    "nothing": np.zeros((0, 2)),
    "a point": [(5, 5)],
    "one place": [(5, 5)] * 6,
    "a line": [(0, 0), (50, 50), (100, 100), (20, 20), (1, 1)],
    "two points": [(0, 0), (50, 0)],
    "not numbers": [(np.nan, 1), (np.inf, -np.inf), (3, np.nan), (9, 9), (1, 2)],
    "far away": [(1e30, 1e30), (-1e30, 1e30), (-1e30, -1e30), (1e30, -1e30)],
    "outside": [(900, 900), (990, 900), (990, 950), (900, 950)],
    "left of it": [(-90, -90), (-50, -90), (-50, -60), (-90, -60), (-95, -70)],
    "crossing itself": [(0, 0), (100, 100), (100, 0), (0, 100)],
    "a star": [(100 + 80 * np.cos(i * 2.5), 100 + 80 * np.sin(i * 2.5)) for i in range(11)],
    "an arrow": [(0, 0), (100, 50), (0, 100), (40, 50)],
    "thin": [(0, 0), (300, 0.01), (300, 0.02), (150, 0.02), (0, 0.01)],
    "huge": [(-1e5, 10), (1e5, 10), (1e5, 20), (-1e5, 20), (-1e5, 12)],
}


@pytest.mark.parametrize("how", ["box", "rectified", "app"])
@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("size", [(300, 400), (1, 1), (3, 200), (200, 2)])
def test_hostile_polygons_give_crops(how, name, size):
    image = np.full((*size, 3), 7, np.uint8)
    made = crop(image, np.array(HOSTILE[name]), how)
    assert made.dtype == np.uint8
    assert made.ndim == 3
    assert made.shape[2] == 3
    assert 1 <= made.shape[0] * made.shape[1] <= image.size
    assert (made == 7).all()


def test_pictures_that_opencv_cannot_warp():
    image = np.zeros((40, 40_000, 3), np.uint8)
    image[:, 39_900:] = 200
    corners = np.array([(39_910, 5), (39_990, 8), (39_990, 30), (39_910, 27)])
    assert (crop(image, corners, "rectified") == 200).all()
    assert crop(image, [(0, 0), (40_000, 10), (40_000, 40), (0, 30)], "rectified").shape == image.shape


def test_boxes_of_characters_are_moved_into_the_picture():
    word = Word("ab", 1.0, (1.0, 1.0), character_boxes=((1.0, 2.0, 3.0, 4.0), (5.5, 2.0, 7.0, 9.0)))
    polygon = np.array([(100.4, 50), (150, 50), (150, 70), (100.4, 70)])
    assert in_picture(word, (400, 300), polygon).box == (101, 52, 107, 59)
    assert in_picture(word, (400, 300), polygon, "app").box == (101 - 8, 52 - 4, 107 - 8, 59 - 4)
    assert in_picture(word, (400, 300), polygon, "rectified").box is None
