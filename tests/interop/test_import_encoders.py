"""Encoders from elsewhere fit our images, and compute what they computed."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from data_pipelines.errors import UserError
from maerec_jax.models.interface import normalize
from maerec_jax.models.mae import MAEConfig
from maerec_jax.models.maerec import MAERecConfig
from maerec_jax.models.other_images import rescale_pixels, resize_projection
from maerec_jax.models.position import sincos_2d
from maerec_jax.models.vit import ViTConfig, ViTEncoder
from maerec_jax.training.starting import merge_params, misfits
from maerec_jax.weights.checkpoint import load_params, write_run
from maerec_jax.weights.state_dicts import params_from_state_dict, state_dict_from_params, state_dict_shapes
from tests.interop.imports import SIZES, assert_same, imported, state_of
from tests.training.conftest import random_params


def foreign_state(rng, dim=64, patch=8, grid=(6, 6), depth=2, extra=1):
    """A small Vision Transformer as timm names its tensors."""
    encoder = ViTConfig(
        dim=dim, depth=depth, heads=2, image_size=(grid[0] * patch, grid[1] * patch), patch_size=(patch, patch),
        position_table="grid",
    )  # fmt: skip
    decoder = {"decoder_dim": 4, "decoder_depth": 0, "decoder_heads": 1}
    named = state_dict_shapes(MAEConfig(encoder=encoder, **decoder)).items()
    shapes = {name: shape for name, (path, shape) in named if path.startswith("encoder/")}
    state = {name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}
    state["pos_embed"] = rng.normal(0, 0.1, (1, extra + grid[0] * grid[1], dim)).astype(np.float32)
    state |= {"head.weight": np.zeros((10, dim), np.float32), "head.bias": np.zeros(10, np.float32)}
    return state, encoder


def test_encoders_from_elsewhere(tmp_path):
    """All of it is taken by a recogniser with the usual images and pixels."""
    state, _ = foreign_state(np.random.default_rng(0))
    found = imported(state, tmp_path, encoder_heads=2)
    assert found.kind == "encoder"
    write_run(replace(found.config, workdir=str(tmp_path / "run")), found.params)
    config, params, _ = load_params(tmp_path / "run")
    recogniser = MAERecConfig.tiny()
    fresh = random_params(recogniser)
    merged, missing, unused = merge_params(fresh, params, misfits(config.model, recogniser))
    assert {path.split("/")[0] for path in missing} == {"decoder"}
    assert not unused
    assert_same(merged["encoder"], found.params["encoder"])
    np.testing.assert_array_equal(params["encoder"]["blocks_1"]["fc1"]["kernel"], state["blocks.1.mlp.fc1.weight"].T)
    told = " ".join(found.notes)
    for part in ("head (2 tensors)", "from 8 x 8 to 4 x 4 pixels", "from 6 x 6 to 8 x 32 patches", "mean 127.5"):
        assert part in told


def test_an_encoder_of_our_own_stays_as_it_is(tmp_path):
    """Also when the rest of its model is in the file."""
    state = state_of("mae_tiny")
    alone = {name: value for name, value in state.items() if "decoder" not in name and name != "mask_token"}
    expected = params_from_state_dict(state, MAEConfig.tiny())["encoder"]
    for given, options in ((alone, {}), (state, {"encoder_only": True, "decoder_heads": 2})):
        found = imported(given, tmp_path, encoder_heads=2, **options)
        assert_same(found.params, {"encoder": expected})
        assert found.config.model.encoder == ViTConfig.tiny()


def test_the_encoder_of_a_recogniser_computes_the_same_from_our_pixels(tmp_path):
    """Though its pixel scale is another: it is in the projection then."""
    state = state_of("maerec_tiny")
    whole = imported(state, tmp_path, **SIZES)
    alone = imported(state, tmp_path, encoder_only=True, **SIZES)
    image = np.random.default_rng(0).integers(0, 256, (2, 32, 128, 3), np.uint8)
    features = [
        jax.jit(ViTEncoder(found.config.model.encoder).apply)(
            {"params": found.params["encoder"]}, normalize(image, found.config.model.encoder)
        )
        for found in (whole, alone)
    ]
    assert alone.config.model.encoder.pixel_mean == ViTConfig().pixel_mean != whole.config.model.encoder.pixel_mean
    np.testing.assert_allclose(features[0], features[1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("form", ["distilled", "no class row", "rectangle"])
def test_position_tables_from_elsewhere(form, tmp_path):
    """The class token keeps its row; a table that tells rows and columns tells them after it was interpolated."""
    grid, extra = {"distilled": ((6, 6), 2), "no class row": ((6, 6), 0), "rectangle": ((4, 9), 1)}[form]
    state, _ = foreign_state(np.random.default_rng(0), grid=grid, extra=extra)
    rows, columns = np.meshgrid(*((np.arange(n) + 0.5) / n for n in grid), indexing="ij")
    state["pos_embed"][0, extra:, 0], state["pos_embed"][0, extra:, 1] = rows.ravel(), columns.ravel()
    if form == "distilled":
        state |= {"dist_token": np.zeros((1, 1, 64), np.float32), "head_dist.bias": np.zeros(10, np.float32)}
    options = {"source_grid": grid} if form == "rectangle" else {}
    found = imported(state, tmp_path, encoder_heads=2, **options)
    table = found.params["encoder"]["pos_embed"]
    assert table.shape == (1, 257, 64)
    np.testing.assert_array_equal(table[0, 0], state["pos_embed"][0, 0] if extra else np.zeros(64))
    rows, columns = np.meshgrid((np.arange(8) + 0.5) / 8, (np.arange(32) + 0.5) / 32, indexing="ij")
    middle = (slice(2, 6), slice(8, 24))  # at the borders there is nothing to interpolate between
    made = table[0, 1:, :2].reshape(8, 32, 2)
    np.testing.assert_allclose(made[middle][..., 0], rows[middle], atol=0.03)
    np.testing.assert_allclose(made[middle][..., 1], columns[middle], atol=0.03)


def test_a_grid_that_is_no_square_has_to_be_named(tmp_path):
    state, _ = foreign_state(np.random.default_rng(0), grid=(4, 8))
    with pytest.raises(UserError, match=r"pos_embed is for 32 patches.*give --source-grid"):
        imported(state, tmp_path, encoder_heads=2)


def test_a_convolutional_stem_is_known_by_its_tensors(tmp_path):
    """Of a recogniser and of an encoder alone; channels are flipped in its first convolution."""
    encoder = ViTConfig.tiny(depth=1, patch_size=(32, 8), position_table="grid", stem="convolutions")
    model = MAERecConfig.tiny(encoder=encoder)
    params = random_params(model)
    params["encoder"]["pos_embed"] = sincos_2d((1, 16), 64, "grid")
    state = state_dict_from_params(params, model)
    options = {**SIZES, "image_size": (32, 128), "pixel_mean": (127.5,) * 3, "pixel_std": (127.5,) * 3}
    found = imported(state, tmp_path, color="rgb", **options)
    assert found.config.model == model
    assert_same(found.params, params)
    flipped = imported(state, tmp_path, **options).params["encoder"]
    kernel = params["encoder"]["stem"]["conv1"]["kernel"]
    np.testing.assert_array_equal(flipped["stem"]["conv1"]["kernel"], kernel[:, :, ::-1])
    assert_same(flipped["patch_embed"], params["encoder"]["patch_embed"])
    alone = {key.removeprefix("backbone."): value for key, value in state.items() if key.startswith("backbone.")}
    found = imported(alone, tmp_path, encoder_heads=2)
    assert found.config.model.encoder == encoder
    assert_same(found.params, {"encoder": params["encoder"]})


@pytest.mark.parametrize("new", [(4, 4), (2, 8), (8, 8), (12, 10)])
def test_patches_of_other_sizes(new):
    """Projecting a patch is projecting it at the old size; a plain patch gives what it gave."""
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(8 * 8 * 3, 5)).astype(np.float32)
    made = resize_projection(kernel, (8, 8), new)
    patch = rng.normal(size=(*new, 3)).astype(np.float32)
    old = np.asarray(jax.image.resize(patch, (8, 8, 3), "linear"))
    np.testing.assert_allclose(patch.ravel() @ made, old.ravel() @ kernel, rtol=1e-4, atol=1e-4)
    plain = np.tile(np.array([1.0, 2.0, 3.0], np.float32), (new[0] * new[1],))
    np.testing.assert_allclose(plain @ made, np.tile([1.0, 2.0, 3.0], 64) @ kernel, rtol=1e-4, atol=1e-4)
    if new == (8, 8):
        np.testing.assert_array_equal(made, kernel)


def test_pixel_scales():
    rng = np.random.default_rng(0)
    kernel, bias = rng.normal(size=(48, 5)).astype(np.float32), rng.normal(size=5).astype(np.float32)
    source = ViTConfig.tiny(pixel_mean=(120.0, 110.0, 100.0), pixel_std=(60.0, 50.0, 40.0))
    pixels = rng.integers(0, 256, (16, 3)).astype(np.float32)
    made, moved = rescale_pixels(kernel, bias, source, ViTConfig.tiny())
    old = ((pixels - source.pixel_mean) / source.pixel_std).ravel() @ kernel + bias
    np.testing.assert_allclose(((pixels - 127.5) / 127.5).ravel() @ made + moved, old, rtol=1e-4, atol=1e-4)
