"""Names of the published DBNet++'s tensors."""

from collections.abc import Sequence

from maerec_jax.models.names.table import NameTable, Rule, batch_norm, conv_norm, convolution, same


def dbnetpp_names(blocks: Sequence[int]) -> NameTable:
    """The table of a DBNet++; ``blocks`` are those of the stages of its backbone."""
    rules = []
    for i in range(3):
        rules += conv_norm(rf"backbone\.stem\.{3 * i}", rf"backbone\.stem\.{3 * i + 1}", f"backbone/stem_{i}")
    for stage in range(1, len(blocks) + 1):
        torch, ours = rf"backbone\.layer{stage}\.(\d+)", rf"backbone/layer{stage}_\1"
        for i in (1, 2, 3):
            rules += conv_norm(rf"{torch}\.conv{i}", rf"{torch}\.bn{i}", f"{ours}/conv{i}")
        rules += conv_norm(rf"{torch}\.downsample\.1", rf"{torch}\.downsample\.2", f"{ours}/shortcut")
    for torch, ours in (
        (r"lateral_convs\.(\d+)", r"lateral_\1"),
        (r"smooth_convs\.(\d+)", r"smooth_\1"),
        (r"asf_conv", "fuse"),
        (r"asf_attn\.channel_wise\.(\d+)", r"channel_\1"),
        (r"asf_attn\.spatial_wise\.(\d+)", r"spatial_\1"),
        (r"asf_attn\.attention_wise", "scales"),
    ):
        rules += convolution(rf"neck\.{torch}\.conv", f"neck/{ours}", bias=ours == "fuse")
    for head in ("binarize", "threshold"):
        torch = rf"det_head\.{head}"
        rules += conv_norm(rf"{torch}\.0", rf"{torch}\.1", f"{head}/conv")
        rules += batch_norm(rf"{torch}\.4", f"{head}/norm")
        for key, name in ((3, "double_0"), (6, "double_1")):
            rules.append(_transposed(rf"{torch}\.{key}", f"{head}/{name}"))
            rules.append(same(rf"{torch}\.{key}\.bias", f"{head}/{name}/bias"))
    return NameTable(rules)


def _transposed(key: str, path: str) -> Rule:
    """The weight (in, out, height, width) of a transposed convolution and our kernel (in, height, width, out)."""
    return Rule(
        rf"{key}\.weight", f"{path}/kernel", lambda w: w.transpose(0, 2, 3, 1), lambda k: k.transpose(0, 3, 1, 2)
    )
