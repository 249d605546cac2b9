"""The step: accumulation, masked-out images, moving average, and numbers that are not finite."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from maerec_jax.config import OptimizerConfig, TrainConfig
from maerec_jax.distributed.sharding import make_mesh, state_shardings
from maerec_jax.models.cross_mae import CrossMAEConfig
from maerec_jax.models.mae import MAEConfig
from maerec_jax.models.maerec import MAERecConfig
from maerec_jax.models.text_decoder import TextDecoderConfig
from maerec_jax.models.vit import ViTConfig
from maerec_jax.training.optimizer import make_optimizer
from maerec_jax.training.run import fresh_state, make_task
from maerec_jax.training.step import StepSettings, TrainState, loss_gradients, make_train_step, state_shapes

ENCODER = ViTConfig.tiny(depth=1, patch_size=(8, 8))
RECOGNISER = MAERecConfig.tiny(encoder=ENCODER, decoder=TextDecoderConfig.tiny(layers=1, dropout=0.0))
ADAPTED = replace(RECOGNISER, encoder=replace(RECOGNISER.encoder, lora_rank=4))
MODELS = {
    "mae": MAEConfig.tiny(encoder=ENCODER),
    "cross_mae": CrossMAEConfig.tiny(encoder=ENCODER),
    "maerec": RECOGNISER,
    "lora": ADAPTED,
}


def config_of(kind, **changes):
    """The same for all tests, so that a step is compiled once; what is decayed at all is decayed much."""
    optimizer = OptimizerConfig(weight_decay=10.0, decay_vectors=True)
    return TrainConfig(model=MODELS[kind], batch_size=8, ema_decay=0.5, optimizer=optimizer, **changes)


@cache
def setup(config):
    """A state and the compiled step; the state is not to be changed."""
    task = make_task(config)
    optimizer = make_optimizer(config.optimizer, lambda step: 1e-3, 1, task.config.frozen)
    params = jax.jit(task.config.init)(jax.random.key(0))
    ema = params if config.ema_decay else {}
    state = TrainState(jnp.int32(0), params, jax.jit(optimizer.init)(params), ema)
    return state, jax.jit(make_train_step(task, optimizer, StepSettings.of(config)))


def make_batch(config, n=8):
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (n, 32, 128, 3), np.uint8),
        "valid": np.ones(n, bool),
    }
    if config.model.kind == "maerec":
        # Texts of very different lengths: a mean of means over parts would be wrong.
        charset = config.model.charset
        batch["tokens"] = np.stack([charset.encode("a" * (1 + i % 9), 12) for i in range(n)])
    return batch


@pytest.mark.parametrize("kind", MODELS)
def test_accumulation_gives_the_step_of_the_whole_batch(kind):
    config = config_of(kind)
    batch = make_batch(config)
    results = []
    for parts in (1, 4):
        state, step = setup(replace(config, accumulation=parts))
        results.append(step(state, batch, 0)[1])
    whole, summed = results
    assert float(summed["loss"]) == pytest.approx(float(whole["loss"]), rel=1e-5)
    assert float(summed["gradient_norm"]) == pytest.approx(float(whole["gradient_norm"]), rel=1e-4)


@pytest.mark.parametrize("kind", MODELS)
def test_masked_out_images_change_nothing(kind):
    """Whatever lies in the row of an image that is not valid, loss and gradient are the same."""
    config = config_of(kind)
    batch = make_batch(config)
    batch["valid"] = np.arange(8) % 4 != 1
    state, step = setup(config)
    _, first = step(state, batch, 0)
    batch["image"] = np.where(batch["valid"][:, None, None, None], batch["image"], 255 - batch["image"])
    _, second = step(state, batch, 0)
    assert float(first["loss"]) == pytest.approx(float(second["loss"]), rel=1e-6)
    assert float(first["gradient_norm"]) == pytest.approx(float(second["gradient_norm"]), rel=1e-5)


@pytest.mark.parametrize("kind", MODELS)
def test_a_batch_without_a_usable_image_changes_counts_only(kind):
    config = config_of(kind)
    state, step = setup(config)
    state, _ = step(state, make_batch(config), 0)  # there are moments
    after, metrics = step(state, make_batch(config) | {"valid": np.zeros(8, bool)}, 1)
    assert metrics["good"]
    for old, new in zip(*map(jax.tree.leaves, (state, after)), strict=True):
        np.testing.assert_array_equal(new, old + 1 if jnp.issubdtype(old.dtype, jnp.integer) else old)


def test_a_loss_that_is_not_finite_leaves_the_state_alone_for_good():
    config = config_of("maerec")
    batch = make_batch(config)
    state, step = setup(config)
    state, metrics = step(state, batch, 0)
    assert metrics["good"]
    broken = jax.tree.map(lambda x: x, state)
    kernel = broken.params["decoder"]["classifier"]["bias"]
    broken.params["decoder"]["classifier"]["bias"] = kernel.at[0].set(jnp.nan)
    after, metrics = step(broken, batch, 1)
    assert not metrics["good"]
    later, metrics = step(after._replace(params=state.params), batch, 2)
    assert not metrics["good"]  # finite again, but a step was missed
    assert int(later.step) == 1
    jax.tree.map(np.testing.assert_array_equal, later.params, state.params)
    jax.tree.map(np.testing.assert_array_equal, later.opt_state, state.opt_state)


def test_moving_average():
    config = config_of("maerec")
    batch = make_batch(config)
    state, step = setup(config)
    new, _ = step(state, batch, 100)
    assert int(new.step) == 0  # not the step that the state is at: nothing happens
    new, _ = step(state, batch, 0)
    decay = 0.1  # (1 + step) / (10 + step) at first
    expected = jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, state.ema, new.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), new.ema, expected)


@pytest.mark.parametrize("parts", [1, 4])
def test_beside_adapters_the_encoder_stays_as_it_is(parts):
    """To the last bit, its moving average too, whatever the weight decay; and has no moments and no gradients."""
    config = config_of("lora", accumulation=parts)
    task, batch = make_task(config), make_batch(config)
    state, step = setup(config)
    before = flatten_dict(state.params, sep="/")
    frozen = {path for path in before if task.config.frozen(path)}
    assert frozen == {path for path in before if path.startswith("encoder/") and "lora_" not in path}
    for number in range(2):  # in the first step nothing comes through adapters that are 0
        state, metrics = step(state, batch, number)
        assert metrics["good"]
    for tree in (state.params, state.ema):
        for path, value in flatten_dict(tree, sep="/").items():
            assert (value == before[path]).all() == (path in frozen), path
    trained = [before[path] for path in before if path not in frozen]
    moments = [x for x in jax.tree.leaves(state.opt_state) if x.ndim]
    assert sorted(x.shape for x in moments) == sorted(2 * [x.shape for x in trained])
    assert sum(x.nbytes for x in moments) == 2 * sum(x.nbytes for x in trained)
    if parts == 1:
        compute = jax.jit(lambda params: loss_gradients(task, params, batch, jax.random.key(0))[:2])
        gradients, weight = compute(state.params)
        assert len(jax.tree.leaves(gradients)) == len(trained)
        _, metrics = step(state, batch, 2)
        norm = np.sqrt(sum(float(np.square(g / weight).sum()) for g in jax.tree.leaves(gradients)))
        assert float(metrics["gradient_norm"]) == pytest.approx(norm, rel=1e-4)


def test_label_smoothing_is_that_of_the_field():
    from maerec_jax.models.interface import token_loss

    logits = jax.random.normal(jax.random.key(0), (2, 3, 5))
    targets = jnp.array([[0, 1, 4], [2, 4, 4]])
    loss, weight = token_loss(logits, targets, padding=4, smoothing=0.1)
    soft = 0.9 * jax.nn.one_hot(targets, 5) + 0.1 / 5
    expected = -(soft * jax.nn.log_softmax(logits)).sum(axis=-1) * (targets != 4)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_array_equal(weight, targets != 4)


def test_a_start_traces_the_initialisation_once(monkeypatch):
    """For shapes, shardings and the state together: of a large model each time takes most of a second."""
    traced, init = [], MAERecConfig.init
    monkeypatch.setattr(MAERecConfig, "init", lambda self, key: traced.append(key) or init(self, key))
    config = replace(config_of("maerec"), label_smoothing=0.3)  # a task of its own, which nothing has traced yet
    task = make_task(config)
    optimizer = make_optimizer(config.optimizer, lambda step: 1e-3, 1, task.config.frozen)
    jax.eval_shape(task.init, jax.random.key(0))
    shapes = state_shapes(task, optimizer, config)
    shardings = state_shardings(shapes, make_mesh(devices=jax.devices()[:1]), config.model.sharding)
    fresh_state(config, task, optimizer, shardings)
    assert len(traced) == 1
