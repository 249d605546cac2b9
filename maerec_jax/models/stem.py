"""A convolutional stem: what patches are projected from where pixels alone teach too slowly (arXiv 2106.14881)."""

import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import normal

from maerec_jax.models.convolution import Conv, Strides

Array = jax.Array

CHANNELS = (32, 64, 128)
"""Of what each convolution of 3 x 3 pixels makes."""
STRIDES: tuple[Strides, ...] = ((2, 2), (2, 2), (2, 1))
"""Of each of them, down and across."""
SHRINKS = (math.prod(down for down, _ in STRIDES), math.prod(across for _, across in STRIDES))
"""How many rows and columns of pixels become one of the map."""

# Too small to be divided.
SHARDING = ((r"stem/conv\d/(kernel|bias)|stem/norm\d/(scale|bias)", ()),)
"""How the parameters lie on a mesh (``ModelConfig.sharding``)."""


class Stem(nn.Module):
    """Convolutions, each followed by a norm over its channels and a GELU; computed in ``dtype``."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image_BHWC: Array) -> Array:
        """Normalised pixels (B, H, W, 3) to a map (B, H / 8, W / 4, 128) in ``dtype``."""
        # Of hidden pixels, which are 0, a norm would have gradients out of all bounds if biases were 0, too.
        convolution = partial(Conv, use_bias=True, dtype=self.dtype, bias_init=normal(0.1))
        x = image_BHWC
        for number, (channels, strides) in enumerate(zip(CHANNELS, STRIDES, strict=True), 1):
            x = convolution(channels, strides=strides, name=f"conv{number}")(x)
            x = nn.LayerNorm(1e-6, dtype=self.dtype, name=f"norm{number}")(x)
            x = nn.gelu(x, approximate=False)
        return x


def stem_operations(image_size: tuple[int, int]) -> list[int]:
    """The operations of each convolution for an image (``costs.work``), counted in full at borders, too."""
    pixels, inputs = math.prod(image_size), 3
    found: list[int] = []
    for channels, strides in zip(CHANNELS, STRIDES, strict=True):
        pixels //= math.prod(strides)
        found.append(2 * pixels * 9 * inputs * channels)
        inputs = channels
    return found
