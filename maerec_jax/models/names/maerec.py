"""Names of MAERec's tensors."""

from maerec_jax.models.names.table import NameTable, biased, linear, norm, same
from maerec_jax.models.names.vit import adapters, encoder
from maerec_jax.models.position import sincos_interleaved
from maerec_jax.models.text_decoder import MAX_POSITIONS, TextDecoderConfig
from maerec_jax.models.vit import ViTConfig

POSITION_BUFFER = "decoder.position_enc.position_table"
"""A constant that the reference keeps in a recogniser's state dict."""


def maerec_names(cfg: ViTConfig, dec: TextDecoderConfig) -> NameTable:
    """The table of a recogniser. Its constant is the decoder's position table."""
    torch, ours = r"decoder\.layer_stack\.(\d+)", r"decoder/layers_\1"
    head = (dec.heads, dec.dim // dec.heads)
    rules = [*encoder(r"backbone\.vit\.", cfg), *adapters(cfg)] if cfg.lora_rank else encoder(r"backbone\.", cfg)
    rules.append(same(r"decoder\.trg_word_emb\.weight", "decoder/embedding"))
    for i in (1, 2, 3):
        rules += norm(rf"{torch}\.norm{i}", f"{ours}/norm{i}")
    for key, path, memory in (("self_attn", "self_attention", dec.dim), ("enc_attn", "cross_attention", cfg.dim)):
        for letter, name, width in (("q", "query", dec.dim), ("k", "key", memory), ("v", "value", memory)):
            pattern = rf"{torch}\.{key}\.linear_{letter}\.weight"
            rules.append(linear(pattern, f"{ours}/{path}/{name}/kernel", (width, *head)))
        rules.append(linear(rf"{torch}\.{key}\.fc\.weight", f"{ours}/{path}/out/kernel", (*head, -1)))
    rules += [
        *biased(rf"{torch}\.mlp\.w_1", f"{ours}/fc1"),
        *biased(rf"{torch}\.mlp\.w_2", f"{ours}/fc2"),
        *norm(r"decoder\.layer_norm", "decoder/norm"),
        *biased(r"decoder\.classifier", "decoder/classifier"),
    ]
    return NameTable(rules, {POSITION_BUFFER: sincos_interleaved(MAX_POSITIONS, dec.dim)[None]})
