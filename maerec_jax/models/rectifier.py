"""ASTER's rectifier (IEEE TPAMI 2018, section 3.1): finds where a word lies in an image, and straightens it.

A small network predicts control points along the upper and the lower edge of the word. The thin-plate spline that takes
evenly placed points to them tells for every pixel of the straight word where it is in the image.
"""

from functools import cache
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.nn.initializers import variance_scaling, xavier_normal, zeros

from maerec_jax.models.batch_norm import BatchNorm
from maerec_jax.models.convolution import ConvNorm
from maerec_jax.models.dense import Dense

Array = jax.Array
Size = tuple[int, int]

CONTROL_POINTS = 20
WIDTHS = (32, 64, 128, 256, 256, 256)
"""Those of the convolutions that look for the word; between two there is a pooling that halves height and width."""
TARGET_MARGIN = 0.05
"""From the border of the straight word to where its control points lie (``even_points``)."""
SHRINKS = 2 ** (len(WIDTHS) - 1)
"""What the small images' height and width are divided by in all."""

SHARDING = ((r"rectifier/fc\d/kernel", ("fsdp", None)), (r"rectifier/(fc\d/bias|spline_\w+)", ()))
"""How what is neither convolution nor norm lies on a mesh (``ModelConfig.sharding``)."""

_HIDDEN = 512
_FIRST_MARGIN = 0.01  # of the control points that an untrained rectifier finds
_EXACT = jax.lax.Precision.HIGHEST  # products of bfloat16 would move pixels


def is_spline(path: str) -> bool:
    """Whether the parameter at a path is a table of the spline: a constant, kept so that those of files stay theirs."""
    return path.startswith("rectifier/spline_")


def even_points(margin: float) -> np.ndarray:
    """Control points (x, y) where a straight word has them, float64 (20, 2) in parts of the width and the height.

    Ten along the upper edge and ten along the lower one, both from left to right, this far from the borders.
    """
    x, upper = np.linspace(margin, 1 - margin, CONTROL_POINTS // 2), np.full(CONTROL_POINTS // 2, margin)
    return np.concatenate([np.stack([x, upper], axis=1), np.stack([x, 1 - upper], axis=1)])


@cache
def spline_tables(size: Size) -> tuple[np.ndarray, np.ndarray]:
    """What the spline is computed with for an image of a height and width.

    Returns:
      ``inverse``, float32 (23, 23): from where the control points go to the coefficients of the spline.
      ``rows``, float32 (height * width, 23): what each pixel takes of the coefficients, in raster order.
    """
    targets = even_points(TARGET_MARGIN)
    ones, zeros = np.ones((CONTROL_POINTS, 1)), np.zeros((3, 3))
    affine = np.concatenate([ones, targets], axis=1)
    system = np.block([[_bending(targets, targets), affine], [affine.T, zeros]])
    y, x = np.meshgrid(*(np.arange(side) / max(side - 1, 1) for side in size), indexing="ij")
    pixels = np.stack([x.ravel(), y.ravel()], axis=1)
    rows = np.concatenate([_bending(pixels, targets), np.ones((len(pixels), 1)), pixels], axis=1)
    return np.linalg.inv(system).astype(np.float32), rows.astype(np.float32)


def _bending(points_N2: np.ndarray, targets_K2: np.ndarray) -> np.ndarray:
    """r^2 ln(r) for all distances r, (N, K)."""
    square_NK = np.square(points_N2[:, None] - targets_K2).sum(axis=-1)
    return 0.5 * square_NK * np.log(np.where(square_NK > 0, square_NK, 1.0))


def spline_points(points_BK2: Array, inverse: Array, rows_P: Array) -> Array:
    """Where in the image the pixels of the straight word are, float32 (B, P, 2), given where its control points are.

    ``inverse`` and ``rows_P`` are those of ``spline_tables``.
    """
    # In this order less is lost to rounding: what a pixel takes of each point is small, coefficients are large.
    shares_PK = jnp.dot(rows_P, inverse[:, :CONTROL_POINTS], precision=_EXACT)
    return jnp.einsum("pk,bkx->bpx", shares_PK, points_BK2, precision=_EXACT)


def sample(image_BHWC: Array, points_BP2: Array) -> Array:
    """Pixels (B, P, C) at points (x, y), bilinearly; 0 and 1 are the centres of the first and the last pixels.

    Points must be in [0, 1]. Its gradient in the points is that of the interpolation.
    """
    height, width = image_BHWC.shape[1:3]
    place_BP2 = points_BP2 * jnp.array([width - 1, height - 1], points_BP2.dtype)
    # The last pixel is between the last two.
    last = jnp.array([width - 2, height - 2], points_BP2.dtype)
    corner_BP2 = jax.lax.stop_gradient(jnp.clip(jnp.floor(place_BP2), 0, last))
    x, y = jnp.moveaxis((place_BP2 - corner_BP2)[..., None], -2, 0)
    column, row = jnp.moveaxis(corner_BP2.astype(jnp.int32), -1, 0)
    # One axis of pixels, of which those wanted are gathered; nothing is scattered, since no pixel has a gradient.
    pixels_BNC = image_BHWC.reshape(image_BHWC.shape[0], height * width, -1)

    def at(down: int, right: int) -> Array:
        index_BP1 = ((row + down) * width + column + right)[..., None]
        return jnp.take_along_axis(pixels_BNC, index_BP1, axis=1, mode="promise_in_bounds")

    upper, lower = (at(down, 0) * (1 - x) + at(down, 1) * x for down in (0, 1))
    return upper * (1 - y) + lower * y


def shrink(image_BHWC: Array, size: Size) -> Array:
    """Resize images to a height and width, bilinearly, the corners' pixels staying the corners'; without smoothing."""
    for axis, length in enumerate(size, 1):
        old = image_BHWC.shape[axis]
        place = np.arange(length) * ((old - 1) / max(length - 1, 1))
        first = np.minimum(place.astype(int), old - 2)
        share = (place - first).astype(np.float32).reshape(-1, *(1,) * (3 - axis))
        image_BHWC = jnp.take(image_BHWC, first, axis) * (1 - share) + jnp.take(image_BHWC, first + 1, axis) * share
    return image_BHWC


class Rectifier(nn.Module):
    """Images to straight words. All of it is computed in float32: errors of bfloat16 are pixels here."""

    size: Size
    """Height and width of the straight words."""
    small: Size
    """Those of the images in which words are looked for."""

    @nn.compact
    def __call__(self, image_BHWC: Array, counted_B: Array | None = None) -> Array:
        """Normalised pixels of any size, float32, to those of the straight words; ``counted_B`` as for ``BatchNorm``.

        Among the "intermediates" are what is computed on the way: "resized", "layers", "hidden", the control "points"
        (B, 20, 2), and the "source" of each pixel (B, P, 2), not yet clipped to the image.
        """
        batch = image_BHWC.shape[0]
        image_BHWC = image_BHWC.astype(jnp.float32)
        x = shrink(image_BHWC, self.small)
        self.sow("intermediates", "resized", x)
        for number, width in enumerate(WIDTHS):
            x = nn.max_pool(x, (2, 2), (2, 2)) if number else x
            x = ConvNorm(width, kernel_init=xavier_normal(), name=f"layer{number}")(x, counted_B)
            self.sow("intermediates", "layers", x)
        x = x.transpose(0, 3, 1, 2).reshape(batch, -1)  # in the order in which PyTorch flattens
        x = Dense(_HIDDEN, kernel_init=variance_scaling(1 / 3, "fan_in", "uniform"), name="fc1")(x)
        x = nn.relu(BatchNorm(name="fc1_norm")(x, counted_B))
        self.sow("intermediates", "hidden", x)

        def begin(key: Any, shape: tuple[int, ...], dtype: Any) -> Array:
            del key
            return jnp.asarray(even_points(_FIRST_MARGIN).reshape(shape), dtype)

        fc2 = nn.Dense(2 * CONTROL_POINTS, precision=_EXACT, kernel_init=zeros, bias_init=begin, name="fc2")
        points_BK2 = fc2(0.1 * x).reshape(batch, CONTROL_POINTS, 2)
        self.sow("intermediates", "points", points_BK2)
        inverse, rows = (
            self.param(f"spline_{name}", lambda _, table=table: jnp.asarray(table))
            for name, table in zip(("inverse", "rows"), spline_tables(self.size), strict=True)
        )
        source_BP2 = spline_points(points_BK2, inverse, rows)
        self.sow("intermediates", "source", source_BP2)
        straight_BPC = sample(image_BHWC, jnp.clip(source_BP2, 0.0, 1.0))
        return straight_BPC.reshape(batch, *self.size, image_BHWC.shape[-1])
