"""The cross-attending masked autoencoder: what it predicts, from what, and that its encoder is the usual one."""

import math
from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from maerec_jax.models.cross_mae import CrossMAEConfig, CrossMaskedAutoencoder
from maerec_jax.models.mae import MAEConfig, MaskedAutoencoder, random_masking, reconstruction_target
from maerec_jax.models.maerec import MAERec, MAERecConfig
from maerec_jax.models.text_decoder import TextDecoderConfig
from maerec_jax.models.vit import ViTConfig, ViTEncoder
from maerec_jax.training.optimizer import encoder_layer
from maerec_jax.training.pretraining import Pretraining
from maerec_jax.training.starting import merge_params, misfits
from tests.training.conftest import random_params

CONFIG = CrossMAEConfig.tiny(encoder=ViTConfig.tiny(depth=1), decoder_depth=2)
IMAGE = np.random.default_rng(1).standard_normal((2, 32, 128, 3), np.float32)
NOISE = np.random.default_rng(2).random((2, 256), np.float32)


def fresh(config):
    """Parameters none of which is 0, so that each of them matters."""
    scales = unflatten_dict({path: float(path[-1] == "scale") for path in flatten_dict(random_params(config))})
    return jax.tree.map(lambda x, scale: x + np.float32(scale), random_params(config, seed=3), scales)


@pytest.fixture(scope="module")
def params():
    return fresh(CONFIG)


@cache
def compiled(config, dtype=jnp.float32):
    return jax.jit(CrossMaskedAutoencoder(config, dtype).apply)


def reconstruct(params, config=CONFIG, image=IMAGE, dtype=jnp.float32):
    return compiled(config, dtype)({"params": params}, image, NOISE)


@pytest.mark.parametrize(
    ("mask_ratio", "prediction_ratio", "count"), [(0.75, 0.25, 64), (0.75, 0.75, 192), (0.5, 0.001, 1)]
)
def test_what_is_predicted_is_a_random_part_of_what_is_hidden(params, mask_ratio, prediction_ratio, count):
    config = replace(CONFIG, mask_ratio=mask_ratio, prediction_ratio=prediction_ratio)
    assert config.n_predicted(256) == count
    out = reconstruct(params, config)
    predicted, hidden = np.asarray(out["predicted"]), np.asarray(out["mask"])
    np.testing.assert_array_equal(hidden, random_masking(NOISE, config.n_keep(256))[2])
    assert set(np.unique(predicted)) <= {0, 1}
    assert (predicted <= hidden).all()
    assert (predicted.sum(axis=1) == count).all()
    np.testing.assert_array_equal(np.asarray(out["pred"]).any(axis=-1), predicted == 1)
    if prediction_ratio < mask_ratio:
        assert (predicted[0] != predicted[1]).any()


def test_of_shares_that_are_no_whole_patches_none_is_hidden_twice():
    assert replace(CONFIG, mask_ratio=0.9, prediction_ratio=0.9).n_predicted(256) == 256 - 25


@pytest.mark.parametrize("weighted", [True, False])
def test_a_prediction_does_not_depend_on_which_others_are_made(weighted):
    config = replace(CONFIG, weighted_features=weighted)
    params = fresh(config)
    some, every = (reconstruct(params, replace(config, prediction_ratio=ratio)) for ratio in (0.25, 0.75))
    np.testing.assert_array_equal(every["predicted"], every["mask"])
    places = np.asarray(some["predicted"]) == 1
    np.testing.assert_allclose(some["pred"][places], every["pred"][places], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(some["latent"], every["latent"])


def test_hidden_pixels_do_not_reach_the_prediction(params):
    grads = jax.jit(jax.grad(lambda image: jnp.square(reconstruct(params, image=image)["pred"]).sum()))(IMAGE)
    per_patch = np.abs(reconstruction_target(grads, replace(CONFIG, norm_pix=False))).sum(axis=-1)
    np.testing.assert_array_equal(per_patch > 0, np.asarray(reconstruct(params)["mask"]) == 0)


def normed(x, params):
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-6) * params["scale"] + params["bias"]


@cache
def compiled_encoder(config):
    def encode(params, keep):
        apply = partial(ViTEncoder(config).apply, {"params": params}, IMAGE, keep)
        return apply(method="features"), apply()

    return jax.jit(encode)


def encode(config, params, keep):
    """What an encoder gives after each block, and at its end."""
    return compiled_encoder(config)(params, keep)


@pytest.mark.parametrize("weighted", [True, False])
def test_the_decoder_is_what_the_paper_writes(weighted):
    """Computed again, patch by patch and head by head."""
    config = replace(CONFIG, weighted_features=weighted, prediction_ratio=0.75)
    params = fresh(config)
    out = jax.device_get(reconstruct(params, config))
    keep = random_masking(NOISE, config.n_keep(256))[0]
    features, last = jax.device_get(encode(config.encoder, params["encoder"], keep))
    assert [x.shape for x in features] == [(2, 65, 64)] * (config.encoder.depth + 1)
    np.testing.assert_allclose(out["latent"], features[-1], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(last, features[-1])
    image = 1
    for patch in np.flatnonzero(out["mask"][image])[::60]:
        x = params["mask_token"][0, 0] + params["decoder_pos_embed"][0, 1 + patch]
        for i in range(config.decoder_depth):
            block = params[f"decoder_blocks_{i}"]
            memory = features[-1][image]
            if weighted:
                weights = params["feature_weights"][:, i]
                memory = sum(w * feature[image] for w, feature in zip(weights, features, strict=True))
            memory, h = normed(memory, block["memory_norm"]), normed(x, block["norm1"])
            for head in range(config.decoder_heads):
                kernels, biases = block["kv"]["kernel"][:, :, head], block["kv"]["bias"][:, head]
                keys, values = (memory @ kernels[:, j] + biases[j] for j in (0, 1))
                query = h @ block["q"]["kernel"][:, head] + block["q"]["bias"][head]
                weights = np.exp(keys @ query / 16**0.5)
                x = x + (weights / weights.sum()) @ values @ block["proj"]["kernel"][head]
            x = x + block["proj"]["bias"]
            h = normed(x, block["norm2"]) @ block["fc1"]["kernel"] + block["fc1"]["bias"]
            h = h * (1 + np.array(list(map(math.erf, h / 2**0.5)))) / 2
            x = x + h @ block["fc2"]["kernel"] + block["fc2"]["bias"]
        pred = normed(x, params["decoder_blocks_norm"]) @ params["decoder_pred"]["kernel"]
        pred = pred + params["decoder_pred"]["bias"]
        np.testing.assert_allclose(out["pred"][image, patch], pred, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("weighted", [True, False])
def test_gradients_reach_every_parameter_that_is_trained(weighted):
    task = Pretraining(replace(CONFIG, weighted_features=weighted), jnp.float32)
    params = fresh(task.config)
    batch = {"image": jax.random.randint(jax.random.key(1), (2, 32, 128, 3), 0, 256), "valid": jnp.ones(2, bool)}
    batch = task.prepare(batch, jax.random.key(2))
    grads = jax.jit(jax.grad(lambda p: task.loss(p, batch, jax.random.key(3)).total))(params)
    flat = flatten_dict(grads, sep="/")
    assert [path for path, g in flat.items() if not np.abs(g).max() > 1e-6 and not task.config.frozen(path)] == []
    assert ("feature_weights" in flat) == weighted


def test_the_loss_is_over_what_is_predicted_and_validation_over_all_that_is_hidden():
    task, params = Pretraining(CONFIG, jnp.float32), fresh(CONFIG)
    image = jax.random.randint(jax.random.key(1), (3, 32, 128, 3), 0, 256).astype(jnp.uint8)
    batch = task.prepare({"image": image, "valid": jnp.array([True, True, False])}, jax.random.key(0))
    pixels = (image.astype(jnp.float32) - 127.5) / 127.5
    target = reconstruction_target(pixels, CONFIG)
    shown = jax.jit(task.evaluation_step)(params, {name: batch[name] for name in ("image", "valid")})
    for ratio, total in ((0.25, jax.jit(task.loss)(params, batch, jax.random.key(0)).total), (0.75, shown["total"])):
        out = compiled(replace(CONFIG, prediction_ratio=ratio))({"params": params}, pixels, batch["noise"])
        error = np.square(out["pred"] - target).mean(axis=-1)
        expected = sum(error[i][np.asarray(out["predicted"][i]) == 1].mean() for i in (0, 1))
        assert float(total) == pytest.approx(float(expected), rel=1e-4)
    assert float(shown["weight"]) == 2
    np.testing.assert_array_equal(shown["mask"], out["mask"])
    assert shown["pixels"].shape == (3, 32, 128, 3)


def shapes(model, *inputs):
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), *inputs))["params"]
    return {path: x.shape for path, x in flatten_dict(params, sep="/").items()}


def test_its_encoder_loads_wherever_the_standard_one_does(params):
    recogniser = MAERecConfig.tiny(encoder=CONFIG.encoder, decoder=TextDecoderConfig.tiny(layers=1))
    standard = shapes(MaskedAutoencoder(MAEConfig.tiny(encoder=CONFIG.encoder)), IMAGE, NOISE)
    read = shapes(MAERec(recogniser), IMAGE, jnp.zeros((2, 12), int))
    for others in (standard, read):
        expected = {path: shape for path, shape in others.items() if path.startswith("encoder/")}
        found = {path: x.shape for path, x in flatten_dict(params, sep="/").items() if path.startswith("encoder/")}
        assert found == expected

    merged, missing, _ = merge_params(random_params(recogniser), params, misfits(CONFIG, recogniser))
    assert missing.keys() == {path for path in read if path.startswith("decoder/")}
    jax.tree.map(np.testing.assert_array_equal, merged["encoder"], params["encoder"])
    every = jnp.tile(jnp.arange(256), (2, 1))
    memory = jax.jit(lambda p: MAERec(recogniser).apply({"params": p}, IMAGE, method=lambda m, x: m.encoder(x)))(merged)
    _, expected = encode(CONFIG.encoder, params["encoder"], every)
    np.testing.assert_allclose(memory, expected, rtol=1e-5, atol=1e-5)


def test_decoders_of_another_kind_are_not_taken(params):
    """Some of their parameters have the same paths and shapes, but mean something else."""
    standard = MAEConfig.tiny(encoder=CONFIG.encoder, decoder_depth=2)
    target = random_params(standard)
    _, missing, _ = merge_params(target, params, misfits(CONFIG, standard))
    assert all(not path.startswith("encoder/") for path in missing)
    assert missing["decoder_blocks_0/fc1/kernel"] == missing["mask_token"] == "another kind of decoder"
    assert len(missing) == sum(not path.startswith("encoder/") for path in flatten_dict(target, sep="/"))


def test_layer_decay_leaves_the_decoder_alone(params):
    depth = CONFIG.encoder.depth
    layers = {path: encoder_layer(path, depth) for path in flatten_dict(params, sep="/")}
    assert {layer for path, layer in layers.items() if not path.startswith("encoder/")} == {depth + 1}
    assert layers["encoder/blocks_0/fc1/kernel"] == 1


def test_rematerialisation_changes_no_number(params):
    def gradients(config):
        return jax.jit(jax.grad(lambda p: jnp.square(reconstruct(p, config)["pred"]).mean()))(params)

    plain, remat = gradients(CONFIG), gradients(replace(CONFIG, encoder=replace(CONFIG.encoder, remat=True)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), plain, remat)


def test_bfloat16_computes_near_float32_and_returns_float32(params):
    full, half = reconstruct(params), reconstruct(params, dtype=jnp.bfloat16)
    assert half["pred"].dtype == jnp.float32
    assert np.abs(half["pred"] - full["pred"]).max() < 0.1 * np.abs(full["pred"]).max()
    shape = jax.eval_shape(CrossMaskedAutoencoder(CONFIG, jnp.bfloat16).init, jax.random.key(0), IMAGE, NOISE)
    assert {x.dtype for x in jax.tree.leaves(shape)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("ratio", [0.0, -0.25, 0.8])
def test_ratios_that_do_not_fit_are_refused(ratio):
    with pytest.raises(ValueError, match=r"prediction_ratio .* at most mask_ratio 0\.75"):
        CrossMAEConfig.tiny(prediction_ratio=ratio)


@pytest.mark.parametrize(
    ("config", "total"), [(CrossMAEConfig.small(), 45_746_712), (CrossMAEConfig.base(), 112_778_136)]
)
def test_parameter_counts_at_full_size(config, total):
    found = shapes(CrossMaskedAutoencoder(config), IMAGE, NOISE)
    assert sum(int(np.prod(shape)) for shape in found.values()) == total
