"""Augmentation on the device, inside the training step: what changes pixels in place. Geometry happened on the host.

Images come and go as uint8 RGB; in between they are float32 grey levels from 0 to 255.
"""

import math
from collections.abc import Callable
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.images.augmentation import CHANGES, NO_AUGMENTATION, Augmentation, Policy, RandAugment

Array = jax.Array

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # of R, G and B (ITU-R BT.601)


@jax.named_scope("augmentation")
def augment(batch: dict[str, Array], key: Array, policy: Policy) -> dict[str, Array]:
    """Change the images of a training batch at random.

    Args:
      batch: has ``image``, uint8 (B, H, W, 3), and for a ``RandAugment`` also ``operations``, int32 (B, layers).
      key: of this step. Row i of the whole batch gets the same numbers however the batch lies on devices.
      policy: what may happen.

    Returns:
      The batch with new images and without ``operations``.
    """
    rest = {name: x for name, x in batch.items() if name != "operations"}
    if policy == NO_AUGMENTATION:
        return rest

    def change(one: tuple[Array, Array, Array]) -> Array:
        image_HWC, key, operations_L = one
        pixels_HWC = image_HWC.astype(jnp.float32)
        if isinstance(policy, RandAugment):
            pixels_HWC = _operate(pixels_HWC, key, policy, operations_L)
        else:
            pixels_HWC = _published(pixels_HWC, key, policy)
        return jnp.round(jnp.clip(pixels_HWC, 0, 255)).astype(jnp.uint8)

    keys = jax.random.split(key, len(batch["image"]))
    # A CPU takes one image after the other and does what was drawn for it; accelerators do everything for all of them.
    image_BHWC = jax.lax.platform_dependent(
        (batch["image"], keys, batch.get("operations")), cpu=partial(jax.lax.map, change), default=jax.vmap(change)
    )
    if "width" in batch:  # what fills up an image stays black
        columns_BHW1 = jnp.arange(image_BHWC.shape[2])[:, None] < batch["width"][:, None, None, None]
        image_BHWC = jnp.where(columns_BHW1, image_BHWC, 0)
    return rest | {"image": image_BHWC}


def _sometimes(probability: float, change: Callable[[Array, Array], Array], image_HWC: Array, key: Array) -> Array:
    """``change(image, key)`` with a probability."""
    if not probability:
        return image_HWC
    draw_key, key = jax.random.split(key)
    on = jax.random.uniform(draw_key) < probability
    # The barrier keeps compilers from fusing a change into the next, which would compute it anew for every neighbour.
    return jax.lax.optimization_barrier(jax.lax.cond(on, change, lambda image_HWC, _: image_HWC, image_HWC, key))


def _published(image_HWC: Array, key: Array, policy: Augmentation) -> Array:
    """The recipe of MAERec: resolution, noise and blur together at times, colour at times."""
    degrade_key, color_key = jax.random.split(key)
    image_HWC = _sometimes(policy.degradation_probability, partial(_degrade, policy), image_HWC, degrade_key)
    return _sometimes(policy.color_probability, partial(_recolor, policy), image_HWC, color_key)


def _degrade(policy: Augmentation, image_HWC: Array, key: Array) -> Array:
    level_key, noise_key, blur_key = jax.random.split(key, 3)

    def add_noise(image_HWC: Array, key: Array) -> Array:
        noise_HWC = math.sqrt(policy.noise_variance) * jax.random.normal(key, image_HWC.shape)
        return jnp.clip(image_HWC + noise_HWC, 0, 255)

    def blur(image_HWC: Array, key: Array) -> Array:
        return _smear(image_HWC, _motion_kernel(key, policy.blur_size))

    if policy.halvings:
        level = jax.random.randint(level_key, (), 0, policy.halvings + 1)
        image_HWC = lose_resolution(image_HWC, level, policy.halvings)
    image_HWC = _sometimes(policy.noise_probability, add_noise, image_HWC, noise_key)
    return _sometimes(policy.blur_probability, blur, image_HWC, blur_key)


def lose_resolution(image_HWC: Array, level: Array, halvings: int) -> Array:
    """The image as it looks after it was enlarged four times and its resolution halved ``level`` times.

    Enlarging, halving (``cv2.pyrDown``) and resizing back are linear and separable: one matrix for rows and one for
    columns do them all at once, without rounding in between. The image is float32 (H, W, 3), and ``level`` int32, from
    0 to ``halvings``.
    """
    height, width, _ = image_HWC.shape
    rows, columns = jnp.asarray(_pyramid(height, halvings))[level], jnp.asarray(_pyramid(width, halvings))[level]
    # Accelerators would round grey levels to bfloat16 otherwise.
    return jnp.einsum("ih,vw,hwc->ivc", rows, columns, image_HWC, precision=jax.lax.Precision.HIGHEST)


@cache
def _pyramid(size: int, halvings: int) -> np.ndarray:
    """float32 (halvings + 1, size, size): what 0, 1 ... ``halvings`` halvings do to a row of pixels."""
    matrices, small = [], _resize_matrix(size, 4 * size)
    for _ in range(halvings + 1):
        matrices.append(_resize_matrix(len(small), size) @ small)
        small = _halving_matrix(len(small)) @ small
    return np.stack(matrices).astype(np.float32)


def _resize_matrix(size: int, new_size: int) -> np.ndarray:
    """Bilinear resizing of a row of pixels, without averaging, as OpenCV does it: float64 (new_size, size)."""
    place = np.clip((np.arange(new_size) + 0.5) * size / new_size - 0.5, 0, size - 1)
    left = np.minimum(place.astype(int), max(size - 2, 0))
    matrix = np.zeros((new_size, size))
    np.add.at(matrix, (np.arange(new_size), left), 1 - (place - left))
    np.add.at(matrix, (np.arange(new_size), np.minimum(left + 1, size - 1)), place - left)
    return matrix


def _halving_matrix(size: int) -> np.ndarray:
    """Blurring by [1 4 6 4 1] / 16, borders mirrored, and halving: float64 ((size + 1) // 2, size)."""
    matrix = np.zeros(((size + 1) // 2, size))
    for offset, weight in zip(range(-2, 3), (1, 4, 6, 4, 1), strict=True):
        place = np.abs(2 * np.arange(len(matrix)) + offset)
        place = np.where(place >= size, 2 * (size - 1) - place, place) % size
        np.add.at(matrix, (np.arange(len(matrix)), place), weight / 16)
    return matrix


def _motion_kernel(key: Array, largest: int) -> Array:
    """float32 (largest, largest), sum 1: a line between two places of a square of 3, 5 ... ``largest`` pixels."""
    size_key, start_key, offset_key = jax.random.split(key, 3)
    size = 3 + 2 * jax.random.randint(size_key, (), 0, (largest - 1) // 2)
    start = jax.random.randint(start_key, (), 0, size * size)
    end = (start + jax.random.randint(offset_key, (), 1, size * size)) % (size * size)

    def point(number: Array) -> Array:
        return jnp.stack([number // size, number % size]).astype(jnp.float32) - (size - 1) / 2

    first, line = point(start), point(end) - point(start)
    axis = jnp.arange(largest) - (largest - 1) / 2
    place_YX2 = jnp.stack(jnp.meshgrid(axis, axis, indexing="ij"), axis=-1)
    along_YX = jnp.clip(((place_YX2 - first) * line).sum(axis=-1) / (line**2).sum(), 0, 1)
    distance_YX = jnp.linalg.norm(place_YX2 - first - along_YX[..., None] * line, axis=-1)
    # A pixel counts by how much of it the line covers, roughly: smoother than a line of whole pixels.
    kernel_YX = jnp.maximum(1 - distance_YX, 0)
    return kernel_YX / kernel_YX.sum()


def _smear(image_HWC: Array, kernel_YX: Array) -> Array:
    """Correlate each channel with an odd square kernel; borders are repeated."""
    height, width, _ = image_HWC.shape
    size = len(kernel_YX)
    padded = jnp.pad(image_HWC, ((size // 2, size // 2), (size // 2, size // 2), (0, 0)), mode="edge")
    taps = ((y, x) for y in range(size) for x in range(size))
    return sum((kernel_YX[y, x] * padded[y : y + height, x : x + width] for y, x in taps), jnp.zeros(()))


def _recolor(policy: Augmentation, image_HWC: Array, key: Array) -> Array:
    """Brightness, contrast, saturation and hue in random order, as one affine map of the colours.

    The hue turns about the grey axis. Nothing is clipped in between.
    """
    order_key, amount_key = jax.random.split(key)
    *factors, turn = jax.random.uniform(amount_key, (4,), minval=-1, maxval=1)
    brightness, contrast, saturation = (1 + policy.color_range * factor for factor in factors)
    linear_33, shift_3, mean_3 = jnp.eye(3), jnp.zeros(3), image_HWC.mean(axis=(0, 1))
    gray_33, zero_3 = jnp.tile(_LUMA, (3, 1)), jnp.zeros(3)
    for number in jax.random.permutation(order_key, 4):
        gray = _LUMA @ (linear_33 @ mean_3 + shift_3)
        maps = [
            (brightness * jnp.eye(3), zero_3),
            (contrast * jnp.eye(3), zero_3 + (1 - contrast) * gray),
            (saturation * jnp.eye(3) + (1 - saturation) * gray_33, zero_3),
            (_turn_about_gray(2 * math.pi * policy.hue_range * turn), zero_3),
        ]
        step_33, step_3 = (jnp.stack(parts)[number] for parts in zip(*maps, strict=True))
        linear_33, shift_3 = step_33 @ linear_33, step_33 @ shift_3 + step_3
    return image_HWC @ linear_33.T + shift_3


def _turn_about_gray(angle: Array) -> Array:
    """The rotation of RGB space about its diagonal by ``angle``, in radians (Rodrigues' formula)."""
    axis = np.ones(3) / math.sqrt(3)
    cross = np.cross(np.eye(3), -axis)
    return jnp.cos(angle) * np.eye(3) + jnp.sin(angle) * cross + (1 - jnp.cos(angle)) * np.outer(axis, axis)


def _operate(image_HWC: Array, key: Array, policy: RandAugment, operations_L: Array) -> Array:
    """Apply operations of a ``RandAugment`` one after the other; -1 changes nothing."""
    branches = [lambda image_HWC, *_: image_HWC, *(_OPERATIONS[name] for name in CHANGES)]
    for operation, layer_key in zip(operations_L, jax.random.split(key, policy.layers), strict=True):
        strength_key, operation_key = jax.random.split(layer_key)
        strength = (policy.magnitude + policy.spread * jax.random.normal(strength_key)) / 10
        image_HWC = jax.lax.switch(operation + 1, branches, image_HWC, jnp.clip(strength, 0, 1), operation_key)
        image_HWC = jax.lax.optimization_barrier(jnp.clip(image_HWC, 0, 255))
    return image_HWC


def _auto_contrast(image_HWC: Array, *_: Array) -> Array:
    """Stretch each channel to the full range."""
    low_C, high_C = image_HWC.min(axis=(0, 1)), image_HWC.max(axis=(0, 1))
    return jnp.where(high_C > low_C, (image_HWC - low_C) * 255 / jnp.maximum(high_C - low_C, 1), image_HWC)


def _equalize(image_HWC: Array, *_: Array) -> Array:
    """Make all grey levels of each channel about equally frequent, 8 of 256 levels at a time."""
    # Comparing and adding only: histograms and tables scatter and gather, which accelerators do slowly.
    width = 8
    channels_CN = image_HWC.reshape(-1, 3).T
    below_CV = (channels_CN[:, None, :] < jnp.arange(0, 257, width)[:, None]).mean(axis=-1)
    share_CV = jnp.diff(below_CV, axis=1)
    parts = (share_CV[:, i : i + 1] * jnp.clip(channels_CN / width - i, 0, 1) for i in range(256 // width))
    return 255 * sum(parts, jnp.zeros(())).T.reshape(image_HWC.shape)


def _invert(image_HWC: Array, *_: Array) -> Array:
    """Turn light into dark: light words on dark ground are as common as the opposite."""
    return 255 - image_HWC


def _posterize(image_HWC: Array, amount: Array, _key: Array) -> Array:
    """Keep only the upper 8 to 3 bits of each value."""
    step = 2.0 ** jnp.round(5 * amount)
    return jnp.floor(image_HWC / step) * step


def _solarize(image_HWC: Array, amount: Array, _key: Array) -> Array:
    """Invert the values above a threshold."""
    return jnp.where(image_HWC <= 255 * (1 - amount), image_HWC, 255 - image_HWC)


def _saturation(image_HWC: Array, amount: Array, key: Array) -> Array:
    """Blend with the grey image, or away from it."""
    gray_HW1 = (image_HWC @ _LUMA)[..., None]
    return gray_HW1 + _factor(amount, key) * (image_HWC - gray_HW1)


def _contrast(image_HWC: Array, amount: Array, key: Array) -> Array:
    """Blend with the mean grey level, or away from it."""
    gray = (image_HWC @ _LUMA).mean()
    return gray + _factor(amount, key) * (image_HWC - gray)


def _brightness(image_HWC: Array, amount: Array, key: Array) -> Array:
    """Multiply all values."""
    return _factor(amount, key) * image_HWC


def _blur(image_HWC: Array, amount: Array, _key: Array) -> Array:
    """Gaussian blur with a standard deviation of up to 2 pixels."""
    offset = jnp.arange(-4, 5)
    weights = jnp.exp(-((offset / jnp.maximum(2 * amount, 1e-3)) ** 2) / 2)
    weights = weights / weights.sum()
    height, width, _ = image_HWC.shape
    padded = jnp.pad(image_HWC, ((4, 4), (4, 4), (0, 0)), mode="edge")
    rows = sum((weights[i] * padded[i : i + height] for i in range(9)), jnp.zeros(()))
    return sum((weights[i] * rows[:, i : i + width] for i in range(9)), jnp.zeros(()))


def _noise(image_HWC: Array, amount: Array, key: Array) -> Array:
    """Shot noise: its variance grows with the light, to 400 squared grey levels on white."""
    deviation = jnp.sqrt(400 * amount * image_HWC / 255)
    return image_HWC + deviation * jax.random.normal(key, image_HWC.shape)


def _factor(amount: Array, key: Array) -> Array:
    """1 plus or minus up to 0.9."""
    return 1 + 0.9 * amount * jax.random.rademacher(key, (), jnp.float32)


_OPERATIONS: dict[str, Callable[[Array, Array, Array], Array]] = {
    "auto_contrast": _auto_contrast,
    "equalize": _equalize,
    "invert": _invert,
    "posterize": _posterize,
    "solarize": _solarize,
    "saturation": _saturation,
    "contrast": _contrast,
    "brightness": _brightness,
    "blur": _blur,
    "noise": _noise,
}
