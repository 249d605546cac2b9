"""Fixed position tables, as NumPy constants, and tables for images of other sizes."""

import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np


def sincos_1d(positions_N: np.ndarray, dim: int) -> np.ndarray:
    """[sin | cos] encoding of positions, (N, dim) float64, with frequencies 10000^(-2i/dim). ``dim`` must be even."""
    frequencies = 10000.0 ** -(np.arange(dim // 2) / (dim / 2))
    angles = np.asarray(positions_N, np.float64).reshape(-1, 1) * frequencies
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def sincos_2d(grid: tuple[int, int], dim: int, layout: str) -> np.ndarray:
    """Position table of a ViT with a class token (MAE, arXiv 2111.06377, appendix A).

    The first half of the channels encodes the column and the second half the row; the class token's row is zero.

    Args:
      grid: patch rows and columns.
      dim: channels, a multiple of 4.
      layout: ``"grid"`` gives each patch its own row and column. ``"square"`` numbers the patches as if they lay in a
        square raster (16x16 for the 8x32 patches of a word): the layout of the published MAERec weights.

    Returns:
      float32 (1, 1 + rows * columns, dim).

    Raises:
      ValueError: if ``dim`` is not a multiple of 4, or the number of patches no square where the layout needs one.
    """
    if dim % 4:
        raise ValueError(f"a 2-D sin-cos position table needs a width that is a multiple of 4, not {dim}")
    n_patches = grid[0] * grid[1]
    columns = grid[1]
    if layout == "square":
        columns = math.isqrt(n_patches)
        if columns**2 != n_patches:
            raise ValueError(f'position_table "square" needs a square number of patches, not {n_patches}: use "grid"')
    index = np.arange(n_patches)
    table = np.concatenate([sincos_1d(index % columns, dim // 2), sincos_1d(index // columns, dim // 2)], axis=1)
    return np.concatenate([np.zeros((1, dim)), table]).astype(np.float32)[None]


# Of the odd polynomial of degree 9 that is nearest to the sine, relatively, from 0 to pi / 2 (by 6e-9).
_SINE = (-0.16666659550427748, 0.00833306624608199, -0.0001980960290192486, 2.6057806379366186e-06)


def sincos_interleaved(length: int, dim: int) -> np.ndarray:
    """Position table of the original Transformer (arXiv 1706.03762, 3.5): sin and cos in turn. float32 (length, dim).

    The reference's to the bit, on any machine: angles are rounded to float32, and sines are as near as those that
    PyTorch has of MKL, which differ from the nearest float32 in one place of twenty.
    """
    frequencies = (10000.0 ** -(2 * np.arange(dim // 2) / dim)).astype(np.float32)
    angles = (np.arange(length, dtype=np.float32)[:, None] * frequencies).astype(np.float64)
    table = np.stack([_sine(angles, 0.0), _sine(angles, 0.5)], axis=-1)
    return table.reshape(length, dim).astype(np.float32)


def _sine(angles: np.ndarray, shift: float) -> np.ndarray:
    """Sines of angles and ``shift`` half-turns, float64."""
    turns = np.rint(angles / np.pi + shift)
    x = angles - (turns - shift) * np.pi
    series = 1 + x**2 * np.polynomial.polynomial.polyval(x**2, _SINE)
    return np.where(turns % 2, -x, x) * series


def resize_table(
    table: jax.Array, grid: tuple[int, int], new_grid: tuple[int, int], method: Literal["linear", "cubic"] = "linear"
) -> jax.Array:
    """A position table for an image of another size: the patches' rows are interpolated, the class token's is kept.

    From float32 (1, 1 + rows * columns, dim), the patches in raster order, to (1, 1 + new rows * new columns, dim);
    smoothed where the table shrinks.
    """
    if grid == new_grid:
        return table
    dim = table.shape[-1]
    patches = jax.image.resize(table[:, 1:].reshape(1, *grid, dim), (1, *new_grid, dim), method)
    return jnp.concatenate([table[:, :1], patches.reshape(1, -1, dim)], axis=1)
