"""Names of ABINet's tensors in PyTorch, as MMOCR has them."""

from maerec_jax.models.names.table import (
    NameTable,
    Rule,
    batch_norm,
    biased,
    conv_norm,
    convolution,
    linear,
    norm,
    same,
)
from maerec_jax.models.position import sincos_interleaved


def abinet_names(
    dim: int,
    heads: int,
    map_size: tuple[int, int],
    max_length: int,
    stages: int,
    language_layers: int,
) -> NameTable:
    """The table of a recogniser; ``language_layers`` is 0 without a language model. Constants are position tables."""
    rules = conv_norm(r"backbone\.conv1", r"backbone\.bn1", "backbone/stem", bias=True)
    for stage in range(1, stages + 1):
        rules += _residual_blocks(rf"backbone\.layer{stage}\.(\d+)", rf"backbone/stage{stage}_\1")
    rules += _transformer_blocks(r"encoder\.transformer\.(\d+)", r"encoder/blocks_\1", dim, heads)
    vision = r"decoder\.vision_decoder"
    for key, path in ((r"k_encoder\.(\d+)", r"vision/down_\1"), (r"k_decoder\.(\d+)\.1", r"vision/up_\1")):
        rules += conv_norm(rf"{vision}\.{key}\.conv", rf"{vision}\.{key}\.bn", path)
    rules += [*biased(rf"{vision}\.project", "vision/query"), *biased(rf"{vision}\.cls", "vision/classifier")]
    positions = sincos_interleaved(max_length, dim)[None]
    constants = {
        "encoder.pos_encoder.position_table": sincos_interleaved(map_size[0] * map_size[1], dim)[None],
        "decoder.vision_decoder.pos_encoder.position_table": positions,
    }
    if language_layers:
        language = r"decoder\.language_decoder"
        rules.append(linear(rf"{language}\.proj\.weight", "language/embedding/kernel"))
        rules += _transformer_blocks(rf"{language}\.decoder_layers\.(\d+)", r"language/blocks_\1", dim, heads)
        rules += biased(rf"{language}\.cls", "language/classifier")
        rules += [*biased(r"decoder\.w_att", "fusion/gate"), *biased(r"decoder\.cls", "fusion/classifier")]
        for name in ("token_encoder", "pos_encoder"):
            constants[f"decoder.language_decoder.{name}.position_table"] = positions
    return NameTable(rules, constants)


def _residual_blocks(key: str, path: str) -> list[Rule]:
    rules = []
    for number in (1, 2):
        rules += convolution(rf"{key}\.conv{number}", f"{path}/conv{number}")
        rules += batch_norm(rf"{key}\.bn{number}", f"{path}/norm{number}")
    rules += convolution(rf"{key}\.downsample\.0", f"{path}/conv_shortcut")
    return [*rules, *batch_norm(rf"{key}\.downsample\.1", f"{path}/norm_shortcut")]


def _transformer_blocks(key: str, path: str, dim: int, heads: int) -> list[Rule]:
    attention, shape = rf"{key}\.attentions\.0\.attn", (3, heads, dim // heads)
    return [
        linear(rf"{attention}\.in_proj_weight", f"{path}/qkv/kernel", (dim, *shape)),
        Rule(rf"{attention}\.in_proj_bias", f"{path}/qkv/bias", lambda b: b.reshape(shape), lambda b: b.reshape(-1)),
        linear(rf"{attention}\.out_proj\.weight", f"{path}/proj/kernel", (heads, dim // heads, -1)),
        same(rf"{attention}\.out_proj\.bias", f"{path}/proj/bias"),
        *norm(rf"{key}\.norms\.0", f"{path}/norm1"),
        *biased(rf"{key}\.ffns\.0\.layers\.0\.0", f"{path}/fc1"),
        *biased(rf"{key}\.ffns\.0\.layers\.1", f"{path}/fc2"),
        *norm(rf"{key}\.norms\.1", f"{path}/norm2"),
    ]
