"""NRTR computes what the reference's does, learns, is imported, exported, divided and read with."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from maerec_jax.interop.baselines_of_shapes import nrtr_of
from maerec_jax.models.encoder_decoder import columns_mask
from maerec_jax.models.nrtr import NRTRConfig
from tests.models.encoder_decoder_cases import Case, close, nchw
from tests.models.encoder_decoder_properties import Properties, decoder_operations

WIDTHS = np.array([64, 39])  # ceil(0.6 * 64)
PLACES = (32, 32, 8, 2, 1, 1)  # of each stage for one of the map


@pytest.fixture(scope="module")
def case():
    return Case(NRTRConfig, mask="flattened", width_B=WIDTHS)


class TestNRTR(Properties):
    full, published, config_of = NRTRConfig(), "nrtr_resnet31-1by8-1by4_union14m", staticmethod(nrtr_of)
    # Two pixels that a pooling after the stem chooses between differ by 5e-7 here.
    tied = ("conv1_1.weight", "bn1_1.bias", "conv1_2.weight", "bn1_2.bias")

    @staticmethod
    def operations(config):
        (rows, columns), dim = config.grid, config.channels[-1]
        total, before = 0, 3
        for i, width in enumerate(config.channels):
            blocks = config.blocks[i - 2] if i > 1 else 0
            kernels = 9 * (before if blocks == 0 else width) * width  # the last one of the stage
            for number in range(blocks):
                inputs = width if number else before
                kernels += 9 * (inputs + width) * width + (0 if inputs == width else inputs * width)
            total += 2 * PLACES[i] * rows * columns * kernels
            before = width
        feed_forward = 2 * 2 * rows * columns * dim * config.encoder_inner_dim
        return total + config.encoder_layers * feed_forward + decoder_operations(config)


def test_stages(case):
    stages = {"relu1_1_slice": "stem1", "relu1_2_slice": "stem2", "relu2": "stage2", "relu3": "stage3"}
    stages |= {"relu4": "stage4", "relu5": "stage5", "block3": "stage3_0", "block4": "stage4_1", "block5": "stage5_0"}
    assert {f"bb_{name}" for name in stages} == {name for name in case.arrays if name.startswith("bb_")}
    for name, path in stages.items():
        step = 2 if name.endswith("slice") else 1
        close(nchw(case.layer(f"backbone/{path}"))[:, :, ::step, ::step], case.arrays[f"bb_{name}"], name)


def test_masks(case):
    """Published: the first places of the flattened map. Ours: the columns that show picture."""
    for name in ("enc_source_mask", "dec_source_mask"):
        np.testing.assert_array_equal(columns_mask(WIDTHS, 64, (1, 64)), case.arrays[name] > 0)
    columns = np.asarray(columns_mask(WIDTHS, 64, (4, 16))).reshape(2, 4, 16)
    np.testing.assert_array_equal(columns, np.broadcast_to(np.arange(16) < [[[16]], [[10]]], (2, 4, 16)))
    for width in range(1, 161):
        assert np.asarray(columns_mask(np.array([width]), 160, (1, 160))).sum() == width


def test_filling_is_not_attended_to(case):
    """With the mask of columns, attention lies on the picture."""
    model = replace(case.config, mask="columns")
    made = jax.jit(lambda tokens: model.attention(case.params, case.pixels, tokens, **case.widths))(case.tokens)
    assert (np.asarray(made)[1, :, :, 10:] == 0).all()
    assert (np.asarray(made)[1, :, :, :10] > 0).all()


def test_sizes_that_do_not_fit_are_refused():
    for changes, told in (
        ({"encoder_heads": 3}, "channels 512 are not a multiple of encoder_heads 3"),
        ({"image_size": (32, 158)}, "image_size .* is not a multiple of"),
        ({"blocks": (1, 0, 1, 1)}, "blocks must be above 0"),
        ({"dropout": 1.0}, "dropout 1.0 must be in"),
    ):
        with pytest.raises(ValueError, match=told):
            NRTRConfig(**changes)
