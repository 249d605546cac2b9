"""The published models, recognised from their tensors alone and named back: the file again, bit by bit."""

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from maerec_jax.config import TrainConfig
from maerec_jax.interop import importing
from maerec_jax.interop.foreign_files import WeightFile
from maerec_jax.interop.import_options import ImportOptions
from maerec_jax.interop.importing import import_weights
from maerec_jax.models.mae import MAEConfig
from maerec_jax.models.maerec import MAERecConfig
from maerec_jax.models.names.transformer import POSITION_BUFFER
from maerec_jax.models.position import sincos_2d, sincos_interleaved
from maerec_jax.models.vit import ViTConfig
from maerec_jax.weights.checkpoint import load_params, write_run
from maerec_jax.weights.files import about_weights
from maerec_jax.weights.state_dicts import state_dict_from_params, state_dict_shapes
from tests.interop.imports import FULL_SIZE, PATCHES

MODELS = {
    "mae_vit_small_patch4": MAEConfig.small(),
    "mae_vit_base_patch4": MAEConfig.base(),
    "maerec_s_union14m": MAERecConfig.small(),
    "maerec_b_union14m": MAERecConfig.base(),
    "maerec_s_lora_union14m": MAERecConfig.small(encoder=ViTConfig.small(lora_rank=4)),
    "maerec_b_lora_union14m": MAERecConfig.base(encoder=ViTConfig.base(lora_rank=4)),
}


def is_small(name):
    return "_s_" in name or "small" in name


def full_size_state(name, config):
    """Numbers in the shapes of a published model, its constants where they belong.

    Of a small one they are random; a large one has a number of its own in each tensor, which takes no memory.
    """
    shapes = json.loads(FULL_SIZE.read_text())[name]["keys"]
    rng = np.random.default_rng(0)
    drawn = {key: rng.random(shape if is_small(name) else (), np.float32) for key, shape in shapes.items()}
    state = {key: np.broadcast_to(drawn[key], shape) for key, shape in shapes.items()}
    for key in (key for key in shapes if key.endswith("pos_embed") and "decoder" not in key):
        state[key] = sincos_2d((8, 32), config.encoder.dim, "square")
    if isinstance(config, MAERecConfig):
        state[POSITION_BUFFER] = sincos_interleaved(200, config.decoder.dim)[None]
    for kind in ("query", "value"):  # every adapter is there twice
        for i in range(config.encoder.depth if config.encoder.lora_rank else 0):
            for part in "AB":
                inside = f"backbone.vit.blocks.{i}.attn.qkv.linear_{part.lower()}_{kind[0]}.weight"
                state[inside] = state[f"backbone.{kind}_{part}s.{i}.weight"]
    return state


@pytest.mark.parametrize("name", MODELS)
def test_published_models_at_full_size(name, tmp_path, monkeypatch):
    """Recognised from their tensors alone and named back: the file again, bit by bit; the small ones through a run."""
    if not FULL_SIZE.is_file():
        pytest.skip(f"shapes of the published models are not at ../shared/fixtures: {FULL_SIZE}")
    config = MODELS[name]
    state = full_size_state(name, config)
    if is_small(name):
        save_file(state, tmp_path / "file.safetensors")
    else:
        weights = WeightFile(Path(name), {key: value.shape for key, value in state.items()}, state.get, "", (), [])
        monkeypatch.setattr(importing, "open_weights", lambda *_: nullcontext(weights))
    found = import_weights(tmp_path / "file.safetensors", ImportOptions(merge_lora=False))
    released = isinstance(config, MAERecConfig)
    pixels = {"pixel_mean": (103.53, 116.28, 123.675), "pixel_std": (57.375, 57.12, 58.395)} if released else {}
    assert found.config.model == replace(config, encoder=replace(config.encoder, **pixels))
    loaded, params = found.config, found.params
    if is_small(name):
        write_run(replace(loaded, workdir=str(tmp_path / "run")), params)
        loaded, params, _ = load_params(tmp_path / "run")
    back = state_dict_from_params(params, loaded.model)
    assert back.keys() == state.keys()
    for key, value in state.items():
        flipped = value[:, ::-1] if released and key.endswith(PATCHES) else value
        np.testing.assert_array_equal(back[key], flipped, key)


@pytest.mark.parametrize("name", ["mae_vit_base_patch4", "maerec_b_lora_union14m"])
def test_sizes_that_a_file_of_ours_names_are_believed(name, monkeypatch):
    model = MODELS[name]
    shapes = {key: shape for key, (_, shape) in state_dict_shapes(model).items()}
    about, zero = about_weights(TrainConfig(model=model), 3), np.float32(0)
    weights = WeightFile(Path(name), shapes, lambda key: np.broadcast_to(zero, shapes[key]), about, (), [])
    monkeypatch.setattr(importing, "open_weights", lambda *_: nullcontext(weights))
    assert import_weights(Path(name), ImportOptions(merge_lora=False)).config.model == model
