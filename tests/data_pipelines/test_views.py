"""Views of an image: each shows what its numbers say."""

import cv2
import numpy as np
import pytest

from data_pipelines.images.augmentation import resizing_matrices
from data_pipelines.images.resizing import resize_image, warp_image
from data_pipelines.images.views import VIEWS, view_image


def smooth_image(height, width):
    """Colours without edges, so that what lies half a pixel away is about the same."""
    y, x = np.mgrid[:height, :width] / 15
    return np.rint(np.stack([np.sin(y + x), np.cos(y - x), np.sin(x)], -1) * 100 + 128).astype(np.uint8)


def test_the_first_view_is_the_image():
    image = smooth_image(40, 150)
    for interpolation in ("bilinear", "bicubic", "area"):
        views = view_image(image, 3, 32, 128, interpolation)
        assert views.shape == (3, 32, 128, 3)
        np.testing.assert_array_equal(views[0], resize_image(image, 32, 128, interpolation))
        assert len({view.tobytes() for view in views}) == 3


def test_fewer_views_are_the_first_of_more():
    image = smooth_image(40, 150)
    np.testing.assert_array_equal(
        view_image(image, len(VIEWS), 32, 128, "bilinear")[:4], view_image(image, 4, 32, 128, "bilinear")
    )


@pytest.mark.parametrize("number", [i for i, view in enumerate(VIEWS) if i and not view.angle])
def test_cropped_and_widened_views_show_their_share(number):
    """The same as cutting the share out of an image that is continued by its border."""
    height, width = 100, 200
    image = smooth_image(height, width)
    y, x = (round(side * (share - 1) / 2) for side, share in zip((height, width), VIEWS[number][:0:-1], strict=True))
    around = cv2.copyMakeBorder(image, 40, 40, 40, 40, cv2.BORDER_REPLICATE)
    cut = around[40 - y : 40 + height + y, 40 - x : 40 + width + x]
    seen = view_image(image, len(VIEWS), 32, 128, "bilinear")[number]
    assert np.abs(seen.astype(int) - resize_image(cut, 32, 128, "bilinear")).mean() < 1


@pytest.mark.parametrize("number", [i for i, view in enumerate(VIEWS) if view.angle])
def test_tilted_views_are_tilted_about_the_middle(number):
    """A mark to the right of the middle goes down in clockwise views, by an angle of the image, not of the view."""
    image = np.zeros((200, 400, 3), np.uint8)
    cv2.circle(image, (300, 100), 8, (255, 255, 255), -1)
    seen = view_image(image, len(VIEWS), 64, 64, "bilinear")[number].mean(axis=-1)
    y, x = (np.indices(seen.shape) * seen).sum(axis=(1, 2)) / seen.sum()
    angle = np.radians(VIEWS[number].angle)
    assert y == pytest.approx((100 + 100 * np.sin(angle)) * 64 / 200, abs=0.7)
    assert x == pytest.approx((200 + 100 * np.cos(angle)) * 64 / 400, abs=0.7)


def test_an_image_too_long_to_be_warped_is_seen_whole():
    views = view_image(np.full((4, 40_000, 3), 7, np.uint8), len(VIEWS), 32, 128, "bilinear")
    assert (views == 7).all()


@pytest.mark.parametrize("size", [(32, 128), (20, 90), (320, 1280), (77, 100), (20, 700)])
def test_area_averages_what_shrinks_and_is_bilinear_where_it_grows(size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    area, bilinear = (resize_image(image, 32, 128, way) for way in ("area", "bilinear"))
    grows = size[0] <= 32 and size[1] <= 128
    assert np.array_equal(area, bilinear) == grows
    if size == (320, 1280):  # a hundred pixels become one, whatever four of them are
        np.testing.assert_allclose(area, image.reshape(32, 10, 128, 10, 3).mean(axis=(1, 3)), atol=0.6)
    warped = np.empty_like(area)
    warp_image(image, resizing_matrices(np.array([size]), np.array([[32, 128]]))[0], warped, "area")
    np.testing.assert_allclose(warped, area, atol=8 if grows else 2)  # OpenCV warps in 32nds of a pixel
