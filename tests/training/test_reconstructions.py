"""Reconstructions: hidden patches as predicted, visible ones as they are, and the error of the loss."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from maerec_jax.models.cross_mae import CrossMAEConfig
from maerec_jax.models.interface import normalize
from maerec_jax.models.mae import MAEConfig, MaskedAutoencoder, reconstruction_error, reconstruction_target
from maerec_jax.models.vit import patchify
from maerec_jax.training.pretraining import Pretraining, masked_and_reconstructed
from tests.training.conftest import ENCODER, random_params

IMAGE = np.random.default_rng(0).integers(0, 256, (4, 32, 128, 3), np.uint8)


def reconstruct(config):
    """Parameters, and what a model makes of the images with them."""
    params, task = random_params(config), Pretraining(config, np.float32)
    batch = {"image": IMAGE, "valid": np.ones(4, bool)}
    return params, jax.device_get(jax.jit(task.evaluation_step)(params, batch))


def test_errors_are_those_of_the_loss():
    config = MAEConfig.tiny(encoder=ENCODER)
    params, made = reconstruct(config)
    image = normalize(IMAGE, config.encoder)
    noise = Pretraining(config, np.float32).prepare({"image": IMAGE}, jax.random.key(0))["noise"]
    out = jax.jit(MaskedAutoencoder(config).apply)({"params": params}, image, noise)
    expected = reconstruction_error(out["pred"], reconstruction_target(image, config), out["mask"])
    np.testing.assert_allclose(made["total"], expected.sum(), rtol=1e-5)


@pytest.mark.parametrize(
    "config", [MAEConfig.tiny(encoder=ENCODER), CrossMAEConfig.tiny(encoder=ENCODER)], ids=lambda config: config.kind
)
def test_hidden_patches_are_predicted_and_visible_ones_kept(config):
    """What a ratio hides larger ones hide, too; and of CrossMAE all that is hidden is predicted."""
    hidden = []
    for ratio in (0.25, 0.85):
        predicted = {"prediction_ratio": ratio} if config.kind == "cross_mae" else {}
        _, made = reconstruct(replace(config, mask_ratio=ratio, **predicted))
        masked, result = masked_and_reconstructed(IMAGE, made["mask"], made["pixels"], config.encoder)
        hidden.append(made["mask"] > 0)
        original = np.asarray(patchify(IMAGE, (16, 16)))
        for picture, grey in ((masked, True), (result, False)):
            patches = np.asarray(patchify(picture, (16, 16)))
            np.testing.assert_array_equal(patches[~hidden[-1]], original[~hidden[-1]])
            assert ((patches[hidden[-1]] == 128).all(axis=1) == grey).all()
    assert (hidden[0].sum(axis=1) == 4).all()
    assert (hidden[1].sum(axis=1) == 14).all()
    assert (hidden[0] <= hidden[1]).all()


def test_validation_and_training_compute_the_same_error():
    config = MAEConfig.tiny(encoder=ENCODER)
    params, task = random_params(config), Pretraining(config, np.float32)
    batch = {"image": IMAGE, "valid": np.array([True, True, False, True])}
    found = jax.jit(task.evaluation_step)(params, batch)
    loss = jax.jit(lambda p, b: task.loss(p, task.prepare(b, jax.random.key(0)), jax.random.key(0)))(params, batch)
    np.testing.assert_allclose(found["total"], loss.total, rtol=1e-5)
    assert found["weight"] == loss.weight == 3
    assert set(found) == {"total", "weight", "image", "mask", "pixels"}
