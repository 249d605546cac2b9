"""The geometry of augmentation: what it depends on, how far it goes, and that it is one warp with the resize."""

import cv2
import numpy as np
import pytest

from data_pipelines.images.augmentation import (
    CHANGES,
    MOVES,
    Augmentation,
    RandAugment,
    affine_matrices,
    perspective_matrices,
    resizing_matrices,
    uniforms,
)
from data_pipelines.images.batch_decoder import BatchDecoder
from data_pipelines.images.resizing import resize_image, warp_image
from data_pipelines.sources.records import Record

SIZES = np.array([[40, 150], [32, 128], [90, 28], [5, 3], [1, 1], [1, 50], [50, 1]])
POLICIES = [Augmentation(), Augmentation(frame="resized"), RandAugment()]


def smooth_picture(height, width):
    small = np.random.default_rng(height * 1000 + width).integers(0, 256, (4, 9, 3), np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize("columns", [4, 16])
def test_random_numbers_depend_on_seed_and_place_only(columns):
    together = uniforms(3, 1000, 12, columns)
    apart = np.concatenate([uniforms(3, 1000 + i, 4, columns) for i in (0, 4, 8)])
    np.testing.assert_array_equal(together, apart)
    assert len(np.unique(together)) == together.size
    assert (uniforms(4, 1000, 12, columns) != together).any()


@pytest.mark.parametrize("policy", POLICIES)
def test_geometry_depends_on_seed_and_place_only(policy):
    sizes = np.tile(SIZES, (4, 1))
    together = policy.draw(5, 70, len(sizes))
    matrices = policy.matrices(together.numbers_BK, sizes)
    for i in range(len(sizes)):
        alone = policy.draw(5, 70 + i, 1)
        np.testing.assert_allclose(policy.matrices(alone.numbers_BK, sizes[i : i + 1])[0], matrices[i], rtol=1e-12)
        assert together.moved_B[i] == alone.moved_B[0]
    other = policy.draw(6, 70, len(sizes))
    assert (policy.matrices(other.numbers_BK, sizes) != matrices).any()


@pytest.mark.parametrize("policy", POLICIES)
def test_every_size_can_be_moved(policy):
    records = [(i, Record(smooth_picture(*size), None)) for i, size in enumerate(SIZES.tolist())] * 20
    batch = BatchDecoder(32, 128, augmentation=policy)(records, len(records), (0, 0))
    assert batch["valid"].all()


def test_images_are_moved_as_often_as_stated():
    assert not Augmentation(geometry_probability=0).draw(0, 0, 4000).moved_B.any()
    assert Augmentation(geometry_probability=1).draw(0, 0, 4000).moved_B.all()
    assert abs(Augmentation(geometry_probability=0.3).draw(0, 0, 4000).moved_B.mean() - 0.3) < 0.03


def test_affine_matrices_move_points_as_stated():
    size = np.array([[20, 60]])
    middle, right, down = np.array([29.5, 9.5, 1]), np.array([1, 0, 0]), np.array([0, 1, 0])

    def matrix(angle=0.0, **changes):
        return affine_matrices(size, angle, **changes)[0]

    np.testing.assert_allclose(matrix(angle=33, scale=1.7, shear=(20, 5)) @ middle, middle, atol=1e-12)
    np.testing.assert_allclose(matrix(shift=(3, -2)) @ middle, middle + 3 * right - 2 * down)
    np.testing.assert_allclose(matrix(angle=90) @ (middle + right), middle + down, atol=1e-12)
    np.testing.assert_allclose(matrix(shear=(45, 0)) @ (middle + 2 * down), middle - 2 * right + 2 * down)
    np.testing.assert_allclose(matrix(shear=(0, 45)) @ (middle + 2 * right), middle + 2 * right - 2 * down)


def test_perspective_moves_the_corners_inward_as_stated():
    rng = np.random.default_rng(0)
    inward = rng.uniform(0, 0.9, (len(SIZES), 4, 2))
    matrices = perspective_matrices(SIZES, inward)
    for (height, width), matrix, moves in zip(SIZES, matrices, inward, strict=True):
        corners = np.array([[0, 0], [width, 0], [width, height], [0, height]]) - 0.5
        middle = np.array([width, height]) / 2 - 0.5
        homogeneous = np.c_[corners, np.ones(4)] @ matrix.T
        np.testing.assert_allclose(
            homogeneous[:, :2] / homogeneous[:, 2:], corners + moves * (middle - corners), atol=1e-9
        )


def test_a_warp_that_moves_nothing_is_a_resize():
    for height, width in [(32, 128), (50, 96), (64, 64), (17, 300)]:
        image, out = smooth_picture(height, width), np.empty((32, 128, 3), np.uint8)
        warp_image(image, resizing_matrices(np.array([[height, width]]), np.array([[32, 128]]))[0], out, "bilinear")
        # OpenCV's warp knows places to 1/32 of a pixel only.
        resized = resize_image(image, 32, 128, "bilinear")
        assert np.abs(out.astype(int) - resized).mean() < 1
        warp_image(image, resizing_matrices(np.array([[height, width]]), np.array([[32, 128]]))[0], out, "bicubic")
        assert np.abs(out.astype(int) - resize_image(image, 32, 128, "bicubic")).mean() < 3


@pytest.mark.parametrize("frame", ["source", "resized"])
def test_one_warp_equals_moving_and_resizing_one_after_the_other(frame):
    height, width = 64, 200
    image = smooth_picture(height, width)
    policy = Augmentation(geometry_probability=1, frame=frame)
    errors, blunders = [], []
    for place in range(30):
        batch = BatchDecoder(32, 128, augmentation=policy)([(0, Record(image, None))], 1, (0, place))
        frame_size = np.array([[height, width] if frame == "source" else [32, 128]])
        (matrix,) = policy.matrices(policy.draw(0, place, 1).numbers_BK, frame_size)
        moved = image if frame == "source" else resize_image(image, 32, 128, "bilinear")
        moved = cv2.warpPerspective(moved, matrix, moved.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
        moved = resize_image(moved, 32, 128, "bilinear")
        errors.append(np.abs(batch["image"][0].astype(int) - moved).mean())
        blunders.append(np.abs(resize_image(image, 32, 128, "bilinear").astype(int) - moved).mean())
    assert np.mean(errors) < 2 < 20 < np.mean(blunders)


def test_a_flat_image_stays_flat_under_every_move():
    image = np.full((30, 90, 3), (10, 120, 240), np.uint8)
    for policy in (Augmentation(geometry_probability=1), RandAugment(magnitude=10)):
        batch = BatchDecoder(32, 128, augmentation=policy)([(0, Record(image, None))] * 50, 50, (0, 0))
        assert (batch["image"] == (10, 120, 240)).all()


def test_randaugment_draws_all_operations_equally_often_and_moves_what_it_says():
    policy = RandAugment(layers=3)
    draws = policy.draw(0, 0, 6000)
    counts = np.bincount(draws.operations_BL.ravel() + 1, minlength=len(CHANGES) + 1)
    expected = 18_000 / (len(MOVES) + len(CHANGES))
    np.testing.assert_allclose(counts[1:], expected, rtol=0.12)
    np.testing.assert_allclose(counts[0], len(MOVES) * expected, rtol=0.05)
    np.testing.assert_array_equal(draws.moved_B, (draws.operations_BL < 0).any(axis=1))
    matrices = policy.matrices(draws.numbers_BK, np.full((6000, 2), (32, 128)))
    identity = np.abs(matrices - np.eye(3)).max(axis=(1, 2)) < 1e-9
    assert identity[~draws.moved_B].all()
    assert not identity[draws.moved_B].any()


def test_randaugment_gets_stronger_with_its_magnitude():
    sizes = np.full((2000, 2), (32, 128))
    policies = [RandAugment(magnitude=m) for m in (0, 3, 6, 9)]
    shears = [np.abs(p.matrices(p.draw(0, 0, 2000).numbers_BK, sizes)[:, 0, 1]).mean() for p in policies]
    assert shears == sorted(shears)
    assert shears[0] < 0.02 < 0.1 < shears[-1]
