"""Batch normalisation (arXiv 1502.03167) as PyTorch computes it; its running statistics lie among the parameters.

They are constants of training (``ModelConfig.frozen``): no gradient moves them. A loss hands on what they become
(``Loss.statistics``), and the training step puts that in their place. So they are laid out on a mesh, saved, averaged,
named and exported like all parameters.
"""

import math
import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import ones, zeros

Array = jax.Array
STATISTICS = "statistics"
"""The Flax collection of the new statistics: ``module.apply(..., mutable=[STATISTICS])``."""

SHARDING = ((r"norm\w*/(scale|bias|mean|variance|count)", ()),)
"""How all of it lies on a mesh (``ModelConfig.sharding``), where norms are named so."""

_EPSILON = 1e-5
_MOMENTUM = 0.1


def is_statistic(path: str) -> bool:
    """Whether the parameter at a path is a running statistic."""
    return re.search(r"norm\w*/(mean|variance|count)$", path) is not None


class BatchNorm(nn.Module):
    """Normalises each channel by its mean and variance, and scales and shifts it.

    Statistics are those of all counted images of a batch, on however many devices it lies. The running variance is
    made of unbiased variances, as in PyTorch; ``count`` is the number of batches that the statistics have seen.
    """

    dtype: Any = jnp.float32
    scale_init: Any = ones

    @nn.compact
    def __call__(self, x: Array, counted_B: Array | None = None) -> Array:
        """Normalise (B, ..., channels).

        With ``counted_B``, float32 (B), by the statistics of the images for which it is 1, as in training; without, by
        the running ones.
        """
        channels = x.shape[-1:]
        scale, bias = self.param("scale", self.scale_init, channels), self.param("bias", zeros, channels)
        mean, variance = self.param("mean", zeros, channels), self.param("variance", ones, channels)
        count = self.param("count", zeros, ())
        x = x.astype(jnp.float32)
        if counted_B is not None:
            running = {"mean": mean, "variance": variance, "count": count}
            mean, variance, number = _of_batch(x, counted_B)
            unbiased = variance * number / jnp.maximum(number - 1.0, 1.0)
            new = {"mean": _moved(running["mean"], mean), "variance": _moved(running["variance"], unbiased)}
            for name, value in (new | {"count": count + 1.0}).items():
                value = jnp.where(number > 1, value, running[name])  # a single value has no variance
                self.sow(STATISTICS, name, value, init_fn=lambda: None, reduce_fn=lambda _, latest: latest)
        factor = scale * jax.lax.rsqrt(variance + _EPSILON)
        return ((x - mean) * factor + bias).astype(self.dtype)


def _of_batch(x: Array, counted_B: Array) -> tuple[Array, Array, Array]:
    """Mean and biased variance of the counted images, and how many values of a channel they are of."""
    axes = tuple(range(x.ndim - 1))
    weight = counted_B.reshape(-1, *(1,) * (x.ndim - 1))
    number = counted_B.sum() * math.prod(x.shape[1:-1])
    mean = (x * weight).sum(axes) / jnp.maximum(number, 1.0)
    variance = (jnp.square(x - mean) * weight).sum(axes) / jnp.maximum(number, 1.0)
    return mean, variance, number


def _moved(old: Array, new: Array) -> Array:
    return (1 - _MOMENTUM) * old + _MOMENTUM * new
