"""Batches that are computed part by part, so that what is made of a part stays in the caches of a CPU."""

import math
from collections.abc import Callable

import jax

Array = jax.Array
_CACHED = 4 * 2**20  # bytes of a part


def map_parts(function: Callable[..., Array], *arrays: Array, times: float = 1.0) -> Array:
    """``function`` of arrays (B, ...) of as many rows each, for which all rows are alike: (B, ...).

    ``times`` is how large what is made on the way is beside the first array.
    """
    batch = arrays[0].shape[0]
    if not isinstance(batch, int):  # of a program that is exported for batches of any size
        return function(*arrays)
    most = _CACHED / (times * math.prod(arrays[0].shape[1:]) * arrays[0].dtype.itemsize)
    part = max(size for size in range(1, batch + 1) if batch % size == 0 and size <= max(1, most))
    if part == batch:
        return function(*arrays)
    made = jax.lax.map(lambda some: function(*some), tuple(x.reshape(-1, part, *x.shape[1:]) for x in arrays))
    return made.reshape(batch, *made.shape[2:])
