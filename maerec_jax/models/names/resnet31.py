"""Names of the tensors of ``models.convolution.ResNet31``, which NRTR and SAR have."""

from maerec_jax.models.names.table import Rule, batch_norm, conv_norm, convolution

_STAGES = (2, 3, 4, 5)


def resnet31(key: str = "backbone") -> list[Rule]:
    """The network under keys and paths that begin with ``key``; not all blocks have a shortcut's convolution."""
    rules = []
    for number in (1, 2):
        rules += conv_norm(rf"{key}\.conv1_{number}", rf"{key}\.bn1_{number}", f"{key}/stem{number}", bias=True)
    for stage in _STAGES:
        torch, ours = rf"{key}\.block{stage}\.(\d+)", rf"{key}/stage{stage}_\1"
        for number in (1, 2):
            rules += convolution(rf"{torch}\.conv{number}", f"{ours}/conv{number}")
            rules += batch_norm(rf"{torch}\.bn{number}", f"{ours}/norm{number}")
        rules += convolution(rf"{torch}\.downsample\.0", f"{ours}/conv_shortcut")
        rules += batch_norm(rf"{torch}\.downsample\.1", f"{ours}/norm_shortcut")
        rules += conv_norm(rf"{key}\.conv{stage}", rf"{key}\.bn{stage}", f"{key}/stage{stage}", bias=True)
    return rules
