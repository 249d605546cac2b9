"""Augmentation keeps size and type, depends on its generator only, and does what its fields say."""

import numpy as np
import pytest

from data_pipelines.augmentation import Augmentation, affine_matrix

ALWAYS = Augmentation(1, 1, 1, 1, 1)
SHAPES = [(40, 150), (32, 128), (90, 28), (5, 3), (1, 1), (1, 50), (50, 1)]


def picture(height, width):
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("shape", SHAPES)
def test_size_and_type_stay_and_the_input_is_not_changed(shape):
    image = picture(*shape)
    before = image.copy()
    rng = np.random.default_rng(0)
    for _ in range(30):
        result = ALWAYS(image, rng)
        assert result.shape == image.shape
        assert result.dtype == np.uint8
    np.testing.assert_array_equal(image, before)


def test_the_generator_decides_everything():
    image = picture(40, 150)
    results = [ALWAYS(image, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(results[0], results[1])
    assert (results[0] != results[2]).any()


def test_nothing_happens_with_probability_zero_and_something_at_the_stated_rate():
    image = picture(20, 60)
    rng = np.random.default_rng(0)
    assert Augmentation(0, 0, 1, 1, 0)(image, rng) is image
    changed = np.mean([Augmentation(0.5, 0, 0, 0, 0)(image, rng) is not image for _ in range(1000)])
    assert abs(changed - 0.5) < 0.06


def test_a_flat_image_stays_flat_under_geometry_resolution_and_blur():
    image = np.full((30, 90, 3), (10, 120, 240), np.uint8)
    rng = np.random.default_rng(0)
    for _ in range(50):
        np.testing.assert_array_equal(Augmentation(1, 1, 0, 1, 0)(image, rng), image)


def test_noise_has_the_stated_variance():
    image = np.full((200, 200, 3), 128, np.uint8)
    noise = Augmentation(0, 1, 1, 0, 0, halvings=0)(image, np.random.default_rng(0)).astype(float) - 128
    assert abs(noise.mean()) < 0.1
    assert abs(noise.var() - 20) < 1


def test_brightness_contrast_saturation_and_hue_stay_in_range():
    gray = np.full((8, 8, 3), 100, np.uint8)
    rng = np.random.default_rng(0)
    values = [int(Augmentation(0, 0, 0, 0, 1)(gray, rng).mean()) for _ in range(300)]
    # A flat grey image has neither contrast nor colour: only brightness can change it.
    assert 49 <= min(values) < 60
    assert 140 < max(values) <= 151
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 200
    unchanged = Augmentation(0, 0, 0, 0, 1, color_range=0.0, hue_range=0.0)(red, rng)
    np.testing.assert_array_equal(unchanged, red)


def test_affine_matrix_moves_points_as_stated():
    middle = np.array([29.5, 9.5, 1])
    right, down = np.eye(3)[:2]
    np.testing.assert_allclose(affine_matrix(60, 20, angle=33, scale=1.7, shear=20) @ middle, middle, atol=1e-12)
    moved = affine_matrix(60, 20, shift_x=3, shift_y=-2) @ middle
    np.testing.assert_allclose(moved, middle + 3 * right - 2 * down)
    np.testing.assert_allclose(affine_matrix(60, 20, angle=90) @ (middle + right), middle + down, atol=1e-12)
    np.testing.assert_allclose(affine_matrix(60, 20, shear=45) @ (middle + 2 * down), middle - 2 * right + 2 * down)
