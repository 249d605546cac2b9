"""Low-rank adapters beside frozen weights (LoRA, Hu et al., arXiv 2106.09685, section 4), and merging them into these.

A linear map W of an encoder block becomes W + B A, where A maps to a few values, the rank, and B back. Those of queries
and values are adapted, as in the reference; the scale is 1.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.nn.initializers import variance_scaling, zeros

from maerec_jax.models.dense import Dense

Array = jax.Array

ADAPTED = {"lora_query": 0, "lora_value": 2}
"""The adapters of a block: their names, and which of ``qkv``'s three maps each belongs to."""


class LowRank(nn.Module):
    """x to B A x, of ``rank`` values in between. It is 0 at first, since B is: training starts from what there was."""

    features: tuple[int, ...]
    rank: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(..., inputs) to (..., *features)."""
        # Uniform up to 1 / sqrt(inputs), which is how linear layers begin in the reference.
        uniform = variance_scaling(1 / 3, "fan_in", "uniform")
        x = Dense(self.rank, use_bias=False, dtype=self.dtype, kernel_init=uniform, name="a")(x)
        return Dense(self.features, use_bias=False, dtype=self.dtype, kernel_init=zeros, name="b")(x)


def is_adapter(path: str) -> bool:
    """Whether a parameter belongs to an adapter, by its path."""
    return any(name in path.split("/") for name in ADAPTED)


def encoder_without_adapters(encoder: Mapping[str, Any]) -> dict[str, Any]:
    """An encoder's parameters without those of its adapters, if it has any."""
    flat = flatten_dict(encoder, sep="/")
    return unflatten_dict({path: value for path, value in flat.items() if not is_adapter(path)}, sep="/")


def merge_lora(config: Any, params: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Add what adapters make of their inputs to the weights beside them: the same model without adapters.

    Takes a ``MAERecConfig`` and its float32 parameters. Returns the config with ``lora_rank`` 0 and its parameters,
    those that changed as NumPy arrays; a model that has no adapters as it is.
    """
    if not config.encoder.lora_rank:
        return config, dict(params)
    encoder = encoder_without_adapters(params["encoder"])
    for i in range(config.encoder.depth):
        block = params["encoder"][f"blocks_{i}"]
        kernel = np.array(block["qkv"]["kernel"], np.float64)  # (width, 3, heads, head width)
        for adapter, which in ADAPTED.items():
            a, b = (np.asarray(block[adapter][part]["kernel"], np.float64) for part in ("a", "b"))
            kernel[:, which] += np.tensordot(a, b, axes=1)
        encoder[f"blocks_{i}"]["qkv"]["kernel"] = kernel.astype(np.float32)
    return replace(config, encoder=replace(config.encoder, lora_rank=0)), {**params, "encoder": encoder}
