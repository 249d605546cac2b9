"""The published models, recognised from their tensors alone and named back: the file again, bit by bit."""

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file

from maerec_jax.interop.importing import import_weights
from maerec_jax.interop.model_of_shapes import ImportOptions
from maerec_jax.models.mae import MAEConfig
from maerec_jax.models.maerec import MAERecConfig
from maerec_jax.models.names.maerec import POSITION_BUFFER
from maerec_jax.models.position import sincos_2d, sincos_interleaved
from maerec_jax.models.vit import ViTConfig
from maerec_jax.weights.checkpoint import load_params, write_run
from maerec_jax.weights.state_dicts import state_dict_from_params
from tests.interop.imports import FULL_SIZE, PATCHES

MODELS = {
    "mae_vit_small_patch4": MAEConfig.small(),
    "mae_vit_base_patch4": MAEConfig.base(),
    "maerec_s_union14m": MAERecConfig.small(),
    "maerec_b_union14m": MAERecConfig.base(),
    "maerec_s_lora_union14m": MAERecConfig.small(encoder=ViTConfig.small(lora_rank=4)),
    "maerec_b_lora_union14m": MAERecConfig.base(encoder=ViTConfig.base(lora_rank=4)),
}


def full_size_state(name, config):
    """Random numbers in the shapes of a published model, its constants where they belong."""
    shapes = json.loads(FULL_SIZE.read_text())[name]["keys"]
    rng = np.random.default_rng(0)
    state = {key: rng.random(shape, np.float32) for key, shape in shapes.items()}
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
def test_published_models_at_full_size(name, tmp_path):
    """Recognised from their tensors alone and named back: the file again, bit by bit; the small ones through a run."""
    if not FULL_SIZE.is_file():
        pytest.skip(f"shapes of the published models are not at ../shared/fixtures: {FULL_SIZE}")
    config = MODELS[name]
    state = full_size_state(name, config)
    save_file(state, tmp_path / "file.safetensors")
    found = import_weights(tmp_path / "file.safetensors", ImportOptions(merge_lora=False))
    (tmp_path / "file.safetensors").unlink()
    released = isinstance(config, MAERecConfig)
    pixels = {"pixel_mean": (103.53, 116.28, 123.675), "pixel_std": (57.375, 57.12, 58.395)} if released else {}
    assert found.config.model == replace(config, encoder=replace(config.encoder, **pixels))
    loaded, params = found.config, found.params
    if "_s_" in name or "small" in name:
        write_run(replace(loaded, workdir=str(tmp_path / "run")), params)
        loaded, params, _ = load_params(tmp_path / "run")
    back = state_dict_from_params(params, loaded.model)
    assert back.keys() == state.keys()
    for key, value in state.items():
        flipped = value[:, ::-1] if released and key.endswith(PATCHES) else value
        np.testing.assert_array_equal(back[key], flipped, key)
