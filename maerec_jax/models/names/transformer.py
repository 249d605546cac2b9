"""Names of the text decoder's tensors, and of attention without biases, in the models that have them."""

from maerec_jax.models.names.table import Rule, Tensor, biased, linear, norm, same
from maerec_jax.models.position import sincos_interleaved
from maerec_jax.models.text_decoder import MAX_POSITIONS, TextDecoderConfig

POSITION_BUFFER = "decoder.position_enc.position_table"
"""A constant that the reference keeps in a recogniser's state dict."""


def attention(key: str, path: str, dim: int, heads: int, memory_dim: int) -> list[Rule]:
    """Queries of a width ``dim``, keys and values of ``memory_dim``."""
    head = (heads, dim // heads)
    rules = [linear(rf"{key}\.fc\.weight", f"{path}/out/kernel", (*head, -1))]
    for letter, name, width in (("q", "query", dim), ("k", "key", memory_dim), ("v", "value", memory_dim)):
        rules.append(linear(rf"{key}\.linear_{letter}\.weight", f"{path}/{name}/kernel", (width, *head)))
    return rules


def feed_forward(key: str, path: str) -> list[Rule]:
    """The two dense layers of a feed-forward layer."""
    return [*biased(rf"{key}\.w_1", f"{path}/fc1"), *biased(rf"{key}\.w_2", f"{path}/fc2")]


def text_decoder(cfg: TextDecoderConfig, memory_dim: int) -> list[Rule]:
    """The decoder of an encoded image of a width."""
    torch, ours = r"decoder\.layer_stack\.(\d+)", r"decoder/layers_\1"
    rules = [
        same(r"decoder\.trg_word_emb\.weight", "decoder/embedding"),
        *attention(rf"{torch}\.self_attn", f"{ours}/self_attention", cfg.dim, cfg.heads, cfg.dim),
        *attention(rf"{torch}\.enc_attn", f"{ours}/cross_attention", cfg.dim, cfg.heads, memory_dim),
        *feed_forward(rf"{torch}\.mlp", ours),
        *norm(r"decoder\.layer_norm", "decoder/norm"),
        *biased(r"decoder\.classifier", "decoder/classifier"),
    ]
    for i in (1, 2, 3):
        rules += norm(rf"{torch}\.norm{i}", f"{ours}/norm{i}")
    return rules


def position_buffer(cfg: TextDecoderConfig) -> dict[str, Tensor]:
    """The decoder's position table by its key."""
    return {POSITION_BUFFER: sincos_interleaved(MAX_POSITIONS, cfg.dim)[None]}
