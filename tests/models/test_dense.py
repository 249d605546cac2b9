"""The dense layer: what it computes, and the dtype in which its gradients are summed."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.nn.initializers import xavier_uniform

from maerec_jax.models.dense import Dense, affine


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Dense((2, 3)), nn.DenseGeneral((2, 3), kernel_init=xavier_uniform())),
        (
            Dense(8, contracted=2, use_bias=False),
            nn.DenseGeneral(8, axis=(-2, -1), use_bias=False, kernel_init=xavier_uniform()),
        ),
    ],
)
def test_dense_layers_are_those_of_flax(ours, theirs):
    """The same fresh parameters, outputs and gradients, though they are differentiated in another way."""
    x = jax.random.normal(jax.random.key(0), (4, 5, 6, 7))

    def everything(layer):
        params = layer.init(jax.random.key(1), x)
        loss = lambda params, x: jnp.sin(layer.apply(params, x)).sum()  # noqa: E731
        return params, layer.apply(params, x), jax.grad(loss, (0, 1))(params, x)

    found, expected = (jax.jit(everything, static_argnums=0)(layer) for layer in (ours, theirs))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected)


def test_gradients_are_summed_in_float32():
    """Sums that float32 holds exactly and bfloat16, with 8 bits, cannot."""
    x = jnp.full((4096, 1), 1 + 2**-4, jnp.bfloat16)
    weight = jnp.full((4096, 1), 1 + 2**-7, jnp.bfloat16)

    def loss(kernel, bias):
        return (affine(x, kernel, bias, 1) * weight).astype(jnp.float32).sum()

    kernel, bias = jax.jit(jax.grad(loss, (0, 1)))(jnp.zeros((1, 1)), jnp.zeros(1))
    assert kernel.dtype == bias.dtype == jnp.float32
    assert float(kernel[0, 0]) == 4096 * (1 + 2**-4) * (1 + 2**-7)
    assert float(bias[0]) == 4096 * (1 + 2**-7)
