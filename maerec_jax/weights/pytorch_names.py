"""Where each tensor of the reference's PyTorch state dicts lies in our parameter trees: one table, used both ways."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from maerec_jax.models.mae import MAEConfig, MaskedAutoencoder
from maerec_jax.models.maerec import MAERec, MAERecConfig
from maerec_jax.models.position import sincos_interleaved
from maerec_jax.models.text_decoder import MAX_POSITIONS
from maerec_jax.models.vit import ViTConfig

Tensor = np.ndarray
Convert = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Rule:
    """One row: a PyTorch key pattern, our path, and how to convert the tensor each way."""

    pattern: str
    path: str
    to_flax: Convert
    to_torch: Convert
    alias: bool = False
    """Whether the tensor stands under a second key, too, which is the one that counts where they differ."""


def _same(pattern: str, path: str) -> Rule:
    return Rule(pattern, path, lambda x: x, lambda x: x)


def _linear(pattern: str, path: str, shape: tuple[int, ...] | None = None) -> Rule:
    """A weight (out, in) and our kernel (in, out), the latter reshaped to ``shape``."""
    return Rule(
        pattern,
        path,
        lambda w: w.T if shape is None else w.T.reshape(shape),
        # Of the kernel's axes, those that make up the output are the last one, or all but the first.
        lambda k: k.reshape(-1, k.shape[-1]).T if shape and shape[-1] == -1 else k.reshape(len(k), -1).T,
    )


def _biased(key: str, path: str) -> list[Rule]:
    return [_linear(rf"{key}\.weight", f"{path}/kernel"), _same(rf"{key}\.bias", f"{path}/bias")]


def _norm(key: str, path: str) -> list[Rule]:
    return [_same(rf"{key}\.weight", f"{path}/scale"), _same(rf"{key}\.bias", f"{path}/bias")]


def _blocks(key: str, path: str, dim: int, heads: int, qkv: str = "qkv") -> list[Rule]:
    torch, ours, head = rf"{key}\.(\d+)", rf"{path}_\1", dim // heads
    bias_shape = (3, heads, head)
    return [
        *_norm(rf"{torch}\.norm1", f"{ours}/norm1"),
        _linear(rf"{torch}\.attn\.{qkv}\.weight", f"{ours}/qkv/kernel", (dim, *bias_shape)),
        Rule(
            rf"{torch}\.attn\.{qkv}\.bias",
            f"{ours}/qkv/bias",
            lambda b: b.reshape(bias_shape),
            lambda b: b.reshape(-1),
        ),
        _linear(rf"{torch}\.attn\.proj\.weight", f"{ours}/proj/kernel", (heads, head, -1)),
        _same(rf"{torch}\.attn\.proj\.bias", f"{ours}/proj/bias"),
        *_norm(rf"{torch}\.norm2", f"{ours}/norm2"),
        *_biased(rf"{torch}\.mlp\.fc1", f"{ours}/fc1"),
        *_biased(rf"{torch}\.mlp\.fc2", f"{ours}/fc2"),
    ]


def _adapters(cfg: ViTConfig) -> list[Rule]:
    """LoRA: each matrix stands in a list of its kind, which counts, and once more in its block."""
    rules, b_shape = [], (cfg.lora_rank, cfg.heads, cfg.dim // cfg.heads)
    for name in ("query", "value"):
        for part, shape in (("a", None), ("b", b_shape)):
            path = rf"encoder/blocks_\1/lora_{name}/{part}/kernel"
            alias = rf"backbone\.vit\.blocks\.(\d+)\.attn\.qkv\.linear_{part}_{name[0]}\.weight"
            rules.append(_linear(rf"backbone\.{name}_{part.upper()}s\.(\d+)\.weight", path, shape))
            rules.append(replace(_linear(alias, path, shape), alias=True))
    return rules


def _encoder(prefix: str, cfg: ViTConfig) -> list[Rule]:
    ph, pw = cfg.patch_size
    qkv = r"qkv\.qkv" if cfg.lora_rank else "qkv"
    return [
        _same(rf"{prefix}cls_token", "encoder/cls_token"),
        _same(rf"{prefix}pos_embed", "encoder/pos_embed"),
        Rule(
            rf"{prefix}patch_embed\.proj\.weight",
            "encoder/patch_embed/kernel",
            lambda w: w.transpose(2, 3, 1, 0).reshape(-1, len(w)),
            lambda k: k.reshape(ph, pw, 3, -1).transpose(3, 2, 0, 1),
        ),
        _same(rf"{prefix}patch_embed\.proj\.bias", "encoder/patch_embed/bias"),
        *_blocks(rf"{prefix}blocks", "encoder/blocks", cfg.dim, cfg.heads, qkv),
        *_norm(rf"{prefix}norm", "encoder/blocks_norm"),
    ]


def mae_rules(cfg: MAEConfig) -> list[Rule]:
    """The table of a masked autoencoder."""
    return [
        *_encoder("", cfg.encoder),
        _same("mask_token", "mask_token"),
        _same("decoder_pos_embed", "decoder_pos_embed"),
        *_biased("decoder_embed", "decoder_embed"),
        *_blocks("decoder_blocks", "decoder_blocks", cfg.decoder_dim, cfg.decoder_heads),
        *_norm("decoder_norm", "decoder_blocks_norm"),
        *_biased("decoder_pred", "decoder_pred"),
    ]


def maerec_rules(cfg: MAERecConfig) -> list[Rule]:
    """The table of a recogniser."""
    dec = cfg.decoder
    torch, ours = r"decoder\.layer_stack\.(\d+)", r"decoder/layers_\1"
    head = (dec.heads, dec.dim // dec.heads)
    if cfg.encoder.lora_rank:
        rules = [*_encoder(r"backbone\.vit\.", cfg.encoder), *_adapters(cfg.encoder)]
    else:
        rules = _encoder(r"backbone\.", cfg.encoder)
    rules.append(_same(r"decoder\.trg_word_emb\.weight", "decoder/embedding"))
    for i in (1, 2, 3):
        rules += _norm(rf"{torch}\.norm{i}", f"{ours}/norm{i}")
    for key, path in (("self_attn", "self_attention"), ("enc_attn", "cross_attention")):
        for letter, name, width in (("q", "query", dec.dim), ("k", "key", None), ("v", "value", None)):
            width = width or (dec.dim if path == "self_attention" else cfg.encoder.dim)
            rules.append(
                _linear(rf"{torch}\.{key}\.linear_{letter}\.weight", f"{ours}/{path}/{name}/kernel", (width, *head))
            )
        rules.append(_linear(rf"{torch}\.{key}\.fc\.weight", f"{ours}/{path}/out/kernel", (*head, -1)))
    return [
        *rules,
        *_biased(rf"{torch}\.mlp\.w_1", f"{ours}/fc1"),
        *_biased(rf"{torch}\.mlp\.w_2", f"{ours}/fc2"),
        *_norm(r"decoder\.layer_norm", "decoder/norm"),
        *_biased(r"decoder\.classifier", "decoder/classifier"),
    ]


def _rules(cfg: MAEConfig | MAERecConfig) -> list[Rule]:
    return mae_rules(cfg) if isinstance(cfg, MAEConfig) else maerec_rules(cfg)


def _shapes(cfg: MAEConfig | MAERecConfig) -> dict:
    """The parameter tree of a model, as shapes."""
    image, key = jax.ShapeDtypeStruct((1, *cfg.encoder.image_size, 3), jnp.float32), jax.random.key(0)
    if isinstance(cfg, MAEConfig):
        noise = jax.ShapeDtypeStruct((1, cfg.encoder.n_patches), jnp.float32)
        return jax.eval_shape(MaskedAutoencoder(cfg).init, key, image, noise)["params"]
    return jax.eval_shape(MAERec(cfg).init, key, image, jax.ShapeDtypeStruct((1, 1), jnp.int32))["params"]


FROZEN_BY_LORA = "backbone.vit."
"""How the keys of weights begin that are not trained beside adapters, and those of the adapters' second copies."""

POSITION_BUFFER = "decoder.position_enc.position_table"
"""A constant that the reference keeps in a recogniser's state dict."""


def params_from_state_dict(state: Mapping[str, Tensor], cfg: MAEConfig | MAERecConfig) -> dict:
    """Turn a reference state dict (arrays by key) into a parameter tree.

    Of a tensor that the reference writes under two keys one is enough; where there are both, the one counts that counts
    there.

    Raises:
      ValueError: naming the keys that have no place in the tree, are missing, or have another shape.
    """
    rules = _rules(cfg)
    flat: dict[str, Tensor] = {}
    aliases: dict[str, Tensor] = {}
    left_over = []
    for key, value in state.items():
        if key == POSITION_BUFFER:
            continue
        for rule in rules:
            if match := re.fullmatch(rule.pattern, key):
                try:
                    tensor = np.ascontiguousarray(rule.to_flax(np.asarray(value)))
                    (aliases if rule.alias else flat)[match.expand(rule.path)] = tensor
                except ValueError as error:
                    name, shape = type(cfg).__name__, np.shape(value)
                    raise ValueError(f"{name} has no place for {key} of shape {shape}") from error
                break
        else:
            left_over.append(key)
    if left_over:
        raise ValueError(f"keys that {type(cfg).__name__} has no place for: {', '.join(sorted(left_over))}")
    expected = {path: value.shape for path, value in flatten_dict(_shapes(cfg), sep="/").items()}
    flat = aliases | flat
    wrong = [path for path, shape in expected.items() if path not in flat or flat[path].shape != shape]
    wrong += [f"{path} (its second copy)" for path, value in aliases.items() if value.shape != flat[path].shape]
    if wrong:
        raise ValueError(f"{type(cfg).__name__} misses, or finds in another shape: {', '.join(sorted(wrong))}")
    return unflatten_dict(flat, sep="/")


def _key_of(path: str, rule: Rule) -> str | None:
    """The PyTorch key of one of our paths under a rule, or None where the rule is another path's."""
    match = re.fullmatch(re.escape(rule.path).replace(r"\\1", r"(\d+)"), path)
    if match is None:
        return None
    key = rule.pattern.replace(r"(\d+)", match.group(1)) if match.groups() else rule.pattern
    return key.replace(r"\.", ".")


def state_dict_from_params(params: Mapping, cfg: MAEConfig | MAERecConfig, aliases: bool = True) -> dict[str, Tensor]:
    """Turn a parameter tree, or a part of one, into a reference state dict, its constant buffer included.

    ``aliases`` says whether tensors that the reference writes under two keys are written twice.

    Raises:
      ValueError: naming the parameters that the table does not know.
    """
    rules = [rule for rule in _rules(cfg) if aliases or not rule.alias]
    state: dict[str, Tensor] = {}
    left_over = []
    for path, value in flatten_dict(params, sep="/").items():
        found = [(key, rule) for rule in rules if (key := _key_of(path, rule)) is not None]
        state |= {key: np.ascontiguousarray(rule.to_torch(np.asarray(value))) for key, rule in found}
        if not found:
            left_over.append(path)
    if left_over:
        raise ValueError(f"parameters without a PyTorch name: {', '.join(sorted(left_over))}")
    if isinstance(cfg, MAERecConfig):
        state[POSITION_BUFFER] = sincos_interleaved(MAX_POSITIONS, cfg.decoder.dim)[None]
    return state


def state_dict_shapes(cfg: MAEConfig | MAERecConfig) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The keys of a model's reference state dict, its constant buffer left out.

    Returns:
      For each key the path of our parameter, which the keys of one tensor share, and the shape there. Of several keys
      the one that counts comes first.
    """
    rules = sorted(_rules(cfg), key=lambda rule: rule.alias)
    return {
        key: (path, jax.eval_shape(rule.to_torch, value).shape)
        for path, value in flatten_dict(_shapes(cfg), sep="/").items()
        for rule in rules
        if (key := _key_of(path, rule)) is not None
    }
