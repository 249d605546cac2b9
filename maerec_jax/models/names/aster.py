"""Names of ASTER's tensors in the Union14M repository."""

import numpy as np

from maerec_jax.models.names.table import (
    NameTable,
    Rule,
    batch_norm,
    biased,
    conv_norm,
    convolution,
    recurrent,
    same,
)


def residual_stages(stages: int) -> list[Rule]:
    """The residual blocks of ``models.convolution.ResNet45``."""
    rules = []
    for stage in range(1, stages + 1):
        block, ours = rf"backbone\.layer{stage}\.(\d+)", rf"backbone/stage{stage}_\1"
        for number in (1, 2):
            rules += convolution(rf"{block}\.conv{number}", f"{ours}/conv{number}")
            rules += batch_norm(rf"{block}\.bn{number}", f"{ours}/norm{number}")
        rules += convolution(rf"{block}\.downsample\.conv", f"{ours}/conv_shortcut")
        rules += batch_norm(rf"{block}\.downsample\.bn", f"{ours}/norm_shortcut")
    return rules


def aster_names(stages: int, convolutions: int, targets_K2: np.ndarray) -> NameTable:
    """The table.

    Args:
      stages: of the backbone.
      convolutions: of the rectifier's network.
      targets_K2: where the spline takes the control points to.
    """
    stn = r"preprocessor\.stn"
    rules = [
        same(r"preprocessor\.tps\.inverse_kernel", "rectifier/spline_inverse"),
        same(r"preprocessor\.tps\.target_coordinate_repr", "rectifier/spline_rows"),
        *biased(rf"{stn}_fc1\.0", "rectifier/fc1"),
        *batch_norm(rf"{stn}_fc1\.1", "rectifier/fc1_norm"),
        *biased(rf"{stn}_fc2", "rectifier/fc2"),
        *conv_norm(r"backbone\.stem_layers\.0\.conv", r"backbone\.stem_layers\.0\.bn", "backbone/stem"),
        *residual_stages(stages),
        same(r"decoder\.embedding\.weight", "decoder/embedding"),
        *recurrent(r"decoder\.gru", "decoder/gru", "_l0"),
    ]
    for number in range(convolutions):
        key = rf"{stn}_convnet\.{2 * number}"  # poolings are counted, too
        rules += conv_norm(rf"{key}\.conv", rf"{key}\.bn", f"rectifier/layer{number}")
    for layer in range(2):
        for way in ("", "_reverse"):
            rules += recurrent(r"encoder\.bilstm", f"encoder/layer{layer}{way}/lstm", f"_l{layer}{way}")
    for key, path in (("proj_feat", "keys"), ("proj_hidden", "query"), ("proj_sum", "score"), ("fc", "classifier")):
        rules += biased(rf"decoder\.{key}", f"decoder/{path}")
    constants = {
        "preprocessor.tps.padding_matrix": np.zeros((3, 2), np.float32),
        "preprocessor.tps.target_control_points": targets_K2.astype(np.float32),
    }
    return NameTable(rules, constants)
