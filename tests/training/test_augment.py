"""Augmentation on the device: what it depends on, what each change does, and agreement with OpenCV."""

from functools import cache, partial

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.images.augmentation import CHANGES, NO_AUGMENTATION, Augmentation, RandAugment
from maerec_jax.training import augment as device
from maerec_jax.training.augment import augment, lose_resolution

ALWAYS = Augmentation(1, 1, 1, 1, 1)
KEY = jax.random.key(0)


def images(count=8, height=32, width=128):
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)


def operations(count, *names):
    return np.tile(np.array([CHANGES.index(name) for name in names], np.int32), (count, 1))


@cache
def compiled(policy):
    return jax.jit(partial(augment, policy=policy))


def changed(policy, image_BHWC, key=KEY, **rest):
    batch = {"image": jnp.asarray(image_BHWC)} | {name: jnp.asarray(x) for name, x in rest.items()}
    return np.asarray(compiled(policy)(batch, key)["image"])


def operated(name, image_BHWC, policy=None, key=KEY):
    return changed(policy or RandAugment(layers=1), image_BHWC, key, operations=operations(len(image_BHWC), name))


@pytest.mark.parametrize("shape", [(32, 128), (7, 5)])
@pytest.mark.parametrize("policy", [ALWAYS, RandAugment()])
def test_size_and_type_stay_and_images_change(shape, policy):
    image = images(4, *shape)
    drawn = {"operations": operations(4, "blur", "noise", "equalize")} if isinstance(policy, RandAugment) else {}
    out = changed(policy, image, **drawn)
    assert out.shape == image.shape
    assert out.dtype == np.uint8
    assert (out != image).any(axis=(1, 2, 3)).all()


def test_without_augmentation_nothing_happens_and_the_rest_of_the_batch_stays():
    batch = {"image": jnp.asarray(images()), "valid": jnp.ones(8, bool)}
    out = augment(batch, KEY, NO_AUGMENTATION)
    assert out.keys() == batch.keys()
    np.testing.assert_array_equal(out["image"], batch["image"])
    assert augment(batch, KEY, ALWAYS)["valid"] is batch["valid"]


def test_the_key_decides_everything_and_rows_differ():
    image = np.repeat(images(1), 6, axis=0)
    first, again, other = (changed(ALWAYS, image, jax.random.key(k)) for k in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert len({row.tobytes() for row in first}) == 6


@pytest.mark.parametrize("policy", [Augmentation(0.5, 0.5, 0.5, 0.5, 0.5), RandAugment()])
def test_accelerators_compute_the_same(policy, monkeypatch):
    image = images(16, 16, 64)
    drawn = {}
    if isinstance(policy, RandAugment):
        drawn["operations"] = np.random.default_rng(1).integers(-1, len(CHANGES), (16, 3)).astype(np.int32)
        assert len(np.unique(drawn["operations"])) == 1 + len(CHANGES)
    one_by_one = changed(policy, image, **drawn)
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda batch, cpu, default: default(batch))
    compiled.cache_clear()
    together = changed(policy, image, **drawn)
    compiled.cache_clear()
    assert np.abs(one_by_one.astype(int) - together).max() <= 1
    assert (one_by_one == together).mean() > 0.99


def test_changes_come_at_the_stated_rate():
    image = images(600, 8, 32)
    for policy in (Augmentation(0.5, 0.25, 1, 1, 0), Augmentation(0.5, 0, 0.5, 0.5, 0.25)):
        out = changed(policy, image)
        assert abs((out != image).any(axis=(1, 2, 3)).mean() - 0.25) < 0.06


@pytest.mark.parametrize("level", range(5))
def test_resolution_is_lost_as_opencv_loses_it(level):
    image = images(1)[0].astype(np.float32)
    small = cv2.resize(image, (512, 128))
    for _ in range(level):
        small = cv2.pyrDown(small)
    expected = cv2.resize(small, (128, 32))
    np.testing.assert_allclose(lose_resolution(jnp.asarray(image), jnp.int32(level), 4), expected, atol=1e-3)


def test_noise_has_the_stated_variance():
    image = np.full((4, 100, 100, 3), 128, np.uint8)
    noise = changed(Augmentation(0, 1, 1, 0, 0, halvings=0), image).astype(float) - 128
    assert abs(noise.mean()) < 0.1
    assert abs(noise.var() - 20) < 1


def test_motion_blur_spreads_a_point_along_a_line_and_keeps_its_light():
    image = np.zeros((64, 21, 21, 3), np.uint8)
    image[:, 10, 10] = 255
    policy = Augmentation(0, 1, 0, 1, 0, halvings=0)
    kernels = np.stack([device._motion_kernel(jax.random.key(i), 7) for i in range(64)])
    np.testing.assert_allclose(kernels.sum(axis=(1, 2)), 1, rtol=1e-5)
    assert (kernels > 0).sum(axis=(1, 2)).min() > 1
    assert (kernels > 0).sum(axis=(1, 2)).max() < 25  # a line, not an area
    out = changed(policy, image)
    assert (out[:, 10, 10, 0] < 255).all()
    outside = out.copy()
    outside[:, 5:16, 5:16] = 0  # 3 pixels of blur, and what enlarging and halving spread
    assert not outside.any()


def test_a_flat_image_stays_flat_under_loss_of_resolution_and_blur():
    image = np.full((32, 32, 128, 3), (10, 120, 240), np.uint8)
    np.testing.assert_array_equal(changed(Augmentation(0, 1, 0, 1, 0), image), image)
    np.testing.assert_array_equal(operated("blur", image), image)


def test_brightness_contrast_saturation_and_hue_stay_in_range():
    gray = np.full((400, 8, 8, 3), 100, np.uint8)
    out = changed(Augmentation(0, 0, 0, 0, 1), gray)
    # A flat grey image has neither contrast nor colour: only brightness can change it.
    assert (out == out[..., :1]).all()
    assert 49 <= out.min() < 60
    assert 140 < out.max() <= 151
    still = Augmentation(0, 0, 0, 0, 1, color_range=0.0, hue_range=0.0)
    np.testing.assert_array_equal(changed(still, images()), images())
    red = np.zeros((50, 8, 8, 3), np.uint8)
    red[..., 0] = 200
    turned = changed(Augmentation(0, 0, 0, 0, 1, color_range=0.0), red)
    hue = cv2.cvtColor(turned[:, 0], cv2.COLOR_RGB2HSV_FULL)[:, 0, 0].astype(np.int8)  # of 256 steps, 0 is red
    assert np.abs(hue).max() <= 0.1 * 256 + 8  # turning about the grey axis is not quite turning in HSV
    assert np.abs(hue).max() > 10


def test_operations_do_what_their_names_say():
    image = images()
    np.testing.assert_array_equal(operated("invert", image), 255 - image)
    dull = (image // 4 + 60).astype(np.uint8)
    stretched = operated("auto_contrast", dull)
    assert stretched.min(axis=(1, 2)).max() == 0
    assert stretched.max(axis=(1, 2)).min() == 255
    dark = (image.astype(float) ** 2 / 255).astype(np.uint8)
    equal = operated("equalize", dark).astype(float)
    np.testing.assert_allclose(np.quantile(equal, [0.25, 0.5, 0.75]), [64, 128, 191], atol=8)
    strong = RandAugment(layers=1, magnitude=10, spread=0)
    assert set(np.unique(operated("posterize", image, strong))) == set(range(0, 256, 32))
    weak = RandAugment(layers=1, magnitude=0, spread=0)
    for name in ("posterize", "solarize", "saturation", "contrast", "brightness", "blur", "noise"):
        np.testing.assert_array_equal(operated(name, image, weak), image, err_msg=name)
    gray = np.repeat(image[..., :1], 3, axis=-1)
    assert np.abs(operated("saturation", gray).astype(int) - gray).max() <= 1
    solarized = operated("solarize", image, RandAugment(layers=1, magnitude=5, spread=0))
    np.testing.assert_array_equal(solarized, np.where(image < 127.5, image, 255 - image))
    noisy = operated("noise", np.full_like(image, 200), RandAugment(layers=1, magnitude=5, spread=0)).astype(float)
    assert abs(noisy.var() - 400 * 0.5 * 200 / 255) < 8
    edge = np.zeros_like(image)
    edge[:, :, 64:] = 255
    assert 0 < operated("blur", edge)[0, 16, 63, 0] < operated("blur", edge)[0, 16, 64, 0] < 255


def test_operations_of_a_row_are_applied_in_order_and_minus_one_is_none():
    image = images(3)
    codes = np.array([[-1, -1], [CHANGES.index("invert"), CHANGES.index("invert")], [-1, CHANGES.index("invert")]])
    out = changed(RandAugment(layers=2), image, operations=codes.astype(np.int32))
    np.testing.assert_array_equal(out, np.stack([image[0], image[1], 255 - image[2]]))
