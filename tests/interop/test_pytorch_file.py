"""State dicts that are written for PyTorch: the twin loads them strictly and computes what our models compute."""

from dataclasses import replace

import jax
import numpy as np
import pytest
import torch

from maerec_jax.config import TrainConfig, UserError
from maerec_jax.interop import pytorch_twin as twin
from maerec_jax.interop.import_options import ImportOptions
from maerec_jax.interop.importing import import_weights
from maerec_jax.interop.model_of_shapes import IMAGENET
from maerec_jax.interop.pytorch_file import write_pytorch
from maerec_jax.models.interface import normalize
from maerec_jax.models.mae import MAEConfig
from maerec_jax.models.maerec import MAERec, MAERecConfig
from maerec_jax.models.names.transformer import POSITION_BUFFER
from maerec_jax.models.vit import ViTConfig
from maerec_jax.training.pretraining import Pretraining
from maerec_jax.weights.state_dicts import params_from_state_dict
from tests.interop.imports import FULL_SIZE, assert_same
from tests.interop.test_export import IMAGES, autoencoder, fixture_state, read_ours, recogniser  # noqa: F401
from tests.interop.test_import_full_size import MODELS, full_size_state, is_small

TOKENS = np.array([MAERecConfig.tiny().charset.encode(text, 12) for text in ("word", "A", "to", "read5")])


def loaded(path, model):
    """The twin with the state dict of a file, which holds nothing but tensors and plain values."""
    model.load_state_dict(torch.load(path, weights_only=True)["state_dict"], strict=True)
    return model.eval()


def our_logits(config, params, image_BHWC):
    pixels = normalize(image_BHWC, config.encoder)
    return np.asarray(jax.jit(MAERec(config).apply)({"params": params}, pixels, TOKENS))


def their_logits(model, pixels_BHWC):
    with torch.no_grad():
        return model(
            torch.from_numpy(np.ascontiguousarray(pixels_BHWC.transpose(0, 3, 1, 2))), torch.from_numpy(TOKENS)
        )


def released_pixels(image_BHWC):
    """What the reference's pipeline makes of RGB images."""
    bgr = image_BHWC[..., ::-1].astype(np.float32)
    return (bgr - np.float32(IMAGENET[0])) / np.float32(IMAGENET[1])


def test_the_twin_computes_our_logits(recogniser, tmp_path):  # noqa: F811
    config, params = recogniser
    write_pytorch(tmp_path / "tiny.pth", config, params, step=3)
    model = loaded(tmp_path / "tiny.pth", twin.MAERec(config.model))
    pixels = np.asarray(normalize(IMAGES[:4], config.model.encoder))
    np.testing.assert_allclose(their_logits(model, pixels), our_logits(config.model, params, IMAGES[:4]), atol=1e-4)


@pytest.mark.parametrize(
    "constants",
    [
        {},
        {"pixel_mean": (120.0, 90.0, 60.5), "pixel_std": (50.0, 127.5, 80.0)},
    ],
)
def test_a_released_form_reads_bgr_with_the_released_constants(recogniser, constants, tmp_path):  # noqa: F811
    config, params = recogniser
    model = replace(config.model, encoder=ViTConfig.tiny(**constants))
    write_pytorch(tmp_path / "tiny.pth", replace(config, model=model), params, step=3, released=True)
    theirs = their_logits(loaded(tmp_path / "tiny.pth", twin.MAERec(model)), released_pixels(IMAGES[:4]))
    np.testing.assert_allclose(theirs, our_logits(model, params, IMAGES[:4]), atol=2e-4)


def test_what_came_from_a_released_file_is_written_as_it_was_there_to_the_bit(recogniser, tmp_path):  # noqa: F811
    write_pytorch(tmp_path / "tiny.pth", *recogniser, step=3, released=True)
    written = torch.load(tmp_path / "tiny.pth", weights_only=True)["state_dict"]
    original = fixture_state("maerec_tiny")
    assert written.keys() == original.keys()
    for key, value in original.items():
        np.testing.assert_array_equal(written[key], value, key)


def test_a_masked_autoencoder(autoencoder, tmp_path):  # noqa: F811
    config, params = autoencoder
    write_pytorch(tmp_path / "plain.pth", config, params, step=3)
    plain = loaded(tmp_path / "plain.pth", twin.MaskedAutoencoder(config.model))
    noise = np.random.default_rng(1).random((4, 256), np.float32)
    batch = {"image": IMAGES[:4], "noise": noise, "valid": np.ones(4, bool)}
    loss = jax.jit(Pretraining(config.model, np.float32).loss)(params, batch, jax.random.key(0))
    pixels = twin.normalize(torch.from_numpy(IMAGES[:4]), config.model.encoder)
    theirs = plain(pixels, torch.from_numpy(noise))[0].item()
    assert theirs == pytest.approx(float(loss.total / loss.weight), rel=1e-5)
    write_pytorch(tmp_path / "released.pth", config, params, step=3, released=True)
    released = torch.load(tmp_path / "released.pth", weights_only=True)
    assert list(released) == ["model", "meta"]
    assert all(torch.equal(value, released["model"][key]) for key, value in plain.state_dict().items())
    other = TrainConfig(model=MAEConfig.tiny(encoder=ViTConfig.tiny(pixel_std=(60.0, 60.0, 60.0))))
    with pytest.raises(UserError, match="pixels from -1 to 1"):
        write_pytorch(tmp_path / "other.pth", other, params, step=3, released=True)
    stem = TrainConfig(model=MAEConfig.tiny(encoder=ViTConfig.tiny(patch_size=(8, 8), stem="convolutions")))
    with pytest.raises(UserError, match="the original code has no stem of convolutions: leave out --released"):
        write_pytorch(tmp_path / "stem.pth", stem, params, step=3, released=True)


@pytest.mark.parametrize("released", [False, True])
def test_the_twin_reads_a_file_that_says_what_it_holds(recogniser, released, tmp_path):  # noqa: F811
    config, params = recogniser
    write_pytorch(tmp_path / "tiny.pth", config, params, step=3, released=released)
    texts, confidences = twin.load(tmp_path / "tiny.pth").texts(torch.from_numpy(IMAGES))
    tokens, probability = read_ours(recogniser, IMAGES)
    for row, text in enumerate(texts):
        expected, places = config.model.charset.decode(tokens[row])
        assert text == expected
        assert confidences[row] == pytest.approx(probability[row, places].mean() if len(places) else 0, abs=1e-4)


@pytest.mark.parametrize("released", [False, True])
def test_what_is_fine_tuned_in_pytorch_comes_back(recogniser, released, tmp_path):  # noqa: F811
    """Steps in PyTorch lower the loss; what was saved there is the same model there and here, pixels included."""
    write_pytorch(tmp_path / "tiny.pth", *recogniser, step=3, released=released)
    model = twin.load(tmp_path / "tiny.pth")
    images, words = torch.from_numpy(IMAGES[:4]), ["word", "A", "to", "read5"]
    tokens = model.tokens(words)
    np.testing.assert_array_equal(tokens, TOKENS[:, : tokens.shape[1]])
    optimizer = torch.optim.AdamW(model.train().parameters(), 1e-3)
    losses = []
    for _ in range(40):
        losses.append(model.loss(model.pixels(images), tokens))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 4
    twin.save(model, tmp_path / "tuned.pth")
    texts, _ = model.eval().texts(images)
    assert twin.load(tmp_path / "tuned.pth").texts(images)[0] == texts
    found = import_weights(tmp_path / "tuned.pth", ImportOptions())
    config = found.config.model
    tokens, _ = read_ours((found.config, found.params), IMAGES[:4])
    assert [config.charset.decode(row)[0] for row in tokens] == texts
    with pytest.raises(ValueError, match="more than 10 characters"):
        model.tokens(["a" * 11])


def test_the_twin_says_what_it_cannot_load(tmp_path):
    torch.save({"model": {"mask_token": torch.zeros(1, 1, 4)}}, tmp_path / "mae.pth")
    with pytest.raises(ValueError, match=r"mae\.pth is not a recogniser.*try maerec_jax.import_pytorch"):
        twin.load(tmp_path / "mae.pth")


@pytest.mark.parametrize("name", ["maerec_s_union14m", "maerec_s_lora_union14m"])
def test_the_twin_loads_released_files(name, tmp_path):
    if not FULL_SIZE.is_file():
        pytest.skip(f"shapes of the published models are not at ../shared/fixtures: {FULL_SIZE}")
    config = MODELS[name]
    state = full_size_state(name, config)
    state = {key: torch.from_numpy(value * (1 if key == POSITION_BUFFER else 0.02)) for key, value in state.items()}
    torch.save({"meta": {"epoch": 10}, "state_dict": state}, tmp_path / "released.pth")
    model = twin.load(tmp_path / "released.pth")
    pixels = released_pixels(IMAGES[:2])
    params = params_from_state_dict({key: value.numpy() for key, value in state.items()}, config)
    ours = np.asarray(jax.jit(MAERec(config).apply)({"params": params}, pixels, TOKENS[:2]))
    with torch.no_grad():
        theirs = model(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()), torch.from_numpy(TOKENS[:2]))
    np.testing.assert_allclose(theirs, ours, atol=1e-4 * np.abs(ours).max())


@pytest.mark.parametrize("name", list(filter(is_small, MODELS)))
def test_full_size_files_come_back_to_the_bit(name, tmp_path):
    """What is written is recognised without any option, of recognisers in the released form."""
    if not FULL_SIZE.is_file():
        pytest.skip(f"shapes of the published models are not at ../shared/fixtures: {FULL_SIZE}")
    model = MODELS[name]
    params = params_from_state_dict(full_size_state(name, model), model)
    released = isinstance(model, MAERecConfig)
    pixels = {"pixel_mean": IMAGENET[0][::-1], "pixel_std": IMAGENET[1][::-1]} if released else {}
    config = TrainConfig(model=replace(model, encoder=replace(model.encoder, **pixels)))
    write_pytorch(tmp_path / "model.pth", config, params, 3, released)
    found = import_weights(tmp_path / "model.pth", ImportOptions(merge_lora=False))
    assert found.config.model == config.model
    assert_same(found.params, params)
