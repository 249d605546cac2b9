"""Weights as 8-bit integers: a quarter of the memory, for reading."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

Array = jax.Array

_LARGEST = 127
_HEADS_JOINED = ("out", "proj")  # layers that map two axes, heads and head width


def quantize(params: Mapping[str, Any]) -> dict[str, Any]:
    """Round the kernels of all dense layers to int8, with one scale for each of their outputs.

    A weight changes by at most half of its scale, which is the largest magnitude among the weights of its output over
    127. Embeddings, position tables, norms, biases and a stem's convolutions stay as they are.

    Args:
      params: parameters of any of the models.

    Returns:
      The same tree, but each such ``kernel`` is int8 and has a ``kernel_scale``, float32 (outputs), beside it. Kernels
      that are int8 already stay so.
    """
    found = flatten_dict(params)
    for path, value in list(found.items()):
        if path[-1] == "kernel" and "stem" not in path and value.dtype != jnp.int8:
            contracted = 2 if path[-2] in _HEADS_JOINED else 1
            found[path], found[*path[:-1], "kernel_scale"] = _rounded(value, contracted)
    return unflatten_dict(found)


def _rounded(kernel: Array, contracted: int) -> tuple[Array, Array]:
    kernel = jnp.asarray(kernel, jnp.float32)
    scale = jnp.abs(kernel).max(axis=tuple(range(contracted))) / _LARGEST
    scale = jnp.where(scale > 0, scale, 1.0)
    whole = jnp.clip(jnp.round(kernel / scale), -_LARGEST, _LARGEST)  # for scales that were rounded down
    return whole.astype(jnp.int8), scale
