"""Names of the published DBNet++'s tensors."""

from collections.abc import Sequence

from maerec_jax.models.names.table import NameTable, Rule, same

COUNTER = "num_batches_tracked"
"""How the keys of what each norm counts in training end: int64 scalars, which nothing is computed from."""


def dbnetpp_names(blocks: Sequence[int]) -> NameTable:
    """The table of a DBNet++; ``blocks`` are those of the stages of its backbone."""
    rules = []
    for i in range(3):
        rules += _conv_norm(rf"backbone\.stem\.{3 * i}", rf"backbone\.stem\.{3 * i + 1}", f"backbone/stem_{i}")
    for stage in range(1, len(blocks) + 1):
        torch, ours = rf"backbone\.layer{stage}\.(\d+)", rf"backbone/layer{stage}_\1"
        for i in (1, 2, 3):
            rules += _conv_norm(rf"{torch}\.conv{i}", rf"{torch}\.bn{i}", f"{ours}/conv{i}")
        rules += _conv_norm(rf"{torch}\.downsample\.1", rf"{torch}\.downsample\.2", f"{ours}/shortcut")
    for torch, ours in (
        (r"lateral_convs\.(\d+)", r"lateral_\1"),
        (r"smooth_convs\.(\d+)", r"smooth_\1"),
        (r"asf_conv", "fuse"),
        (r"asf_attn\.channel_wise\.(\d+)", r"channel_\1"),
        (r"asf_attn\.spatial_wise\.(\d+)", r"spatial_\1"),
        (r"asf_attn\.attention_wise", "scales"),
    ):
        rules.append(_conv(rf"neck\.{torch}\.conv", f"neck/{ours}"))
    rules.append(same(r"neck\.asf_conv\.conv\.bias", "neck/fuse/bias"))
    for head in ("binarize", "threshold"):
        torch = rf"det_head\.{head}"
        rules += _conv_norm(rf"{torch}\.0", rf"{torch}\.1", f"{head}/conv")
        rules += [*_norm(rf"{torch}\.4", f"{head}/norm")]
        for key, name in ((3, "double_0"), (6, "double_1")):
            rules.append(_transposed(rf"{torch}\.{key}", f"{head}/{name}"))
            rules.append(same(rf"{torch}\.{key}\.bias", f"{head}/{name}/bias"))
    return NameTable(rules)


def _conv(key: str, path: str) -> Rule:
    """A weight (out, in, height, width) and our kernel (height, width, in, out)."""
    return Rule(
        rf"{key}\.weight", f"{path}/kernel", lambda w: w.transpose(2, 3, 1, 0), lambda k: k.transpose(3, 2, 0, 1)
    )


def _transposed(key: str, path: str) -> Rule:
    """The weight (in, out, height, width) of a transposed convolution and our kernel (in, height, width, out)."""
    return Rule(
        rf"{key}\.weight", f"{path}/kernel", lambda w: w.transpose(0, 2, 3, 1), lambda k: k.transpose(0, 3, 1, 2)
    )


def _norm(key: str, path: str) -> list[Rule]:
    """A batch norm with its running statistics."""
    named = (("weight", "scale"), ("bias", "bias"), ("running_mean", "mean"), ("running_var", "var"))
    return [same(rf"{key}\.{torch}", f"{path}/{ours}") for torch, ours in named]


def _conv_norm(conv: str, norm: str, path: str) -> list[Rule]:
    return [_conv(conv, f"{path}/conv"), *_norm(norm, f"{path}/norm")]
