"""What the models promise, whatever their weights."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maerec_jax.models.greedy import greedy_read
from maerec_jax.models.mae import MAEConfig, MaskedAutoencoder, random_masking, reconstruction_target
from maerec_jax.models.maerec import MAERec, MAERecConfig
from maerec_jax.models.position import sincos_2d
from maerec_jax.models.text_decoder import TextDecoderConfig
from maerec_jax.models.vit import ViTConfig

CONFIG = MAERecConfig.tiny()


@cache
def compiled(dtype=jnp.float32):
    """Logits of parameters, images and tokens."""
    return jax.jit(lambda params, image, tokens: MAERec(CONFIG, dtype).apply({"params": params}, image, tokens))


@pytest.fixture(scope="module")
def recogniser():
    model = MAERec(CONFIG)
    image = jax.random.normal(jax.random.key(1), (3, 32, 128, 3))
    tokens = jax.random.randint(jax.random.key(2), (3, 12), 0, 91).at[:, 0].set(CONFIG.charset.start_end)
    params = jax.jit(model.init)(jax.random.key(0), image, tokens)["params"]
    return model, params, image, tokens


def test_text_decoder_is_causal(recogniser):
    """No logit depends on a token after it: shown by the gradient with respect to the embedded tokens."""
    model, params, image, tokens = recogniser
    memory = jax.jit(lambda x: model.apply({"params": params}, x, method=lambda m, x: m.encoder(x)))(image)

    @jax.jit
    def logits(tokens):
        return model.apply({"params": params}, tokens, memory, method=lambda m, t, f: m.decoder(t, f))

    base = logits(tokens)
    for place in (3, 7, 11):
        changed = logits(tokens.at[:, place].add(1))
        np.testing.assert_array_equal(base[:, :place], changed[:, :place])
        assert (np.abs(base[:, place:] - changed[:, place:]).max(axis=(0, 2)) > 1e-6).all()


def test_step_path_agrees_with_parallel_path(recogniser):
    """Padding in the middle included: it is never attended to."""
    model, params, image, tokens = recogniser
    tokens = tokens.at[0, 5].set(CONFIG.charset.padding).at[1, 3:6].set(CONFIG.charset.padding)
    parallel = compiled()(params, image, tokens)
    memory, state = jax.jit(lambda x: model.apply({"params": params}, x, method="start"))(image)
    step = jax.jit(lambda t, i, s: model.apply({"params": params}, t, i, s, memory, method="step"))
    for i in range(12):
        logits, state = step(tokens[:, i, None], jnp.int32(i), state)
        np.testing.assert_allclose(logits[:, 0], parallel[:, i], rtol=2e-4, atol=2e-5)


def test_greedy_reading_equals_decoding_without_cache(recogniser):
    model, params, image, _ = recogniser
    charset = CONFIG.charset
    # Make ends likely enough to come at different places.
    params = jax.tree.map(lambda x: x, params)
    params["decoder"]["classifier"]["bias"] = params["decoder"]["classifier"]["bias"].at[charset.start_end].add(1.0)
    reading = jax.jit(lambda params, image: greedy_read(model, params, image))(params, image)
    tokens = jnp.full((3, 13), charset.padding).at[:, 0].set(charset.start_end)
    for i in range(12):
        logits = compiled()(params, image, tokens[:, :12])
        tokens = tokens.at[:, i + 1].set(logits[:, i].argmax(axis=-1))
    for ours, full in zip(reading.tokens_BT, tokens[:, 1:], strict=True):
        ends = np.flatnonzero(full == charset.start_end)
        upto = ends[0] + 1 if len(ends) else 12
        np.testing.assert_array_equal(ours[:upto], full[:upto])
        assert (ours[upto:] == charset.padding).all()


def test_padding_embedding_gets_no_gradient(recogniser):
    model, params, image, tokens = recogniser
    tokens = tokens.at[:, 5:].set(CONFIG.charset.padding)
    grads = jax.jit(jax.grad(lambda p: model.apply({"params": p}, image, tokens).sum()))(params)
    embedding = grads["decoder"]["embedding"]
    assert not embedding[CONFIG.charset.padding].any()
    assert embedding[CONFIG.charset.start_end].any()


@pytest.mark.parametrize("ratio", [0.5, 0.75, 0.9])
def test_mask_ratio(ratio):
    n_keep = MAEConfig.tiny(mask_ratio=ratio).n_keep(256)
    noise = jax.random.uniform(jax.random.key(0), (5, 256))
    keep, restore, mask = random_masking(noise, n_keep)
    assert keep.shape == (5, int(256 * (1 - ratio)))
    np.testing.assert_array_equal(mask.sum(axis=1), 256 - n_keep)
    np.testing.assert_array_equal(jnp.take_along_axis(mask, keep, axis=1), 0)  # what is kept is not masked
    np.testing.assert_array_equal(jnp.take_along_axis(restore, keep, axis=1), np.tile(np.arange(n_keep), (5, 1)))
    assert len(np.unique(np.asarray(keep), axis=0)) == 5  # every image has a mask of its own


def test_hidden_pixels_do_not_reach_the_prediction():
    config = MAEConfig.tiny()
    model = MaskedAutoencoder(config)
    image = jax.random.normal(jax.random.key(1), (2, 32, 128, 3))
    noise = jax.random.uniform(jax.random.key(2), (2, 256))
    params = jax.jit(model.init)(jax.random.key(0), image, noise)["params"]

    def total(x):
        out = model.apply({"params": params}, x, noise)
        return jnp.square(out["pred"]).sum(), out["mask"]

    grads, mask = jax.jit(jax.grad(total, has_aux=True))(image)
    per_patch = np.abs(reconstruction_target(grads, replace(config, norm_pix=False))).sum(axis=-1)
    np.testing.assert_array_equal(per_patch > 0, np.asarray(mask) == 0)


def test_rematerialisation_changes_no_number(recogniser):
    _, _, image, tokens = recogniser
    encoder, decoder = ViTConfig.tiny(depth=1, patch_size=(8, 8)), TextDecoderConfig.tiny(layers=1)
    small = MAERecConfig.tiny(encoder=encoder, decoder=decoder)
    params = jax.jit(small.init)(jax.random.key(0))

    def gradients(config):
        settings = {"counted_B": jnp.ones(len(image)), "rngs": {"dropout": jax.random.key(0)}}
        loss = lambda p: jnp.square(MAERec(config).apply({"params": p}, image, tokens, **settings)).mean()  # noqa: E731
        return jax.jit(jax.grad(loss))(params)

    plain = gradients(small)
    for keeps in ("nothing", "products"):
        changed = {"encoder": encoder, "decoder": decoder}
        changed = {name: replace(part, remat=True, remat_keeps=keeps) for name, part in changed.items()}
        remat = gradients(replace(small, **changed))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), plain, remat)


def test_bfloat16_computes_near_float32_and_returns_float32(recogniser):
    _, params, image, tokens = recogniser
    full, half = (compiled(dtype)(params, image, tokens) for dtype in (jnp.float32, jnp.bfloat16))
    assert half.dtype == jnp.float32
    assert np.abs(half - full).max() < 0.1 * np.abs(full).max()
    shapes = jax.eval_shape(lambda: MAERec(CONFIG, jnp.bfloat16).init(jax.random.key(0), image, tokens))
    assert {x.dtype for x in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="not a multiple of patch_size"):
        ViTConfig(patch_size=(5, 4))
    with pytest.raises(ValueError, match="not a multiple of heads"):
        ViTConfig(dim=100, heads=3)
    with pytest.raises(ValueError, match="mask_ratio"):
        MAEConfig.tiny(mask_ratio=1.0)
    with pytest.raises(ValueError, match='use "grid"'):
        sincos_2d((2, 16), 64, "square")
