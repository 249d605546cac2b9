"""A convolutional stem: what reaches the tokens, what it goes together with, and what stays when it changes."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from data_pipelines.errors import UserError
from maerec_jax.interop.stablehlo_file import PLATFORMS, reading_program
from maerec_jax.models.cross_mae import CrossMAEConfig
from maerec_jax.models.int8 import quantize
from maerec_jax.models.interface import normalize
from maerec_jax.models.mae import MAEConfig, reconstruction_target
from maerec_jax.models.maerec import MAERecConfig
from maerec_jax.models.other_images import fit_encoder
from maerec_jax.models.stem import Stem
from maerec_jax.models.text_decoder import TextDecoderConfig
from maerec_jax.models.vit import ViTConfig
from tests.training.conftest import random_params

ENCODER = ViTConfig.tiny(depth=1, patch_size=(16, 8), position_table="grid", stem="convolutions")
RECOGNISER = MAERecConfig.tiny(encoder=ENCODER, decoder=TextDecoderConfig.tiny(layers=1))


@pytest.mark.parametrize("kind", [MAEConfig, CrossMAEConfig])
def test_hidden_pixels_do_not_reach_the_prediction(kind):
    """Though its windows reach beyond the patches that are seen."""
    config = kind.tiny(encoder=ENCODER)
    params, rng = random_params(config), np.random.default_rng(0)
    image, noise = rng.standard_normal((2, 32, 128, 3), np.float32), rng.random((2, 32), np.float32)

    def total(image, params):
        out = config.module().apply({"params": params}, image, noise)
        return jnp.square(out["pred"]).sum(), out["mask"]

    grads, mask = jax.jit(jax.grad(total, has_aux=True))(image, params)
    per_patch = np.abs(reconstruction_target(grads, replace(config, norm_pix=False))).sum(axis=-1)
    np.testing.assert_array_equal(per_patch > 0, np.asarray(mask) == 0)


@pytest.mark.parametrize("patch_size", [(4, 4), (8, 2)])
def test_patches_that_are_no_whole_part_of_its_map_are_refused(patch_size):
    with pytest.raises(ValueError, match=r"patch_size \(., .\) is not a multiple of \(8, 4\), .* 'convolutions'"):
        replace(ENCODER, patch_size=patch_size)


def test_its_convolutions_stay_float32_where_dense_kernels_have_8_bits():
    params = jax.eval_shape(RECOGNISER.init, jax.random.key(0))
    rounded = jax.eval_shape(quantize, params)
    kernels = {path: x.dtype for path, x in flatten_dict(rounded, sep="/").items() if path.endswith("/kernel")}
    whole = {path for path, dtype in kernels.items() if dtype != jnp.int8}
    assert whole == {f"encoder/stem/conv{number}/kernel" for number in (1, 2, 3)}
    jax.eval_shape(RECOGNISER.read, rounded, jax.ShapeDtypeStruct((1, 32, 128, 3), jnp.float32))


def test_a_program_is_exported_for_batches_of_any_size():
    weights = flatten_dict(jax.eval_shape(RECOGNISER.init, jax.random.key(0)), sep="/")
    assert reading_program(RECOGNISER, weights, (32, 128)).platforms == PLATFORMS


def test_another_deviation_of_pixels_changes_nothing_and_another_mean_is_refused():
    """At borders, too, where its windows see zeros, which are the mean."""
    params, image = random_params(RECOGNISER)["encoder"], np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3))
    wanted = replace(ENCODER, pixel_std=(60.0, 50.0, 255.0))
    fitted, (told,) = fit_encoder(params, ENCODER, wanted)
    assert "first convolution: its pixels have mean 127.5 127.5 127.5, std 60 50 255" in told
    found, expected = (
        jax.jit(Stem().apply)({"params": encoder["stem"]}, normalize(image, scale))
        for encoder, scale in ((fitted, wanted), (params, ENCODER))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match=r"keeps its pixel_mean, which is 127\.5 127\.5 127\.5, not 0 0 0: give"):
        fit_encoder(params, ENCODER, replace(ENCODER, pixel_mean=(0.0, 0.0, 0.0)))


def test_other_patches_project_the_map_as_if_resized():
    params = random_params(RECOGNISER)["encoder"]
    fitted, _ = fit_encoder(params, ENCODER, replace(ENCODER, patch_size=(32, 4)))
    plain = np.random.default_rng(0).standard_normal(128)  # a map that is the same everywhere
    old, new = (np.tile(plain, n) @ encoder["patch_embed"]["kernel"] for n, encoder in ((4, params), (4, fitted)))
    assert fitted["patch_embed"]["kernel"].shape == (4 * 1 * 128, 64)
    np.testing.assert_allclose(new, old, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(fitted["stem"]["conv2"]["kernel"], params["stem"]["conv2"]["kernel"])
