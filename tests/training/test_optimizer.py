"""Schedules, decay masks and updates equal the reference's."""

import json
import re
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from maerec_jax.config import OptimizerConfig
from maerec_jax.models.aster import ASTERConfig
from maerec_jax.models.mae import MAEConfig, MaskedAutoencoder, reconstruction_error, reconstruction_target
from maerec_jax.models.maerec import MAERecConfig
from maerec_jax.models.satrn import SATRNConfig
from maerec_jax.models.vit import ViTConfig
from maerec_jax.training.optimizer import encoder_layer, is_vector, learning_rate_schedule, make_optimizer, muon_axes
from maerec_jax.training.pretraining import Pretraining
from maerec_jax.training.recognition import Recognition
from maerec_jax.weights.state_dicts import params_from_state_dict, state_dict_from_params
from tests.training.conftest import random_params

FIXTURES = Path(__file__).parent.parent / "fixtures"
SCHEDULES = json.loads((FIXTURES / "lr_schedule.json").read_text())
CONSTANT = lambda step: 1e-3  # noqa: E731


@pytest.mark.parametrize("name", [n for n in SCHEDULES if n.startswith("mae/")])
def test_pretraining_schedule(name):
    args, expected = SCHEDULES[name]["args"], SCHEDULES[name]["lr"]
    config = OptimizerConfig(
        learning_rate=args["lr"], warmup_epochs=args["warm"], final_learning_rate=args.get("min_lr", 0.0)
    )
    parts = args.get("accum", 1)  # the reference counts the parts of an accumulated batch as iterations
    steps_per_epoch = args["iters_per_epoch"] / parts
    schedule = learning_rate_schedule(config, 1024, steps_per_epoch, round(steps_per_epoch * args["epochs"]))
    found = [float(schedule(step)) for step in range(len(expected) // parts)]
    np.testing.assert_allclose(found, expected[::parts], rtol=1e-5, atol=1e-10)


@pytest.mark.parametrize("name", [n for n in SCHEDULES if n.startswith("finetune/maerec/")])
def test_fine_tuning_schedule(name):
    fixture = SCHEDULES[name]
    (cosine,) = fixture["param_scheduler"]
    config = OptimizerConfig(learning_rate=fixture["optimizer"]["lr"], final_learning_rate=cosine["eta_min"])
    total = fixture["max_epochs"] * fixture["iters_per_epoch"]
    schedule = learning_rate_schedule(config, 128, fixture["iters_per_epoch"], total)
    found = [float(schedule(step)) for step in range(len(fixture["lr_at_iter"]))]
    np.testing.assert_allclose(found, fixture["lr_at_iter"], rtol=1e-4, atol=1e-9)


def test_one_cycle_schedule():
    config = OptimizerConfig(learning_rate=1.0, schedule="one_cycle", warmup_epochs=1.5)
    schedule = learning_rate_schedule(config, 1024, 10, 100)
    rates = np.array([float(schedule(step)) for step in range(100)])
    assert rates[0] == pytest.approx(1 / 25)
    assert rates.argmax() == 14
    assert rates.max() == pytest.approx(1.0)
    assert (np.diff(rates[:15]) > 0).all()
    assert (np.diff(rates[14:]) < 0).all()
    assert rates[-1] == pytest.approx(1 / 25e4, rel=0.01)


def test_learning_rate_scales_with_the_batch():
    config = OptimizerConfig(learning_rate=1.5e-4, reference_batch=256, schedule="constant")
    assert float(learning_rate_schedule(config, 1024, 10, 100)(5)) == pytest.approx(6e-4)


def mae_fixture():
    arrays = {}
    for part in ("weights", "outputs", "gradients"):
        with np.load(FIXTURES / "mae_tiny" / f"{part}.npz") as npz:
            arrays.update(npz)
    return arrays


def test_decay_mask_equals_the_reference():
    fixture, config = mae_fixture(), MAEConfig.tiny()
    params = params_from_state_dict({k[3:]: v for k, v in fixture.items() if k.startswith("sd/")}, config)
    flags = {path: np.full(value.shape, is_vector(path)) for path, value in flatten_dict(params, sep="/").items()}
    state = state_dict_from_params(unflatten_dict(flags, sep="/"), config)
    assert {k for k, flag in state.items() if flag.any()} == set(fixture["wd_no_decay_names"].tolist())
    frozen = {"pos_embed", "decoder_pos_embed"}
    assert {k for k, flag in state.items() if not flag.any()} - frozen == set(fixture["wd_decay_names"].tolist())


def test_three_adamw_steps_equal_the_reference():
    fixture, config = mae_fixture(), MAEConfig.tiny()
    task = Pretraining(config, np.float32)
    params = params_from_state_dict({k[3:]: v for k, v in fixture.items() if k.startswith("sd/")}, config)
    start = params
    settings = OptimizerConfig(weight_decay=0.05, betas=(0.9, 0.95))
    optimizer = make_optimizer(settings, CONSTANT, 2, task.config.frozen)
    state = optimizer.init(params)
    image = fixture["imgs"].transpose(0, 2, 3, 1)

    @jax.jit
    @jax.value_and_grad
    def loss_fn(params):
        out = MaskedAutoencoder(config).apply({"params": params}, image, fixture["noise"])
        return reconstruction_error(out["pred"], reconstruction_target(image, config), out["mask"]).mean()

    update = jax.jit(optimizer.update)
    for step in range(3):
        loss, grads = loss_fn(params)
        assert float(loss) == pytest.approx(float(fixture[f"adamw_loss_step{step}_normpix"]), rel=1e-4)
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
    result = state_dict_from_params(params, config)
    keys = [k for k in fixture if k.startswith("adamw_after3/")]
    assert len(keys) == 3
    for key in keys:
        expected = fixture[key]
        np.testing.assert_allclose(result[key.split("/")[1]], expected, atol=1e-4 * np.abs(expected).max())
    for table in ("pos_embed", "decoder_pos_embed"):
        np.testing.assert_array_equal(result[table], state_dict_from_params(start, config)[table])


def test_frozen_parameters_have_no_optimizer_state():
    task = Pretraining(MAEConfig.tiny(), np.float32)
    params = jax.eval_shape(lambda: task.config.init(jax.random.key(0)))
    state = jax.eval_shape(lambda p: make_optimizer(OptimizerConfig(), CONSTANT, 2, task.config.frozen).init(p), params)
    trained = sum(x.size for x in jax.tree.leaves(params)) - 257 * (64 + 32)
    moments = sum(x.size for x in jax.tree.leaves(state) if x.ndim)
    assert moments == 2 * trained


def test_layer_decay_slows_lower_layers():
    config = OptimizerConfig(weight_decay=0.0, layer_decay=0.5)
    params = {
        "encoder": {
            "patch_embed": {"kernel": np.ones(2)},
            "blocks_0": {"k": np.ones(2)},
            "blocks_1": {"k": np.ones(2)},
        },
        "decoder": {"classifier": {"kernel": np.ones(2)}},
    }
    optimizer = make_optimizer(config, CONSTANT, 2, lambda path: False)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    steps = {path: -float(value[0]) / 1e-3 for path, value in flatten_dict(updates, sep="/").items()}
    assert steps == pytest.approx(
        {
            "encoder/patch_embed/kernel": 0.125,
            "encoder/blocks_0/k": 0.25,
            "encoder/blocks_1/k": 0.5,
            "decoder/classifier/kernel": 1.0,
        },
        rel=1e-4,
    )
    assert encoder_layer("encoder/pos_embed", 12) == encoder_layer("encoder/stem/conv1/kernel", 12) == 0
    assert encoder_layer("encoder/blocks_norm/scale", 12) == 13


def test_muon_makes_the_updates_of_matrices_orthogonal():
    """Each a matrix of its own, as large as AdamW's; what is no matrix of a block gets Adam's updates."""
    settings = OptimizerConfig(weight_decay=0.0, algorithm="muon")
    adam = optax.nadam(1e-3, *settings.betas, eps=settings.epsilon)
    rng = np.random.default_rng(0)
    left = set()
    stem = MAEConfig.tiny(encoder=ViTConfig.tiny(depth=1, patch_size=(8, 8), stem="convolutions"))
    for model in (MAEConfig.tiny(), stem, MAERecConfig.tiny(), ASTERConfig.tiny(), SATRNConfig.tiny()):
        task = (Pretraining if isinstance(model, MAEConfig) else Recognition)(model, np.float32)
        params = random_params(task.config)
        grads = jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(np.float32), params)
        optimizer = make_optimizer(settings, CONSTANT, 2, task.config.frozen)
        updates, _ = jax.jit(lambda g, p, o=optimizer: o.update(g, o.init(p), p))(grads, params)
        expected = flatten_dict(jax.jit(lambda g: adam.update(g, adam.init(g))[0])(grads), sep="/")
        for path, update in flatten_dict(updates, sep="/").items():
            if task.config.frozen(path):
                continue
            axes = muon_axes(path, update.shape)
            if axes is None:
                np.testing.assert_allclose(update, expected[path], rtol=1e-4)
                left |= {re.sub(r"\d+/", "0/", path)} if path.endswith("kernel") else set()
                continue
            inputs, outputs = (np.prod([update.shape[i] for i in group]) for group in axes)
            if "qkv" in path or path.endswith("/kv/kernel"):
                matrices = np.moveaxis(np.asarray(update), 1, 0).reshape(-1, inputs, outputs)
            else:
                matrices = np.asarray(update).reshape(1, inputs, outputs)
            for matrix in matrices:
                scales = np.linalg.svd(matrix, compute_uv=False) / (1e-3 * 0.2 * max(inputs, outputs) ** 0.5)
                assert scales.max() < 1.3  # five steps of the iteration leave that, and of few hardly anything
                assert np.quantile(scales, 0.1) > 0.6
            assert matrices.size == update.size
            against = np.asarray(flatten_dict(grads, sep="/")[path])
            assert (against * update).sum() < 0  # downhill
    assert left == {
        "encoder/patch_embed/kernel",
        "encoder/stem/conv0/kernel",
        "decoder_embed/kernel",
        "decoder_pred/kernel",
        "decoder/classifier/kernel",
        "backbone/stem/conv/kernel",
        "rectifier/layer0/conv/kernel",
        "rectifier/fc0/kernel",
        "decoder/score/kernel",
        "backbone/conv0/conv/kernel",
        "encoder/layers_0/depthwise/conv/kernel",
    }


def test_clipping_bounds_the_update_direction():
    """Adam hides the scale of gradients, so clipping is seen in its first moment."""
    optimizer = make_optimizer(OptimizerConfig(clip_norm=1.0), CONSTANT, 2, lambda path: False)
    params = {"a": np.zeros(4, np.float32)}
    _, state = optimizer.update({"a": np.full(4, 100.0, np.float32)}, optimizer.init(params), params)
    first_moments = next(x for x in jax.tree.leaves(state) if x.shape == (4,))
    np.testing.assert_allclose(first_moments, 0.1 * 0.5, rtol=1e-5)
