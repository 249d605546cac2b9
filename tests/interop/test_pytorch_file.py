"""State dicts that are written for PyTorch: the twin loads them strictly and computes what our models compute."""

from dataclasses import replace

import jax
import numpy as np
import pytest

torch = pytest.importorskip(
    "torch", reason="PyTorch is not installed: pip install -e '.[torch]' (on CPU machines: its CPU build)"
)

from maerec_jax.config import TrainConfig, UserError  # noqa: E402
from maerec_jax.interop import pytorch_twin as twin  # noqa: E402
from maerec_jax.interop.pytorch_file import RELEASED_MEAN, RELEASED_STD, write_pytorch  # noqa: E402
from maerec_jax.interop.pytorch_names import POSITION_BUFFER  # noqa: E402
from maerec_jax.models.mae import MAEConfig  # noqa: E402
from maerec_jax.models.maerec import MAERec, MAERecConfig  # noqa: E402
from maerec_jax.models.vit import ViTConfig, normalize  # noqa: E402
from maerec_jax.training.pretraining import Pretraining  # noqa: E402
from tests.interop.test_export import IMAGES, autoencoder, fixture_state, recogniser  # noqa: E402, F401

TOKENS = np.array([MAERecConfig.tiny().charset.encode(text, 12) for text in ("word", "A", "to", "read5")])


def loaded(path, model):
    """The twin with the state dict of a file, which holds nothing but tensors."""
    model.load_state_dict(torch.load(path, weights_only=True), strict=True)
    return model.eval()


def our_logits(config, params, image_BHWC):
    return np.asarray(MAERec(config).apply({"params": params}, normalize(image_BHWC, config.encoder), TOKENS))


def their_logits(model, pixels_BHWC):
    with torch.no_grad():
        return model(
            torch.from_numpy(np.ascontiguousarray(pixels_BHWC.transpose(0, 3, 1, 2))), torch.from_numpy(TOKENS)
        )


def released_pixels(image_BHWC):
    """What the reference's pipeline makes of RGB images."""
    bgr = image_BHWC[..., ::-1].astype(np.float32)
    return (bgr - np.float32(RELEASED_MEAN)) / np.float32(RELEASED_STD)


def test_the_twin_computes_our_logits(recogniser, tmp_path):  # noqa: F811
    config, params = recogniser
    write_pytorch(tmp_path / "tiny.pth", config, params)
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
    write_pytorch(tmp_path / "tiny.pth", replace(config, model=model), params, released=True)
    theirs = their_logits(loaded(tmp_path / "tiny.pth", twin.MAERec(model)), released_pixels(IMAGES[:4]))
    np.testing.assert_allclose(theirs, our_logits(model, params, IMAGES[:4]), atol=2e-4)


def test_what_came_from_a_released_file_is_written_as_it_was_there_to_the_bit(recogniser, tmp_path):  # noqa: F811
    write_pytorch(tmp_path / "tiny.pth", *recogniser, released=True)
    written, original = torch.load(tmp_path / "tiny.pth", weights_only=True), fixture_state("maerec_tiny")
    assert written.keys() == original.keys()
    for key, value in original.items():
        # The constant table is ours, whose sines may be rounded otherwise than PyTorch's.
        atol = 1e-6 if key == POSITION_BUFFER else 0
        np.testing.assert_allclose(written[key], value, rtol=0, atol=atol, err_msg=key)


def test_a_masked_autoencoder(autoencoder, tmp_path):  # noqa: F811
    config, params = autoencoder
    write_pytorch(tmp_path / "plain.pth", config, params)
    plain = loaded(tmp_path / "plain.pth", twin.MaskedAutoencoder(config.model))
    noise = np.random.default_rng(1).random((4, 256), np.float32)
    batch = {"image": IMAGES[:4], "noise": noise, "valid": np.ones(4, bool)}
    loss = Pretraining(config.model, np.float32).loss(params, batch, jax.random.key(0))
    pixels = twin.normalize(torch.from_numpy(IMAGES[:4]), config.model.encoder)
    theirs = plain(pixels, torch.from_numpy(noise))[0].item()
    assert theirs == pytest.approx(float(loss.total / loss.weight), rel=1e-5)
    write_pytorch(tmp_path / "released.pth", config, params, released=True)
    released = torch.load(tmp_path / "released.pth", weights_only=True)
    assert list(released) == ["model"]
    assert all(torch.equal(value, released["model"][key]) for key, value in plain.state_dict().items())
    other = TrainConfig(model=MAEConfig.tiny(encoder=ViTConfig.tiny(pixel_std=(60.0, 60.0, 60.0))))
    with pytest.raises(UserError, match="pixels from -1 to 1"):
        write_pytorch(tmp_path / "other.pth", other, params, released=True)
