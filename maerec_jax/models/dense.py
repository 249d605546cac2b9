"""The dense layer of all models: computes in the dtype asked for, and gives its gradients in float32."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.nn.initializers import ones, xavier_uniform, zeros

Array = jax.Array

Keeps = Literal["nothing", "products"]
"""What ``rematerialised`` modules keep: nothing but their input, or the results of their dense layers, too."""

_PRODUCT = "product"


def rematerialised(module: type[nn.Module], on: bool, keeps: Keeps, static_argnums: Sequence[int] = ()) -> Any:
    """A module that computes again in the backward pass, if ``on``, what it does not keep: less memory for more work.

    With "products" it is norms, activations and attention that are computed again: little work, and, as attention
    weights are the largest of all, most of the memory.
    """
    if not on:
        return module
    policy = jax.checkpoint_policies.save_only_these_names(_PRODUCT) if keeps == "products" else None
    return nn.remat(module, policy=policy, static_argnums=tuple(static_argnums))


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def affine(x: Array, kernel: Array, bias: Array | None, contracted: int) -> Array:
    """x @ kernel + bias, in the dtype of ``x``.

    The gradients of kernel and bias are summed over the rows of ``x`` in float32, and on several devices between them,
    too: rounding the sums to bfloat16 on the way, which is what differentiating a cast does, loses most of the digits
    that small gradients have in common.

    Args:
      x: (..., inputs).
      kernel: float32 (inputs, outputs).
      bias: float32 (outputs), or None.
      contracted: the number of axes that ``inputs`` stands for; all that follow in ``kernel`` are outputs.

    Returns:
      (..., outputs).
    """
    last = tuple(range(x.ndim - contracted, x.ndim))
    out = jax.lax.dot_general(x, kernel.astype(x.dtype), ((last, tuple(range(contracted))), ((), ())))
    return out if bias is None else out + bias.astype(x.dtype)


def _forward(x: Array, kernel: Array, bias: Array | None, contracted: int) -> tuple[Array, tuple]:
    return affine(x, kernel, bias, contracted), (x, kernel, bias is not None)


def _backward(contracted: int, saved: tuple, g: Array) -> tuple[Array, Array, Array | None]:
    x, kernel, has_bias = saved
    rows = tuple(range(x.ndim - contracted))
    outputs = (tuple(range(len(rows), g.ndim)), tuple(range(contracted, kernel.ndim)))
    x_gradient = jax.lax.dot_general(g, kernel.astype(x.dtype), (outputs, ((), ())))
    bias_gradient = g.sum(axis=rows, dtype=jnp.float32) if has_bias else None
    # The rows as one axis: where they are several, compilers for CPUs transpose x and all that makes it, slowly.
    x, g = x.reshape(-1, *x.shape[len(rows) :]), g.reshape(-1, *g.shape[len(rows) :])
    kernel_gradient = jax.lax.dot_general(x, g, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32)
    return x_gradient, kernel_gradient, bias_gradient


affine.defvjp(_forward, _backward)


def quantized_affine(x: Array, kernel: Array, scale: Array, bias: Array | None, contracted: int) -> Array:
    """x @ (kernel * scale) + bias, in the dtype of ``x``, for an int8 kernel and a float32 scale for each output.

    Whole numbers up to 127 are exact in bfloat16, too, and sums, scale and bias are float32.
    """
    last = tuple(range(x.ndim - contracted, x.ndim))
    contraction = ((last, tuple(range(contracted))), ((), ()))
    out = jax.lax.dot_general(x, kernel.astype(x.dtype), contraction, preferred_element_type=jnp.float32) * scale
    return (out if bias is None else out + bias).astype(x.dtype)


class Dense(nn.Module):
    """A linear map of the last axes and a bias.

    An int8 kernel comes with its scales, ``kernel_scale`` (``maerec_jax.models.int8``), and is not trained.

    Args:
      features: the size of the output, or its axes.
      contracted: the number of input axes that are mapped.
      use_bias: whether a bias is added.
      dtype: dtype of the computation; parameters are float32.
      kernel_init: initialises the kernel as a matrix (inputs, outputs).
      bias_init: initialises the bias.
    """

    features: int | tuple[int, ...]
    contracted: int = 1
    use_bias: bool = True
    dtype: Any = jnp.float32
    kernel_init: Any = xavier_uniform()
    bias_init: Any = zeros

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(..., inputs) to (..., features)."""
        outputs = (self.features,) if isinstance(self.features, int) else self.features
        inputs = x.shape[x.ndim - self.contracted :]

        def init(key: Array, shape: tuple[int, ...]) -> Array:
            return self.kernel_init(key, (math.prod(inputs), math.prod(outputs))).reshape(shape)

        kernel = self.param("kernel", init, (*inputs, *outputs))
        bias = self.param("bias", self.bias_init, outputs) if self.use_bias else None
        x = x.astype(self.dtype)
        if kernel.dtype == jnp.int8:
            return quantized_affine(x, kernel, self.param("kernel_scale", ones, outputs), bias, self.contracted)
        return checkpoint_name(affine(x, kernel, bias, self.contracted), _PRODUCT)
