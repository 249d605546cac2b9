"""Weights as 8-bit integers: how far off they are, where they are exact, and that the models compute with them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.errors import ScopeParamNotFoundError
from flax.traverse_util import flatten_dict

from maerec_jax.models.beam import beam_read
from maerec_jax.models.cross_mae import CrossMAEConfig, CrossMaskedAutoencoder
from maerec_jax.models.dense import Dense
from maerec_jax.models.greedy import greedy_read
from maerec_jax.models.int8 import quantize
from maerec_jax.models.mae import MAEConfig, MaskedAutoencoder
from maerec_jax.models.maerec import MAERec, MAERecConfig
from tests.models.test_parity import MAEREC_CONFIG, load, tiny_recogniser

LAYERS = [
    (Dense(6), (5, 7)),
    (Dense((2, 3), use_bias=False), (5, 7)),
    (Dense(6, contracted=2, name="proj"), (5, 2, 4)),
]


def of_layer(layer, inputs):
    """The parameters of a layer and an input, the parameters as in a model: under the layer's name."""
    x = jax.random.normal(jax.random.key(0), inputs)
    params = layer.init(jax.random.key(1), x)["params"]
    return x, params, lambda params: quantize({layer.name or "layer": params})[layer.name or "layer"]


def restored(params):
    return params["kernel"].astype(jnp.float32) * params["kernel_scale"]


@pytest.mark.parametrize(("layer", "inputs"), LAYERS)
def test_weights_are_off_by_half_a_step_of_their_output(layer, inputs):
    x, params, rounded = of_layer(layer, inputs)
    params["kernel"] = params["kernel"].at[..., 0].multiply(1e-3)  # small beside the others, yet as exact
    made = rounded(params)
    assert made["kernel"].dtype == jnp.int8
    assert made["kernel"].shape == params["kernel"].shape
    contracted = tuple(range(layer.contracted))
    largest = np.abs(params["kernel"]).max(axis=contracted)
    np.testing.assert_allclose(made["kernel_scale"], largest / 127, rtol=1e-6)
    assert (np.abs(restored(made) - params["kernel"]) <= largest / 254 * (1 + 1e-4)).all()
    np.testing.assert_array_equal(np.abs(made["kernel"]).max(axis=contracted), 127)
    for name in params.keys() - {"kernel"}:
        assert made[name] is params[name]
    # The layer computes with just these weights.
    expected = layer.apply({"params": {**params, "kernel": restored(made)}}, x)
    np.testing.assert_allclose(layer.apply({"params": made}, x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("layer", "inputs"), LAYERS)
def test_weights_that_fit_are_exact(layer, inputs):
    _, params, rounded = of_layer(layer, inputs)
    whole = np.random.default_rng(0).integers(-127, 128, params["kernel"].shape)
    whole[(0,) * layer.contracted] = 127
    kernel = whole.astype(np.float32)
    scale = 2.0 ** -np.arange(np.prod(kernel.shape[layer.contracted :])).reshape(kernel.shape[layer.contracted :])
    params["kernel"] = jnp.asarray(kernel * scale, jnp.float32).at[..., -1].set(0)  # an output without weights, too
    made = rounded(params)
    np.testing.assert_array_equal(restored(made), params["kernel"])
    assert rounded(made)["kernel"] is made["kernel"]  # once is enough


@pytest.mark.parametrize(
    ("model", "args"),
    [
        (MAERec(MAERecConfig.tiny()), (jnp.zeros((1, 12), int),)),
        (MAERec(MAERecConfig.small()), (jnp.zeros((1, 48), int),)),
        (MaskedAutoencoder(MAEConfig.tiny()), (jnp.zeros((1, 256)),)),
        (CrossMaskedAutoencoder(CrossMAEConfig.tiny()), (jnp.zeros((1, 256)),)),
    ],
)
def test_every_model_takes_them_and_kernels_are_a_quarter(model, args):
    image = jnp.zeros((1, 32, 128, 3))
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), image, *args))["params"]
    made = jax.eval_shape(quantize, params)
    plain, rounded = flatten_dict(params), flatten_dict(made)
    kernels = {path for path in plain if path[-1] == "kernel"}
    assert kernels == {path for path in rounded if rounded[path].dtype == jnp.int8}
    assert rounded.keys() - plain.keys() == {(*path[:-1], "kernel_scale") for path in kernels}
    for path in plain.keys() - kernels:
        assert rounded[path].dtype == plain[path].dtype == jnp.float32
    jax.eval_shape(lambda p: model.apply({"params": p}, image, *args), made)  # raises where shapes do not fit
    if model == MAERec(MAERecConfig.small()):
        ratio = sum(x.size * x.dtype.itemsize for x in rounded.values()) / sum(4 * x.size for x in plain.values())
        assert 0.25 < ratio < 0.26


def test_words_are_read_as_with_the_weights_that_were_rounded():
    params, image = tiny_recogniser(load("maerec_tiny"))
    made = quantize(params)
    plain = flatten_dict(made)
    for path in [path for path in plain if path[-1] == "kernel_scale"]:
        kernel = (*path[:-1], "kernel")
        plain[kernel] = plain[kernel].astype(jnp.float32) * plain.pop(path)
    nested = {}
    for path, value in plain.items():
        inner = nested
        for name in path[:-1]:
            inner = inner.setdefault(name, {})
        inner[path[-1]] = value
    model = MAERec(MAEREC_CONFIG)
    read = jax.jit(lambda p: (greedy_read(model, p, image), beam_read(model, p, image, 3)))
    (greedy, beam), (expected, expected_beam) = read(made), read(nested)
    np.testing.assert_array_equal(greedy.tokens_BT, expected.tokens_BT)
    np.testing.assert_allclose(greedy.probability_BT, expected.probability_BT, rtol=1e-3)
    np.testing.assert_array_equal(beam.tokens_BKT, expected_beam.tokens_BKT)
    np.testing.assert_allclose(beam.score_BK, expected_beam.score_BK, rtol=1e-4)


def test_bfloat16_computes_with_them():
    layer = Dense(6, dtype=jnp.bfloat16)
    x, params, rounded = of_layer(layer, (5, 7))
    made = rounded(params)
    out = layer.apply({"params": made}, x)
    assert out.dtype == jnp.bfloat16
    expected = Dense(6).apply({"params": {**params, "kernel": restored(made)}}, x)
    np.testing.assert_allclose(out.astype(jnp.float32), expected, atol=0.02 * float(jnp.abs(expected).max()))


def test_integers_without_their_scales_are_refused():
    layer = Dense(6)
    x, params, rounded = of_layer(layer, (5, 7))
    made = rounded(params)
    del made["kernel_scale"]
    with pytest.raises(ScopeParamNotFoundError, match="kernel_scale"):
        layer.apply({"params": made}, x)
