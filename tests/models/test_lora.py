"""Adapters compute what the reference's do, change nothing at first, can be merged, and have the reference's names."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import PartitionSpec

from maerec_jax.config import OptimizerConfig
from maerec_jax.distributed.sharding import make_mesh, state_shardings
from maerec_jax.models.beam import beam_read
from maerec_jax.models.greedy import greedy_read
from maerec_jax.models.int8 import quantize
from maerec_jax.models.interface import token_loss
from maerec_jax.models.lora import encoder_without_adapters, is_adapter, merge_lora
from maerec_jax.models.mae import MAEConfig
from maerec_jax.models.maerec import MAERec, MAERecConfig
from maerec_jax.models.text_decoder import TextDecoderConfig
from maerec_jax.models.vit import ViTConfig
from maerec_jax.training.optimizer import make_optimizer
from maerec_jax.training.recognition import Recognition
from maerec_jax.weights.state_dicts import params_from_state_dict, state_dict_from_params
from tests.conftest import REPOSITORY
from tests.models.test_parity import assert_close, load
from tests.training.conftest import random_params
from tests.training.test_sharding import devices

CONFIG = MAERecConfig.tiny(encoder=ViTConfig.tiny(lora_rank=4))
SMALL = MAERecConfig.tiny(
    encoder=ViTConfig.tiny(depth=1, patch_size=(8, 8), lora_rank=4), decoder=TextDecoderConfig.tiny(layers=1)
)
SIZES = {"small": (14_327_902, 35_740_126), "base": (56_967_262, 142_259_038)}


REFERENCES = REPOSITORY.parent / "shared" / "fixtures" / "state_dicts.json"


@pytest.fixture(scope="module")
def lora():
    return load("maerec_lora_tiny")


@pytest.fixture(scope="module")
def state(lora):
    return {key.removeprefix("sd/"): value for key, value in lora.items() if key.startswith("sd/")}


@pytest.fixture(scope="module")
def tiny(lora, state):
    """Parameters and images; the reference's pixels are BGR, and so is its patch projection."""
    return params_from_state_dict(state, CONFIG), lora["images_normalised"].transpose(0, 2, 3, 1)


def full_size(name):
    return getattr(MAERecConfig, name)(encoder=getattr(ViTConfig, name)(lora_rank=4))


def test_every_layer_is_the_references(lora, tiny):
    params, images = tiny

    def run(m):
        feat = m.encoder(images)
        return feat, m.decoder(lora["padded_indexes"], feat)

    apply = jax.jit(lambda p: MAERec(CONFIG).apply({"params": p}, method=run, capture_intermediates=True))
    (feat, logits), seen = apply(params)
    assert_close(feat, lora["feat"])
    for i in range(CONFIG.decoder.layers):
        out, _ = seen["intermediates"]["decoder"][f"layers_{i}"]["__call__"][0]
        assert_close(out, lora[f"tf_layer{i}_out"], f"layer {i}")
    assert_close(logits, lora["tf_logits"])


def loss_of(config, images, tokens):
    def loss(params):
        logits = MAERec(config).apply({"params": params}, images, tokens)
        total, count = token_loss(logits[:, :-1], tokens[:, 1:], config.charset.padding)
        return total.sum() / count.sum()

    return loss


def test_loss_and_gradients_are_the_references(lora, tiny):
    params, images = tiny
    loss, grads = jax.jit(jax.value_and_grad(loss_of(CONFIG, images, jnp.asarray(lora["padded_indexes"]))))(params)
    assert_close(loss, lora["loss_ce"])
    state = state_dict_from_params(grads, CONFIG)
    keys = [key for key in lora if key.startswith("grad/")]
    assert len(keys) == 17
    assert {key.removeprefix("grad/") for key in keys} > set(lora["lora_param_names"].tolist())
    for key in keys:
        assert_close(state[key.removeprefix("grad/")], lora[key], key)
    frozen = CONFIG.frozen
    trained = [float(np.square(g).sum()) for path, g in flatten_dict(grads, sep="/").items() if not frozen(path)]
    assert_close(sum(trained), lora["grad_sqsum_all"])


def test_texts_are_the_references(lora, tiny):
    params, images = tiny
    reading = jax.jit(lambda p, x: greedy_read(MAERec(CONFIG), p, x))(params, images)
    for i, expected in enumerate(lora["pred_texts"]):
        text, places = CONFIG.charset.decode(reading.tokens_BT[i])
        assert text == str(expected)
        scores = lora["pred_scores_nanpadded"][i]
        np.testing.assert_allclose(reading.probability_BT[i, places], scores[~np.isnan(scores)], rtol=1e-4)


def test_merged_weights_are_a_plain_model_with_the_same_logits(lora, tiny):
    params, images = tiny
    config, merged = merge_lora(CONFIG, params)
    assert config == MAERecConfig.tiny()
    plain = jax.eval_shape(config.init, jax.random.key(0))
    assert jax.tree.map(jnp.shape, merged) == jax.tree.map(jnp.shape, plain)
    tokens = lora["padded_indexes"]
    assert_close(jax.jit(MAERec(config).apply)({"params": merged}, images, tokens), lora["tf_logits"])
    before = flatten_dict({**params, "encoder": encoder_without_adapters(params["encoder"])}, sep="/")
    after = flatten_dict(merged, sep="/")
    changed = {path for path in after if after[path] is not before[path]}
    assert changed == {"encoder/blocks_0/qkv/kernel", "encoder/blocks_1/qkv/kernel"}
    for path in changed:  # of queries, keys and values the keys stay as they are
        assert (after[path] != before[path]).any(axis=(0, 2, 3)).tolist() == [True, False, True]
    assert merge_lora(config, merged) == (config, merged)
    state_dict_from_params(merged, config)


def test_fresh_adapters_change_nothing():
    config = replace(SMALL, encoder=replace(SMALL.encoder, position_table="grid"))
    task = Recognition(config, np.float32)
    params = jax.jit(task.config.init)(jax.random.key(0))
    _, plain = merge_lora(config, params)
    adapters = {path: x for path, x in flatten_dict(params, sep="/").items() if is_adapter(path)}
    assert len(adapters) == 4
    for path, x in adapters.items():
        if path.endswith("/b/kernel"):
            assert x.shape == (4, 2, 32)
            assert not x.any()
        else:
            assert x.shape == (64, 4)
            assert 0.9 / 8 < np.abs(x).max() <= 1 / 8  # uniform up to 1 / sqrt(64)
            assert abs(x.mean()) < 0.02
    for size in ((32, 128), (64, 64)):
        image = jax.random.normal(jax.random.key(1), (2, *size, 3))
        tokens = jnp.full((2, 4), 3)
        with_adapters = jax.jit(MAERec(config).apply)({"params": params}, image, tokens)
        without = jax.jit(MAERec(merge_lora(config, params)[0]).apply)({"params": plain}, image, tokens)
        np.testing.assert_array_equal(with_adapters, without)


def test_what_is_recomputed_has_the_same_gradients(lora, tiny):
    params, (_, images) = random_params(SMALL), tiny
    tokens = jnp.asarray(lora["padded_indexes"])
    changes = ({}, {"remat": True, "remat_keeps": "nothing"}, {"remat": True, "remat_keeps": "products"})
    configs = [replace(SMALL, encoder=replace(SMALL.encoder, **change)) for change in changes]
    expected, *found = (jax.jit(jax.grad(loss_of(config, images, tokens)))(params) for config in configs)
    for gradients in found:
        jax.tree.map(assert_close, gradients, expected)


def test_adapters_are_read_with_int8_weights_and_beams(tiny):
    params, images = tiny
    small = flatten_dict(quantize(params), sep="/")
    restored = {path: x for path, x in small.items() if not path.endswith("kernel_scale")}
    for path in [path for path in small if path.endswith("kernel_scale")]:
        kernel = path.removesuffix("_scale")
        assert small[kernel].dtype == jnp.int8
        restored[kernel] = small[kernel].astype(np.float32) * small[path]
    assert sum(is_adapter(path) for path in small.keys() - restored.keys()) == 8
    encode = jax.jit(lambda p: MAERec(CONFIG).apply({"params": p}, images, method=lambda m, x: m.encoder(x)))
    rounded, expected = (encode(unflatten_dict(p, sep="/")) for p in (small, restored))
    assert_close(rounded, expected)
    config, merged = merge_lora(CONFIG, params)
    beam, other = (
        jax.jit(lambda p, x, c=c: beam_read(MAERec(c), p, x, 3, 0.5))(p, images[:3])
        for c, p in ((CONFIG, params), (config, merged))
    )
    np.testing.assert_array_equal(beam.tokens_BKT[:, 0], other.tokens_BKT[:, 0])
    np.testing.assert_allclose(beam.probability_BKT[:, 0], other.probability_BKT[:, 0], rtol=1e-4)


@pytest.mark.parametrize("name", SIZES)
def test_what_is_trained_at_full_size(name):
    """The published numbers; the optimizer's state is two moments of just that, and lies on any mesh."""
    config, (trained, total) = full_size(name), SIZES[name]
    task = Recognition(config, np.float32)
    params = jax.eval_shape(task.config.init, jax.random.key(0))
    sizes = {path: x.size for path, x in flatten_dict(params, sep="/").items()}
    assert sum(sizes.values()) == total
    assert sum(size for path, size in sizes.items() if not task.config.frozen(path)) == trained
    assert not any(task.config.frozen(path) for path in sizes if path.startswith("decoder/"))
    optimizer = make_optimizer(OptimizerConfig(), lambda step: 1e-3, 12, task.config.frozen)
    moments = jax.eval_shape(optimizer.init, params)
    assert sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(moments) if x.ndim) == 2 * 4 * trained
    plain = replace(config, encoder=replace(config.encoder, lora_rank=0))
    assert not any(plain.frozen(path) for path in sizes)
    mesh = make_mesh(devices=devices(1))
    lies = flatten_dict(state_shardings(params, mesh, MAERecConfig.sharding), sep="/")
    assert lies["encoder/blocks_0/lora_value/a/kernel"].spec == PartitionSpec()
    assert lies["encoder/blocks_0/lora_query/b/kernel"].spec == PartitionSpec(None, "tensor", None)


def test_ranks_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="lora_rank 65 must be at least 0 and at most dim 64"):
        ViTConfig.tiny(lora_rank=65)
    with pytest.raises(ValueError, match="lora_rank -1"):
        ViTConfig.tiny(lora_rank=-1)
    with pytest.raises(ValueError, match="set it to 0 for pre-training"):
        MAEConfig.tiny(encoder=CONFIG.encoder)


def test_round_trip_of_the_references_names_is_exact(state):
    back = state_dict_from_params(params_from_state_dict(state, CONFIG), CONFIG)
    assert back.keys() == state.keys()
    for key, value in state.items():
        np.testing.assert_array_equal(back[key], value, key)
    once = state_dict_from_params(params_from_state_dict(state, CONFIG), CONFIG, aliases=False)
    assert state.keys() - once.keys() == {key for key in state if ".linear_" in key and "backbone" in key}


def test_of_two_copies_the_references_counts(state):
    lists = [key for key in state if key.split(".")[1] in ("query_As", "query_Bs", "value_As", "value_Bs")]
    aliases = [key for key in state if key.startswith("backbone.") and ".linear_" in key]
    assert len(lists) == len(aliases) == 8
    expected = params_from_state_dict(state, CONFIG)

    def same(changed):
        jax.tree.map(np.testing.assert_array_equal, params_from_state_dict(changed, CONFIG), expected)

    same({key: value + 1 if key in aliases else value for key, value in state.items()})
    same({key: value for key, value in state.items() if key not in aliases})
    same({key: value for key, value in state.items() if key not in lists})
    path = "encoder/blocks_1/lora_query/a/kernel"
    counted, second = "backbone.query_As.1.weight", "backbone.vit.blocks.1.attn.qkv.linear_a_q.weight"
    without = {key: value for key, value in state.items() if key not in (counted, second)}
    with pytest.raises(ValueError, match=rf"{path}$"):
        params_from_state_dict(without, CONFIG)
    with pytest.raises(ValueError, match=rf"{path} \(its second copy\)$"):
        params_from_state_dict({**state, second: np.zeros((4, 32), np.float32)}, CONFIG)
    with pytest.raises(ValueError, match=r"no place for: backbone\.query_As\.0\.weight.*backbone\.vit\.pos_embed"):
        params_from_state_dict(state, MAERecConfig.tiny())
    with pytest.raises(ValueError, match=r"no place for: .*backbone\.blocks\.0\.attn\.qkv\.bias"):
        params_from_state_dict({**state, "backbone.blocks.0.attn.qkv.bias": np.zeros(1)}, CONFIG)


@pytest.mark.skipif(not REFERENCES.is_file(), reason="the keys of the reference's models are not at ../shared/fixtures")
@pytest.mark.parametrize("name", SIZES)
def test_names_and_shapes_at_full_size_are_the_references(name):
    config = full_size(name)
    shapes = jax.eval_shape(config.init, jax.random.key(0))
    zeros = jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), shapes)
    expected = json.loads(REFERENCES.read_text())[f"maerec_{name[0]}_lora_union14m"]["keys"]
    found = {key: list(value.shape) for key, value in state_dict_from_params(zeros, config).items()}
    assert len(found) == 360
    assert found == expected
