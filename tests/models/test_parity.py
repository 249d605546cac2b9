"""The models compute what the reference's PyTorch code computes: float32, relative error below 1e-4."""

import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.charset import MAEREC_CHARACTERS
from maerec_jax.models.greedy import greedy_read
from maerec_jax.models.mae import MAEConfig, MaskedAutoencoder, reconstruction_error, reconstruction_target
from maerec_jax.models.maerec import MAERec, MAERecConfig
from maerec_jax.models.position import sincos_2d, sincos_interleaved
from maerec_jax.models.vit import patchify, unpatchify
from maerec_jax.weights.state_dicts import params_from_state_dict, state_dict_from_params

FIXTURES = Path(__file__).parent.parent / "fixtures"


def load(name):
    arrays = {}
    for part in ("weights", "outputs", "gradients"):
        with np.load(FIXTURES / name / f"{part}.npz") as npz:
            arrays.update(npz)
    return arrays


def assert_close(actual, expected, what=""):
    """Relative error below 1e-4, measured against the largest value of the array."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, what
    error = np.abs(actual - expected).max() / np.abs(expected).max()
    assert error < 1e-4, f"{what}: relative error {error:.2e}"


def weights(fixture, config):
    return params_from_state_dict({k[3:]: v for k, v in fixture.items() if k.startswith("sd/")}, config)


@pytest.fixture(scope="module")
def mae():
    return load("mae_tiny")


@pytest.fixture(scope="module")
def maerec():
    return load("maerec_tiny")


MAEREC_CONFIG = MAERecConfig.tiny()


def mae_loss(params, config, fixture):
    image = fixture["imgs"].transpose(0, 2, 3, 1)
    out = MaskedAutoencoder(config).apply({"params": params}, image, fixture["noise"])
    return reconstruction_error(out["pred"], reconstruction_target(image, config), out["mask"]).mean(), out


def test_mae_forward(mae):
    config = MAEConfig.tiny(norm_pix=False)
    image = mae["imgs"].transpose(0, 2, 3, 1)
    out = jax.jit(MaskedAutoencoder(config).apply)({"params": weights(mae, config)}, image, mae["noise"])
    for name, key in (("latent", "latent"), ("pred", "pred"), ("mask", "mask"), ("restore", "ids_restore")):
        assert_close(out[name], mae[key], name)
    assert_close(reconstruction_target(image, config), mae["target_patchified"])
    picture = unpatchify(out["pred"], (32, 128), (4, 4))
    assert_close(picture.transpose(0, 3, 1, 2), mae["unpatchify_pred"])
    np.testing.assert_array_equal(unpatchify(patchify(image, (4, 4)), (32, 128), (4, 4)), image)


@pytest.mark.parametrize("norm_pix", [False, True])
def test_mae_loss_and_gradients(mae, norm_pix):
    config, kind = MAEConfig.tiny(norm_pix=norm_pix), "normpix" if norm_pix else "pix"
    gradients = jax.jit(jax.value_and_grad(lambda params: mae_loss(params, config, mae), has_aux=True))
    (loss, _), grads = gradients(weights(mae, config))
    assert_close(loss, mae[f"loss_{kind}"])
    state = state_dict_from_params(grads, config)
    keys = [k for k in mae if k.startswith(f"grad_{kind}/")]
    assert len(keys) == 15
    for key in keys:
        assert_close(state[key.split("/")[1]], mae[key], key)
    frozen = ("pos_embed", "decoder_pos_embed")
    total = sum(float(np.square(g).sum()) for k, g in state.items() if k not in frozen)
    assert_close(total, mae[f"grad_sqsum_all_{kind}"])


def tiny_recogniser(maerec):
    images = maerec["images_normalised"].transpose(0, 2, 3, 1)[..., ::-1]  # BGR to RGB
    state = {k[3:]: v for k, v in maerec.items() if k.startswith("sd/")}
    weight = state["backbone.patch_embed.proj.weight"]
    state["backbone.patch_embed.proj.weight"] = weight[:, ::-1]
    return params_from_state_dict(state, MAEREC_CONFIG), images


def test_maerec_every_layer(maerec):
    params, images = tiny_recogniser(maerec)
    model = MAERec(MAEREC_CONFIG)
    feat = model.apply({"params": params}, images, method=lambda m, x: m.encoder(x))
    assert_close(feat, maerec["feat"])
    tokens = maerec["padded_indexes"]
    logits, seen = model.apply(
        {"params": params}, tokens, feat, method=lambda m, t, f: m.decoder(t, f), capture_intermediates=True
    )
    for i in range(MAEREC_CONFIG.decoder.layers):
        out, _ = seen["intermediates"]["decoder"][f"layers_{i}"]["__call__"][0]
        assert_close(out, maerec[f"tf_layer{i}_out"], f"layer {i}")
    assert_close(logits, maerec["tf_logits"])
    assert_close(model.apply({"params": params}, images, tokens), maerec["tf_logits"])


def test_maerec_targets(maerec):
    charset = MAEREC_CONFIG.charset
    special = [charset.start_end, charset.start_end, charset.padding, charset.unknown]
    assert special == maerec["start_end_pad_unk"].tolist()
    assert "".join(maerec["dictionary"][:91]) == MAEREC_CHARACTERS
    tokens = np.stack([charset.encode(str(text), 12) for text in maerec["gt_texts"]])
    np.testing.assert_array_equal(tokens, maerec["padded_indexes"])


def test_maerec_loss_and_gradients(maerec):
    from maerec_jax.models.interface import token_loss

    params, images = tiny_recogniser(maerec)
    model, tokens = MAERec(MAEREC_CONFIG), jnp.asarray(maerec["padded_indexes"])

    def loss_fn(params):
        logits = model.apply({"params": params}, images, tokens)
        total, count = token_loss(logits[:, :-1], tokens[:, 1:], MAEREC_CONFIG.charset.padding)
        return total.sum() / count.sum()

    loss, grads = jax.jit(jax.value_and_grad(loss_fn))(params)
    assert_close(loss, maerec["loss_ce"])
    state = state_dict_from_params(grads, MAEREC_CONFIG)
    state["backbone.patch_embed.proj.weight"] = state["backbone.patch_embed.proj.weight"][:, ::-1]
    keys = [k for k in maerec if k.startswith("grad/")]
    assert len(keys) == 15
    for key in keys:
        assert_close(state[key.split("/")[1]], maerec[key], key)
    assert not state["decoder.trg_word_emb.weight"][MAEREC_CONFIG.charset.padding].any()
    total = sum(float(np.square(g).sum()) for g in jax.tree.leaves(grads))
    assert_close(total, maerec["grad_sqsum_all"])


def test_maerec_greedy_reading(maerec):
    """Same texts and scores, padding in the middle, unknown characters and missing ends included."""
    params, images = tiny_recogniser(maerec)
    reading = jax.jit(lambda p, x: greedy_read(MAERec(MAEREC_CONFIG), p, x))(params, images)
    for i, expected in enumerate(maerec["pred_texts"]):
        text, places = MAEREC_CONFIG.charset.decode(reading.tokens_BT[i])
        assert text == str(expected)
        scores = maerec["pred_scores_nanpadded"][i]
        scores = scores[~np.isnan(scores)]
        np.testing.assert_allclose(reading.probability_BT[i, places], scores, rtol=1e-4)
        end = np.flatnonzero(maerec["test_argmax"][i] == MAEREC_CONFIG.charset.start_end)
        upto = end[0] + 1 if len(end) else 12
        np.testing.assert_array_equal(reading.tokens_BT[i, :upto], maerec["test_argmax"][i, :upto])


def test_position_tables():
    with np.load(FIXTURES / "pos_embed_tables.npz") as tables:
        for name in tables:
            table = tables[name]
            np.testing.assert_array_equal(sincos_2d((8, 32), table.shape[-1], "square"), table)
    grid = sincos_2d((8, 32), 64, "grid")[0, 1:].reshape(8, 32, 64)
    assert (grid[0, :, :32] == grid[5, :, :32]).all()  # the first half tells the column, whatever the row
    assert (grid[:, 0, 32:] == grid[:, 9, 32:]).all()
    assert len(np.unique(grid.reshape(256, -1), axis=0)) == 256


@pytest.mark.parametrize(
    ("length", "dim", "checksum"),
    [(200, 384, 3274064500), (200, 512, 4225977602), (200, 768, 3772993014), (256, 512, 1622220243)],
)
def test_position_tables_at_full_size_are_the_references_to_the_bit(length, dim, checksum):
    """Checksums of those that PyTorch 2.13 computes with MKL, as the reference asks it to: MAERec's and baselines'."""
    table = sincos_interleaved(length, dim)
    assert zlib.crc32(table.tobytes()) == checksum
    angles = np.arange(length)[:, None] * 10000.0 ** -(2 * (np.arange(dim) // 2) / dim) + np.pi / 2 * (
        np.arange(dim) % 2
    )
    np.testing.assert_allclose(table, np.sin(angles), atol=2e-5)


@pytest.mark.parametrize(
    ("config", "total"),
    [
        (MAEConfig.small(), 46_986_160),
        (MAEConfig.base(), 111_062_320),
        (MAERecConfig.small(), 35_666_398),
        (MAERecConfig.base(), 142_111_582),
    ],
)
def test_parameter_counts_at_full_size(config, total):
    image = jnp.zeros((1, 32, 128, 3))
    if isinstance(config, MAEConfig):
        args = (MaskedAutoencoder(config), image, jnp.zeros((1, 256)))
    else:
        args = (MAERec(config), image, jnp.zeros((1, 48), int))
    shapes = jax.eval_shape(lambda: args[0].init(jax.random.key(0), *args[1:]))["params"]
    assert sum(x.size for x in jax.tree.leaves(shapes)) == total


def test_state_dict_round_trip(mae, maerec):
    for fixture, config in ((mae, MAEConfig.tiny()), (maerec, MAEREC_CONFIG)):
        state = {k[3:]: v for k, v in fixture.items() if k.startswith("sd/")}
        back = state_dict_from_params(params_from_state_dict(state, config), config)
        assert back.keys() == state.keys()
        for key, value in state.items():
            np.testing.assert_array_equal(back[key], value, key)
    state = {k[3:]: v for k, v in mae.items() if k.startswith("sd/")}
    with pytest.raises(ValueError, match=r"no place for: blocks\.0\.extra"):
        params_from_state_dict({**state, "blocks.0.extra": np.zeros(1)}, MAEConfig.tiny())
    del state["norm.bias"]
    with pytest.raises(ValueError, match="encoder/blocks_norm/bias"):
        params_from_state_dict(state, MAEConfig.tiny())
