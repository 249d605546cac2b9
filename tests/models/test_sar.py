"""SAR computes what the reference's PyTorch code computes, and learns."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax.traverse_util import flatten_dict

from data_pipelines.charset import Charset
from maerec_jax.models.beam import beam_read
from maerec_jax.models.greedy import greedy_read
from maerec_jax.models.interface import normalize, token_loss
from maerec_jax.models.sar import SAR, SARConfig
from maerec_jax.training.step import _replaced
from maerec_jax.weights.checkpoint import load_params
from maerec_jax.weights.state_dicts import state_dict_from_params
from tests.models.sar_reference import (
    CHARACTERS,
    FIRST,
    WIDTHS,
    assert_close,
    assert_read,
    import_reference,
    load_reference,
)


def channels_first(x):
    return np.moveaxis(np.asarray(x), -1, 1)


@pytest.fixture(scope="module")
def reference():
    return load_reference()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The imported model, and its parameters."""
    config, params, _ = load_params(import_reference(tmp_path_factory.mktemp("sar")) / "run")
    return replace(config.model, dropout=0.0), jax.tree.map(jnp.asarray, params)


@pytest.fixture(scope="module")
def images(reference, model):
    """Normalised RGB pixels: the two of the reference, and two more that do not count."""
    images = reference["images_uint8_bgr_nchw"].transpose(0, 2, 3, 1)[..., ::-1]
    return normalize(jnp.concatenate([images, images[::-1, ::-1]]), model[0])


@pytest.fixture(scope="module")
def tokens(reference):
    tokens = reference["padded_indexes"]
    return jnp.concatenate([tokens, tokens[::-1]])


@pytest.fixture(scope="module")
def seen(model, images, tokens):
    """Teacher-forced logits of the reference's images, and what every layer gave."""
    config, params = model
    apply = jax.jit(lambda p, *given: config.module().apply(p, *given, capture_intermediates=True))
    logits, found = apply({"params": params}, images[:2], tokens[:2], None, WIDTHS[:2])
    return logits, found["intermediates"]


@pytest.fixture(scope="module")
def fresh(model):
    """Parameters that nothing has been learnt with."""
    return jax.jit(model[0].init)(jax.random.key(0))


@pytest.fixture(scope="module")
def learn():
    """A step of Adam, jitted: parameters, optimizer and batch to all of these, the loss and its gradients."""
    optimizer = optax.adam(1e-2)

    def step(config, params, state, images, tokens, valid, widths):
        def mean(params):
            loss = config.loss(params, images, tokens, valid, jax.random.key(0), width_B=widths)
            return loss.total / loss.weight, loss

        (_, loss), grads = jax.value_and_grad(mean, has_aux=True)(params)
        updates, state = optimizer.update(grads, state)
        return _replaced(optax.apply_updates(params, updates), loss.statistics), state, loss, grads

    return optimizer, jax.jit(step, static_argnums=0)


def test_what_is_imported(model):
    config, _ = model
    sizes = {"channels": (4, 6, 8, 8, 12, 16), "encoder_dim": 20, "decoder_dim": 20, "attention_dim": 14}
    fixture = {"image_size": (24, 48), "max_length": 8, "charset": Charset(CHARACTERS), "dropout": 0.0}
    assert config == SARConfig(**sizes, blocks=(1, 1, 2, 1), cell_state="hidden", **fixture)
    assert config.pixel_mean == config.pixel_std == (127.0,) * 3
    assert SARConfig().cell_state == "own"


def test_targets(reference):
    charset = Charset(CHARACTERS)
    special = [charset.start_end, charset.start_end, charset.padding, charset.unknown]
    assert special == reference["start_end_pad_unk"].tolist()
    for texts, expected in (("target_texts", "target_padded_indexes"), ("gt_texts", "padded_indexes")):
        found = np.stack([charset.encode(str(text), 8) for text in reference[texts]])
        np.testing.assert_array_equal(found, reference[expected])


def test_every_layer(reference, seen, images):
    assert_close(channels_first(images)[:2, ::-1, ::4, ::4], reference["images_normalised_slice"], "images", 1e-6)
    logits, found = seen
    layers = {name: layer for name, layer in found["backbone"].items() if isinstance(layer, dict)}
    backbone = {name: channels_first(layer["__call__"][0]) for name, layer in layers.items()}
    for layer in ("1", "2"):
        assert_close(backbone[f"stem{layer}"][:, :, ::2, ::2], reference[f"bb_relu1_{layer}_slice"], layer)
    for stage, last in ((2, 0), (3, 0), (4, 1), (5, 0)):
        assert_close(backbone[f"stage{stage}_{last}"], reference[f"bb_block{stage}"], f"blocks {stage}")
        assert_close(backbone[f"stage{stage}"], reference[f"bb_relu{stage}"], f"stage {stage}")
    assert_close(channels_first(found["backbone"]["__call__"][0]), reference["feat"], "map")
    assert_close(found["encoder"]["layers_1"]["__call__"][0], reference["enc_rnn_out"], "columns")
    assert_close(found["encoder"]["__call__"][0], reference["enc"], "holistic feature")
    decoder = found["decoder"]
    assert_close(channels_first(decoder["conv_key"]["__call__"][0]), reference["tf_attn_key"], "keys")
    assert_close(decoder["score"]["__call__"][0], reference["tf_attn_energy"], "scores")
    assert_close(decoder["weights"][0], reference["tf_attn"], "weights")
    assert_close(logits, reference["tf_logits"], "logits")


def test_cells(reference, model, seen, images):
    """What they return; the first time, with the holistic feature, their own state is handed on."""
    config, params = model
    start = jax.jit(lambda p, x, w: config.module().apply(p, x, width_B=w, method="start"))
    _, first = start({"params": params}, images[:2], WIDTHS[:2])
    states = seen[1]["decoder"]["states"][0]
    for number, part in ((1, "hidden"), (1, "memory"), (2, "hidden"), (2, "memory")):
        made = np.moveaxis(getattr(states, f"{part}{number}"), 0, 1)
        made = np.concatenate([getattr(first, f"{part}{number}"), made], axis=1)
        assert_close(made, reference[f"tf_lstm{number}_{part[0] if part == 'hidden' else 'c'}"], f"{part} {number}")


def compare_gradients(reference, grads, config, mode):
    state = state_dict_from_params(jax.device_get(grads), config)
    state[FIRST] = state[FIRST][:, ::-1]  # RGB to BGR
    keys = [key for key in reference if key.startswith(f"grad_{mode}/") and "." in key]
    assert len(keys) == 11
    for key in keys:
        assert_close(state[key.split("/")[1]], reference[key], key, 5e-5)
    trained = [value for path, value in flatten_dict(grads, sep="/").items() if not config.frozen(path)]
    assert_close(sum(float(np.square(value).sum()) for value in trained), reference[f"grad_{mode}/sqsum_all"], mode)
    assert not state["decoder.embedding.weight"][config.charset.padding].any()


def test_loss_and_gradients_with_running_statistics(reference, model, images, tokens):
    config, params = model

    def mean(params):
        logits = config.module().apply({"params": params}, images[:2], tokens[:2], width_B=WIDTHS[:2])
        loss, weight = token_loss(logits[:, :-1], tokens[:2, 1:], config.charset.padding)
        return loss.sum() / weight.sum()

    loss, grads = jax.jit(jax.value_and_grad(mean))(params)
    assert_close(loss, reference["eval_loss_ce"], "loss")
    assert_close(loss, reference["grad_eval/total_loss"], "loss")
    compare_gradients(reference, grads, config, "eval")


def test_loss_gradients_and_statistics_of_training(reference, model, images, tokens, learn):
    """Images that do not count change nothing, in statistics neither."""
    config, params = model
    valid = np.array([1, 1, 0, 0], np.float32)
    optimizer, step = learn
    moved, _, loss, grads = step(config, params, optimizer.init(params), images, tokens, valid, WIDTHS)
    assert loss.weight == 13
    for key in ("train_loss_ce", "grad_train/total_loss"):
        assert_close(loss.total / loss.weight, reference[key], key)
    assert loss.metrics.keys() == {"character_accuracy"}
    compare_gradients(reference, grads, config, "train")
    state = state_dict_from_params(jax.device_get(moved), config)
    keys = [key for key in reference if key.startswith("train_after/")]
    assert len(keys) == 6
    for key in keys:
        assert_close(state[key.split("/")[1]], reference[key], key)


@pytest.fixture(scope="module")
def reading(model, images):
    config, params = model
    read = jax.jit(lambda p, x, w: config.read(p, x, width_B=w))
    return jax.device_get(read(params, images, WIDTHS))


def test_greedy_reading(reference, model, reading):
    assert_read(model[0].charset, jax.tree.map(lambda x: x[:2], reading), reference, "test")


class FromMaps(SAR):
    """A decoder that is given maps and holistic features: these in the place of images, and of their widths."""

    def see(self, map_BRCF, holistic_BD):
        return self.decoder.see(map_BRCF, holistic_BD, jnp.full(len(map_BRCF), map_BRCF.shape[2]))


def test_greedy_reading_of_maps(reference, model):
    """Ends at once, soon, at the last place and never; padding in between; unknown characters."""
    config, params = model
    maps = jnp.asarray(np.moveaxis(reference["dec_only_feat"], 1, -1))
    read = jax.jit(lambda p, x, h: greedy_read(FromMaps(config), p, x, width_B=h))
    assert_read(config.charset, jax.device_get(read(params, maps, reference["dec_only_enc"])), reference, "dec_only")


def test_beams(model, images, reading):
    """One is greedy reading; of three the likeliest is at least as likely, and no two are the same."""
    config, params = model
    found = {}
    for size in (1, 3):
        beam = jax.jit(lambda p, x, w, size=size: beam_read(config.module(), p, x, size, 0.0, width_B=w))
        found[size] = jax.device_get(beam(params, images, WIDTHS))
    np.testing.assert_array_equal(found[1].tokens_BKT[:, 0], reading.tokens_BT)
    np.testing.assert_allclose(found[1].probability_BKT[:, 0], reading.probability_BT, rtol=1e-5)
    assert (found[3].score_BK[:, 0] >= found[1].score_BK[:, 0] - 1e-5).all()
    for tokens_KT in found[3].tokens_BKT:
        assert len({tuple(tokens_T) for tokens_T in tokens_KT.tolist()}) == 3


def test_attention_is_that_of_the_same_tokens_and_stays_in_the_picture(reference, model, images, tokens):
    config, params = model
    maps = jax.jit(lambda *given: config.attention(*given, width_B=WIDTHS[:2]))(params, images[:2], tokens[:2, 1:])
    assert maps.dtype == jnp.float32
    assert_close(maps, reference["tf_attn"][:, :7])
    np.testing.assert_allclose(maps.sum(axis=(-2, -1)), 1, rtol=1e-5)
    assert (maps[0] > 0).all()
    assert not maps[1, :, :, 8:].any()


def test_cells_of_their_own_are_those_of_lstms(model, images, tokens, seen):
    """With them the published weights read something else: the quirk is no detail."""
    config, params = model
    own = replace(config, cell_state="own").module()
    apply = jax.jit(lambda p, *given: own.apply(p, *given, mutable=["intermediates"]))
    logits, found = apply({"params": params}, images[:2], tokens[:2], None, WIDTHS[:2])
    np.testing.assert_allclose(logits[:, 0], seen[0][:, 0], rtol=1e-4, atol=1e-4)  # nothing has been handed on yet
    assert np.abs(logits - seen[0]).max() > 1
    inputs = [seen[1]["encoder"]["__call__"][0], *params["decoder"]["embedding"][tokens[:2].T]]
    first = second = None
    cells = [lstm_cell(params["decoder"][name]) for name in ("lstm1", "lstm2")]
    for x in inputs:
        first = cells[0](torch.tensor(np.array(x)), first)
        second = cells[1](first[0], second)
    states = found["intermediates"]["decoder"]["states"][0]
    assert_close(states.memory1[-1], first[1])
    assert_close(states.hidden2[-1], second[0])


def lstm_cell(ours):
    """PyTorch's, with our parameters."""
    names = {"weight_ih": "input_kernel", "weight_hh": "hidden_kernel", "bias_ih": "input_bias"}
    names |= {"bias_hh": "hidden_bias"}
    cell = torch.nn.LSTMCell(*ours["hidden_kernel"].shape[:1] * 2)
    cell.load_state_dict({theirs: torch.tensor(np.array(ours[name]).T) for theirs, name in names.items()})
    return cell.requires_grad_(False)


def test_a_batch_is_learnt_by_heart(model, fresh, learn, images):
    config, params = model[0], fresh
    texts = ("ab 1!", "0", "Bad#", "21dA")
    tokens = jnp.asarray(np.stack([config.charset.encode(text, 8) for text in texts]))
    optimizer, step = learn
    state, losses = optimizer.init(params), []
    for _ in range(120):
        params, state, loss, _ = step(config, params, state, images, tokens, np.ones(4, np.float32), WIDTHS)
        losses.append(float(loss.total / loss.weight))
    assert losses[-1] < 0.02
    reading = jax.jit(lambda p, x, w: config.read(p, x, width_B=w))(params, images, WIDTHS)
    assert tuple(config.charset.decode(row)[0] for row in reading.tokens_BT) == texts


def test_fresh_parameters(model, fresh):
    """As the reference's: scales between 0 and 1 in the backbone, everything but its biases uniform elsewhere."""
    flat = flatten_dict(jax.device_get(fresh), sep="/")
    scales = np.concatenate([value for path, value in flat.items() if path.endswith("/scale")])
    assert scales.min() >= 0
    assert scales.max() <= 1
    assert abs(scales.mean() - 0.5) < 0.1
    assert abs(flat["backbone/stage5/conv/kernel"].std() * (9 * 16 / 2) ** 0.5 - 1) < 0.1  # by the outputs
    assert not flat["backbone/stage5/conv/bias"].any()
    inputs = {"encoder/linear": 20, "decoder/query": 20, "decoder/conv_key": 9 * 16, "decoder/prediction": 56}
    for path, count in inputs.items():
        for value in (flat[f"{path}/kernel"], flat[f"{path}/bias"]):
            assert 0.7 < np.abs(value).max() * count**0.5 <= 1
    padding = model[0].charset.padding
    assert not flat["decoder/embedding"][padding].any()
    assert abs(np.delete(flat["decoder/embedding"], padding, axis=0).std() - 1) < 0.2
