"""Convolutions with kernels of 3 x 3 in fewer products, for CPUs: Winograd's minimal filtering (arXiv 1509.09308).

A tile of m x m pixels takes (m + 2)^2 products of all channels instead of 9 m^2. In float32 its result is off by some
1e-6 of the largest value.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from maerec_jax.models.batch_parts import map_parts

Array = jax.Array


class Filtering(NamedTuple):
    """How one axis of a tile is computed: out = to_output @ ((of_kernel @ kernel) * (of_input @ input)).

    These are the matrices A^T, G and B^T of the paper (section 4.1).
    """

    of_input: np.ndarray
    """(products, inputs); the first input lies a pixel before the tile."""
    of_kernel: np.ndarray
    """(products, 3)."""
    to_output: np.ndarray
    """(outputs, products)."""


def interpolation(*points: float) -> Filtering:
    """Of len(points) - 1 outputs, by the values at the points and at infinity (Toom and Cook)."""
    degree = len(points)
    others = [[q for q in points if q != p] for p in points]
    of_input = np.zeros((degree + 1, degree + 1))
    for row, roots in enumerate((*others, points)):
        of_input[row, : len(roots) + 1] = np.polynomial.polynomial.polyfromroots(roots)
    weight = np.array([np.prod([p - q for q in rest]) for p, rest in zip(points, others, strict=True)])
    powers = np.vander(points, degree, increasing=True)
    last = np.eye(1, 3, 2), np.eye(1, degree - 1, degree - 2)
    of_kernel = np.concatenate([powers[:, :3] / weight[:, None], last[0]])
    return Filtering(of_input, of_kernel, np.concatenate([powers[:, :-1], last[1]]).T)


_EYE = np.eye(3)
_PLAIN = Filtering(_EYE, _EYE, np.ones((1, 3)))
# What lies beside a single row is zeros; and before its first, where every second one of two is computed.
_OF_ONE = Filtering(_EYE[1:2], _EYE[1:2], np.ones((1, 1)))
_OF_TWO = Filtering(_EYE[1:], _EYE[1:], np.ones((1, 2)))
# The points of four pixels are those that round least.
_TILES = interpolation(0.0, 1.0, -1.0), interpolation(0.0, 1.0, -1.0, 0.5, -2.0)


def _kind(size: int, stride: int) -> Filtering:
    """That which takes fewest products for so many pixels."""
    if size <= stride:
        return _OF_ONE if size == 1 else _OF_TWO
    if stride > 1:
        return _PLAIN
    return min(_TILES, key=lambda kind: -(-size // len(kind.to_output)) * len(kind.of_kernel))


def convolve_by_tiles(x: Array, kernel: Array, strides: tuple[int, int]) -> Array:
    """Convolve (B, H, W, in) with a kernel (3, 3, in, out), padded by a pixel of zeros on each side; strides of 1 or 2.

    Where a stride is 2 nothing is saved along that axis.
    """
    kinds = [_kind(*axis) for axis in zip(x.shape[1:3], strides, strict=True)]
    of_kernels = np.kron(kinds[0].of_kernel, kinds[1].of_kernel).astype(x.dtype)
    kernel_PIO = (jnp.asarray(of_kernels) @ kernel.reshape(9, -1)).reshape(-1, *kernel.shape[2:])
    return map_parts(partial(_convolve, kernel_PIO=kernel_PIO, kinds=kinds, strides=strides), x)


def _convolve(x: Array, kernel_PIO: Array, kinds: Sequence[Filtering], strides: tuple[int, int]) -> Array:
    sizes = [-(-size // stride) for size, stride in zip(x.shape[1:3], strides, strict=True)]
    pixels = [len(kind.to_output) for kind in kinds]
    tiles = [-(-size // side) for size, side in zip(sizes, pixels, strict=True)]
    steps = [side * stride for side, stride in zip(pixels, strides, strict=True)]
    spans = [step * (count - 1) for step, count in zip(steps, tiles, strict=True)]
    seen = [kind.of_input.shape[1] for kind in kinds]
    after = [max(0, span + n - 1 - size) for span, n, size in zip(spans, seen, x.shape[1:3], strict=True)]
    x = jnp.pad(x, ((0, 0), (1, after[0]), (1, after[1]), (0, 0)))

    def transformed(x: Array, axis: int) -> Array:
        """For each product along an axis of tiles, which comes first, what its factor is in each of the tiles."""
        places, where = range(seen[axis]), axis + x.ndim - 3
        parts = [jax.lax.slice_in_dim(x, i, i + spans[axis] + 1, stride=steps[axis], axis=where) for i in places]
        return jnp.tensordot(kinds[axis].of_input.astype(x.dtype), jnp.stack(parts), 1)

    inputs = transformed(transformed(x, 1), 0)  # (products down, products across, B, tiles down, tiles across, in)
    factors_PNI = inputs.reshape(len(kernel_PIO), -1, x.shape[-1])
    products_PNO = jax.lax.dot_general(factors_PNI, kernel_PIO, (((2,), (1,)), ((0,), (0,))))
    down, across = (kind.to_output.astype(x.dtype) for kind in kinds)
    made = jnp.tensordot(down, products_PNO.reshape(*inputs.shape[:2], -1), 1).swapaxes(0, 1)
    made = jnp.tensordot(across, made, 1).reshape(*pixels[::-1], *inputs.shape[2:-1], -1)
    whole = made.transpose(2, 3, 1, 4, 0, 5).reshape(x.shape[0], tiles[0] * pixels[0], tiles[1] * pixels[1], -1)
    return whole[:, : sizes[0], : sizes[1]]
