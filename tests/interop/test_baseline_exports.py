"""Exported files of the baselines read what the models read."""

import json

import jax
import numpy as np
import pytest
import torch

from data_pipelines.errors import UserError
from maerec_jax.config import TrainConfig
from maerec_jax.interop import onnx_file
from maerec_jax.interop.onnx_file import write_onnx
from maerec_jax.interop.pytorch_baselines import KINDS, load
from maerec_jax.interop.pytorch_file import write_pytorch
from maerec_jax.models.interface import normalize
from maerec_jax.models.kinds import model_configs
from maerec_jax.training.optimizer import map_by_path
from tests.interop.test_onnx import session_of
from tests.training.conftest import random_params

CONFIGS = {model.kind: model for model in model_configs()}
OURS = [kind for kind in KINDS if kind in CONFIGS]


def images_of(config, count=3):
    """uint8 images, and their widths if the model is told them."""
    image = np.random.default_rng(0).integers(0, 256, (count, *config.image_size, 3), np.uint8)
    whole = config.image_size[1]
    return (image,) if config.keep_ratio is None else (image, np.linspace(whole, whole // 2, count).astype(np.int32))


def params_of(config):
    """Random parameters, with which layers neither vanish nor grow."""
    params = random_params(config, seed=1)
    about_one = map_by_path(lambda path: path.endswith(("/scale", "/variance")), params)
    return jax.tree.map(lambda x, one: np.abs(1 + x) if one else 2 * x, params, about_one)


def read_ours(config, params, image, *width):
    told = {"width_B": width[0]} if width else {}
    return jax.jit(lambda p, x, told: config.read(p, normalize(x, config), **told))(params, image, told)


@pytest.mark.parametrize("kind", OURS)
def test_pytorch_files(kind, tmp_path):
    config = CONFIGS[kind].tiny()
    params = params_of(config)
    given = images_of(config)
    expected = read_ours(config, params, *given)
    image, *width = (torch.from_numpy(x) for x in given)
    for released in (False, True):  # for RGB pixels, and for BGR
        write_pytorch(tmp_path / "tiny.pth", TrainConfig(model=config), params, step=3, released=released)
        model = load(str(tmp_path / "tiny.pth"))
        reading = model.read(model.pixels(image), *width)
        np.testing.assert_array_equal(reading.tokens_BT, expected.tokens_BT)
        np.testing.assert_allclose(reading.probability_BT, expected.probability_BT, atol=1e-3)


@pytest.mark.parametrize("kind", [kind for kind in OURS if kind == "sar"])
def test_onnx_files(kind, tmp_path, monkeypatch):
    config = CONFIGS[kind].tiny()
    params, given = params_of(config), images_of(config)
    write_onnx(tmp_path / "tiny.onnx", TrainConfig(model=config), params, step=3)
    session = session_of(tmp_path / "tiny.onnx")
    about = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    assert about["keep_ratio"]["smallest"] == config.keep_ratio.smallest
    tokens, probabilities, _ = session.run(None, dict(zip(("image", "width"), given, strict=True)))
    expected = read_ours(config, params, *given)
    np.testing.assert_array_equal(tokens, expected.tokens_BT)
    np.testing.assert_allclose(probabilities, expected.probability_BT, atol=1e-4)
    monkeypatch.setattr(onnx_file, "_exported", lambda *_: pytest.fail("it was exported"))
    with pytest.raises(UserError, match="has no 8-bit weights"):
        write_onnx(tmp_path / "int8.onnx", TrainConfig(model=config), params, step=3, int8=True)


def test_kinds_without_a_twin_are_refused(tmp_path):
    (config,) = (CONFIGS[kind] for kind in ("mae",))
    with pytest.raises(UserError, match="kind mae has no ONNX export: only maerec, aster, abinet, nrtr, satrn, sar"):
        write_onnx(tmp_path / "none.onnx", TrainConfig(model=config.tiny()), {}, step=0)
