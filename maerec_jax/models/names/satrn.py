"""Names of the tensors of SATRN."""

import numpy as np

from maerec_jax.models.names.table import NameTable, Rule, conv_norm, norm, same
from maerec_jax.models.names.transformer import attention, position_buffer, text_decoder
from maerec_jax.models.position import sincos_interleaved
from maerec_jax.models.text_decoder import TextDecoderConfig

MAP_POSITIONS = 100
"""Rows, and columns, that the encoder's position tables are for."""


def satrn_names(dim: int, heads: int, decoder: TextDecoderConfig) -> NameTable:
    """The table of a model whose encoder has a width and heads. Its constants are the position tables."""
    torch, ours = r"encoder\.layer_stack\.(\d+)", r"encoder/layers_\1"
    rules = [
        *conv_norm(r"backbone\.conv(\d+)\.conv", r"backbone\.conv(\d+)\.bn", r"backbone/conv\1"),
        *norm(rf"{torch}\.norm1", f"{ours}/norm1"),
        *attention(rf"{torch}\.attn", f"{ours}/attention", dim, heads, dim),
        *norm(rf"{torch}\.norm2", f"{ours}/norm2"),
        *norm(r"encoder\.layer_norm", "encoder/norm"),
        *text_decoder(decoder, dim),
    ]
    for key, path in (("conv1", "expand"), ("depthwise_conv", "depthwise"), ("conv2", "project")):
        layer = rf"{torch}\.feed_forward\.{key}"
        rules += conv_norm(rf"{layer}\.conv", rf"{layer}\.bn", f"{ours}/{path}")
    for key, path in (("h_scale", "rows"), ("w_scale", "columns")):
        for place, number in ((0, 1), (2, 2)):
            rules += _pointwise(rf"encoder\.position_enc\.{key}\.{place}", f"encoder/position/{path}{number}")
    table_DP = np.ascontiguousarray(
        sincos_interleaved(MAP_POSITIONS, dim).T
    )  # files are written from memory as it lies
    tables = {
        "encoder.position_enc.h_position_encoder": table_DP[None, :, :, None],
        "encoder.position_enc.w_position_encoder": table_DP[None, :, None, :],
    }
    return NameTable(rules, position_buffer(decoder) | tables)


def _pointwise(key: str, path: str) -> list[Rule]:
    """A convolution of 1 x 1 that is a dense layer with us, and its bias."""
    weight = Rule(rf"{key}\.weight", f"{path}/kernel", lambda w: w[:, :, 0, 0].T, lambda k: k.T[:, :, None, None])
    return [weight, same(rf"{key}\.bias", f"{path}/bias")]
