"""The PyTorch twin takes the reference's weights as they are and computes what our models compute from them."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
import torch

from maerec_jax.interop import pytorch_twin as twin
from maerec_jax.models.greedy import greedy_read
from maerec_jax.models.interface import normalize
from maerec_jax.models.mae import MAEConfig, MaskedAutoencoder
from maerec_jax.models.maerec import MAERec, MAERecConfig
from maerec_jax.models.text_decoder import TextDecoderConfig
from maerec_jax.models.vit import ViTConfig
from maerec_jax.training.optimizer import map_by_path
from maerec_jax.training.pretraining import Pretraining
from maerec_jax.training.recognition import Recognition
from maerec_jax.weights.state_dicts import params_from_state_dict, state_dict_from_params

FIXTURES = Path(__file__).parent.parent / "fixtures"
RECOGNISERS = {
    "maerec_tiny": MAERecConfig.tiny(),
    "maerec_lora_tiny": MAERecConfig.tiny(encoder=ViTConfig.tiny(lora_rank=4)),
}
STEM = ViTConfig.tiny(depth=1, patch_size=(8, 8), stem="convolutions")
TRAINED = {
    "mae": MAEConfig.tiny(),
    "mae with a stem": MAEConfig.tiny(encoder=STEM),
    "maerec": RECOGNISERS["maerec_tiny"],
    "maerec with a stem": MAERecConfig.tiny(encoder=STEM, decoder=TextDecoderConfig.tiny(layers=1)),
    "lora": RECOGNISERS["maerec_lora_tiny"],
}


def load(name):
    """State dict and reference outputs."""
    with np.load(FIXTURES / name / "weights.npz") as npz:
        state = {key.removeprefix("sd/"): value for key, value in npz.items()}
    with np.load(FIXTURES / name / "outputs.npz") as npz:
        return state, dict(npz)


def assert_close(actual, expected, what=""):
    """Relative error below 1e-4, measured against the largest value of the array."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, what
    error = np.abs(actual - expected).max() / np.abs(expected).max()
    assert error < 1e-4, f"{what}: relative error {error:.2e}"


def with_weights(model, state):
    model.load_state_dict({key: torch.tensor(value) for key, value in state.items()}, strict=True)
    return model.eval()


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (4, 32, 128, 3), np.uint8)


@pytest.mark.parametrize("norm_pix", [False, True])
def test_masked_autoencoder(norm_pix):
    state, expected = load("mae_tiny")
    config = MAEConfig.tiny(norm_pix=norm_pix)
    model = with_weights(twin.MaskedAutoencoder(config), state)
    loss, pred, mask = model(torch.from_numpy(expected["imgs"]), torch.from_numpy(expected["noise"]))
    assert_close(loss.detach(), expected["loss_normpix" if norm_pix else "loss_pix"], "loss")
    np.testing.assert_array_equal(mask, expected["mask"])
    ours = jax.jit(MaskedAutoencoder(config).apply)(
        {"params": params_from_state_dict(state, config)}, expected["imgs"].transpose(0, 2, 3, 1), expected["noise"]
    )
    assert_close(pred.detach(), ours["pred"], "pred")
    assert_close(pred.detach(), expected["pred"], "pred of the reference")


@pytest.mark.parametrize("name", RECOGNISERS)
def test_recogniser(name):
    state, expected = load(name)
    model = with_weights(twin.MAERec(RECOGNISERS[name]), state)
    images, tokens = (torch.from_numpy(expected[key]) for key in ("images_normalised", "padded_indexes"))
    with torch.no_grad():
        assert_close(model.backbone(images), expected["feat"], "encoder")
        assert_close(model(images, tokens), expected["tf_logits"], "logits")
        assert_close(model.loss(images, tokens), expected["loss_ce"], "loss")


@pytest.mark.parametrize("name", RECOGNISERS)
def test_reading_equals_ours(name):
    """Padding in the middle, unknown characters and missing ends included."""
    state, expected = load(name)
    config = RECOGNISERS[name]
    images = expected["images_normalised"]
    reading = with_weights(twin.MAERec(config), state).read(torch.from_numpy(images))
    params = params_from_state_dict(state, config)
    ours = jax.jit(lambda p, x: greedy_read(MAERec(config), p, x))(params, images.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(reading.tokens_BT, ours.tokens_BT)
    assert_close(reading.probability_BT, ours.probability_BT)


@pytest.mark.parametrize("stage", TRAINED)
def test_a_training_step_has_our_loss_and_gradients(stage, images):
    """From uint8 pixels to the gradient of every parameter, without dropout, which draws other numbers there."""
    config = TRAINED[stage]
    pretrains = isinstance(config, MAEConfig)
    if pretrains:
        task, model = Pretraining(config, np.float32), twin.MaskedAutoencoder(config)
    else:
        config = replace(config, decoder=replace(config.decoder, dropout=0.0))
        task, model = Recognition(config, np.float32), twin.MAERec(config)
    rng = np.random.default_rng(1)
    params = jax.jit(task.config.init)(jax.random.key(0))
    if stage == "lora":  # at first they are 0, and so are half of the gradients
        for block in ("blocks_0", "blocks_1"):
            for name in ("lora_query", "lora_value"):
                params["encoder"][block][name]["b"]["kernel"] = rng.normal(0, 0.1, (4, 2, 32)).astype(np.float32)
    noise = rng.random((len(images), config.encoder.n_patches), np.float32)
    batch = {"image": images, "valid": np.ones(len(images), bool), "noise": noise}
    if not pretrains:
        batch["tokens"] = np.stack([config.charset.encode(text, 12) for text in ("word", "A", "to", "read5")])

    def mean_loss(params):
        loss = task.loss(params, batch, jax.random.key(0))
        return loss.total / loss.weight

    loss, gradients = jax.jit(jax.value_and_grad(mean_loss))(params)
    with_weights(model, state_dict_from_params(params, config)).train()
    pixels = twin.normalize(torch.from_numpy(images), config.encoder)
    np.testing.assert_allclose(pixels.permute(0, 2, 3, 1), normalize(images, config.encoder), atol=1e-6)
    if pretrains:
        found = model(pixels, torch.from_numpy(noise))[0]
    else:
        found = model.loss(pixels, torch.from_numpy(batch["tokens"]).long())
    assert_close(found.detach(), loss, "loss")
    found.backward()
    expected = state_dict_from_params(gradients, config)
    constant = map_by_path(task.config.frozen, params)
    flags = jax.tree.map(lambda x, flag: np.full(x.shape, flag), params, constant)
    frozen = {name for name, x in state_dict_from_params(flags, config).items() if x.any()}
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (name not in frozen), name
        if parameter.requires_grad:
            assert_close(parameter.grad, expected[name], name)


def test_dropout_is_drawn_in_training_only(images):
    config = MAERecConfig.tiny()
    model = twin.MAERec(config)
    pixels = twin.normalize(torch.from_numpy(images), config.encoder)
    tokens = torch.randint(0, 90, (len(images), 12), generator=torch.Generator().manual_seed(0))
    assert (model.train()(pixels, tokens) != model(pixels, tokens)).any()
    assert (model.eval()(pixels, tokens) == model(pixels, tokens)).all()


def test_an_image_of_another_size_is_refused():
    model = twin.MaskedAutoencoder(MAEConfig.tiny())
    with pytest.raises(ValueError, match=r"images are \(32, 64\), the model's \(32, 128\)"):
        model(torch.zeros(1, 3, 32, 64), torch.zeros(1, 128))


def test_names_and_shapes_at_full_size():
    for task, build in (
        (Pretraining(MAEConfig.small(), np.float32), twin.MaskedAutoencoder),
        (Recognition(MAERecConfig.small(), np.float32), twin.MAERec),
        (Recognition(MAERecConfig.small(encoder=ViTConfig.small(lora_rank=4)), np.float32), twin.MAERec),
        (Recognition(MAERecConfig.small(encoder=replace(STEM, lora_rank=4)), np.float32), twin.MAERec),
    ):
        shapes = jax.eval_shape(task.config.init, jax.random.key(0))
        zeros = jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), shapes)
        with torch.device("meta"):
            theirs = build(task.config).state_dict()
        ours = state_dict_from_params(zeros, task.config)
        assert {k: v.shape for k, v in ours.items()} == {k: tuple(v.shape) for k, v in theirs.items()}
