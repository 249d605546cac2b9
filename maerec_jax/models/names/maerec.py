"""Names of the published models' tensors: those of the image encoder and its adapters, of MAE and of MAERec."""

from dataclasses import replace

from maerec_jax.models.names.table import NameTable, Rule, biased, convolution, linear, norm, same
from maerec_jax.models.names.transformer import position_buffer, text_decoder
from maerec_jax.models.text_decoder import TextDecoderConfig
from maerec_jax.models.vit import ViTConfig

FROZEN_BY_LORA = "backbone.vit."
"""How the keys of weights begin that are not trained beside adapters, and those of the adapters' second copies."""


def blocks(key: str, path: str, dim: int, heads: int, qkv: str = "qkv") -> list[Rule]:
    """Transformer blocks ``{key}.0``, ``{key}.1`` ..."""
    torch, ours, head = rf"{key}\.(\d+)", rf"{path}_\1", dim // heads
    shape = (3, heads, head)
    return [
        *norm(rf"{torch}\.norm1", f"{ours}/norm1"),
        linear(rf"{torch}\.attn\.{qkv}\.weight", f"{ours}/qkv/kernel", (dim, *shape)),
        Rule(rf"{torch}\.attn\.{qkv}\.bias", f"{ours}/qkv/bias", lambda b: b.reshape(shape), lambda b: b.reshape(-1)),
        linear(rf"{torch}\.attn\.proj\.weight", f"{ours}/proj/kernel", (heads, head, -1)),
        same(rf"{torch}\.attn\.proj\.bias", f"{ours}/proj/bias"),
        *norm(rf"{torch}\.norm2", f"{ours}/norm2"),
        *biased(rf"{torch}\.mlp\.fc1", f"{ours}/fc1"),
        *biased(rf"{torch}\.mlp\.fc2", f"{ours}/fc2"),
    ]


def encoder(prefix: str, cfg: ViTConfig) -> list[Rule]:
    """The encoder under keys that begin with ``prefix``, a pattern."""
    return [
        same(rf"{prefix}cls_token", "encoder/cls_token"),
        same(rf"{prefix}pos_embed", "encoder/pos_embed"),
        *convolution(rf"{prefix}stem\.conv(\d+)", r"encoder/stem/conv\1", bias=True),
        *norm(rf"{prefix}stem\.norm(\d+)", r"encoder/stem/norm\1"),
        Rule(
            rf"{prefix}patch_embed\.proj\.weight",
            "encoder/patch_embed/kernel",
            lambda w: w.transpose(2, 3, 1, 0).reshape(-1, len(w)),
            lambda k: k.reshape(*cfg.projected, -1).transpose(3, 2, 0, 1),
        ),
        same(rf"{prefix}patch_embed\.proj\.bias", "encoder/patch_embed/bias"),
        *blocks(rf"{prefix}blocks", "encoder/blocks", cfg.dim, cfg.heads, r"qkv\.qkv" if cfg.lora_rank else "qkv"),
        *norm(rf"{prefix}norm", "encoder/blocks_norm"),
    ]


def adapters(cfg: ViTConfig) -> list[Rule]:
    """LoRA: each matrix stands in a list of its kind, which counts, and once more in its block."""
    rules, b_shape = [], (cfg.lora_rank, cfg.heads, cfg.dim // cfg.heads)
    for name in ("query", "value"):
        for part, shape in (("a", None), ("b", b_shape)):
            path = rf"encoder/blocks_\1/lora_{name}/{part}/kernel"
            alias = rf"backbone\.vit\.blocks\.(\d+)\.attn\.qkv\.linear_{part}_{name[0]}\.weight"
            rules.append(linear(rf"backbone\.{name}_{part.upper()}s\.(\d+)\.weight", path, shape))
            rules.append(replace(linear(alias, path, shape), alias=True))
    return rules


def mae_names(cfg: ViTConfig, decoder_dim: int, decoder_heads: int) -> NameTable:
    """The table of a masked autoencoder."""
    return NameTable(
        [
            *encoder("", cfg),
            same("mask_token", "mask_token"),
            same("decoder_pos_embed", "decoder_pos_embed"),
            *biased("decoder_embed", "decoder_embed"),
            *blocks("decoder_blocks", "decoder_blocks", decoder_dim, decoder_heads),
            *norm("decoder_norm", "decoder_blocks_norm"),
            *biased("decoder_pred", "decoder_pred"),
        ]
    )


def maerec_names(cfg: ViTConfig, dec: TextDecoderConfig) -> NameTable:
    """The table of a recogniser. Its constant is the decoder's position table."""
    rules = [*encoder(r"backbone\.vit\.", cfg), *adapters(cfg)] if cfg.lora_rank else encoder(r"backbone\.", cfg)
    return NameTable([*rules, *text_decoder(dec, cfg.dim)], position_buffer(dec))
