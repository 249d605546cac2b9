"""SATRN computes what the reference's does, learns, is imported, exported, divided and read with."""

import jax
import numpy as np
import pytest

from maerec_jax.interop.baselines_of_shapes import satrn_of
from maerec_jax.models.encoder_decoder import columns_mask
from maerec_jax.models.satrn import SATRNConfig
from tests.models.encoder_decoder_cases import Case, close, nchw
from tests.models.encoder_decoder_properties import Properties, decoder_operations


@pytest.fixture(scope="module")
def case():
    return Case(SATRNConfig)


class TestSATRN(Properties):
    full, published, config_of = SATRNConfig(), "satrn_shallow_5e_union14m", staticmethod(satrn_of)

    @staticmethod
    def operations(config):
        (rows, columns), (first, dim), inner = config.grid, config.channels, config.encoder_inner_dim
        places = rows * columns
        convolutions = 2 * 16 * places * 9 * 3 * first + 2 * 4 * places * 9 * first * dim
        feed_forward = 2 * places * 2 * dim * inner  # depthwise convolutions are sums, which do not count
        scales = 2 * 4 * dim**2
        return convolutions + scales + config.encoder_layers * feed_forward + decoder_operations(config)


def test_stages(case):
    close(nchw(case.layer("backbone/conv1"))[:, :, ::2, ::2], case.arrays["bb_conv1_slice"])
    close(nchw(case.layer("backbone/conv2")), case.arrays["bb_conv2"])


def test_positions_and_the_first_layer(case):
    mean = np.asarray(case.layer("backbone")).mean(axis=(1, 2))
    close(mean[..., None, None], case.arrays["pos_pool"])
    for name, path in (("h", "rows2"), ("w", "columns2")):
        close(jax.nn.sigmoid(case.layer(f"encoder/position/{path}"))[..., None, None], case.arrays[f"pos_{name}_scale"])
    positions = np.asarray(case.layer("encoder/position"))
    close(nchw(positions), case.arrays["pos_out"])
    attended = positions.reshape(2, 40, 24) + case.layer("encoder/layers_0/attention")
    close(attended, case.arrays["enc_layer0_after_attn"])
    close(nchw(case.layer("encoder/layers_0/project")), case.arrays["enc_layer0_ffn_out"])


def test_masks(case):
    """Where the reference is told that a part of an image is filling, as no published config does."""
    widths = np.array([40, 24])
    columns, first = columns_mask(widths, 40, (4, 10)), columns_mask(widths, 40, (1, 40))
    assert (case.arrays["dec_source_mask"] > 0).all()

    @jax.jit
    def encoded_and_logits(feat):
        apply, params = case.config.module().apply, {"params": case.params}
        memory = apply(params, method=lambda model: model.encoder(feat, None, columns))
        return memory, apply(params, method=lambda model: model.decoder(case.tokens, memory, True, first))

    memory, logits = encoded_and_logits(case.layer("backbone"))
    close(memory, case.arrays["enc_valid_ratio2"])
    close(logits, case.arrays["tf_logits_valid_ratio2"])


def test_sizes_that_do_not_fit_are_refused():
    for changes, told in (
        ({"encoder_heads": 3}, "channels 512 are not a multiple of encoder_heads 3"),
        ({"image_size": (32, 102)}, "image_size .* is not a multiple of"),
        ({"image_size": (32, 404)}, "has more than 100 places along a side"),
    ):
        with pytest.raises(ValueError, match=told):
            SATRNConfig(**changes)
