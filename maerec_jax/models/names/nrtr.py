"""Names of the tensors of NRTR."""

from maerec_jax.models.names.resnet31 import resnet31
from maerec_jax.models.names.table import NameTable, norm
from maerec_jax.models.names.transformer import attention, feed_forward, position_buffer, text_decoder
from maerec_jax.models.text_decoder import TextDecoderConfig


def nrtr_names(dim: int, heads: int, decoder: TextDecoderConfig) -> NameTable:
    """The table of a model whose encoder has a width and heads. Its constant is the decoder's position table."""
    torch, ours = r"encoder\.layer_stack\.(\d+)", r"encoder/layers_\1"
    rules = [
        *resnet31(),
        *norm(rf"{torch}\.norm1", f"{ours}/norm1"),
        *attention(rf"{torch}\.attn", f"{ours}/attention", dim, heads, dim),
        *norm(rf"{torch}\.norm2", f"{ours}/norm2"),
        *feed_forward(rf"{torch}\.mlp", ours),
        *norm(r"encoder\.layer_norm", "encoder/norm"),
        *text_decoder(decoder, dim),
    ]
    return NameTable(rules, position_buffer(decoder))
