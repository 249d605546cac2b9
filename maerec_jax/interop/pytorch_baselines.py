"""The baselines in plain PyTorch: ASTER, ABINet, NRTR, SATRN and SAR, with the keys and shapes of the original files.

As ``pytorch_twin`` for MAERec: models are made from our configs, or of other objects with their attributes, and take
the tensors of the original files as they are (``load_state_dict(strict=True)``)::

    model = load("nrtr.pth")  # a file of maerec_jax.export
    reading = model.read(model.pixels(images), widths)  # uint8 RGB (B, 32, 160, 3); widths for NRTR and SAR alone

Each reads in two ways, which write the same texts. ``read`` keeps what steps share, and stops when all texts have
ended. ``read_as_original`` computes what the original code does. ABINet has no steps; both ways are one.

This file and those that it imports need torch alone.
"""

from collections.abc import Callable, Mapping
from typing import Any

from maerec_jax.interop import pytorch_twin
from maerec_jax.interop.pytorch_abinet import ABINet
from maerec_jax.interop.pytorch_recurrent import ASTER, SAR
from maerec_jax.interop.pytorch_text import Recogniser
from maerec_jax.interop.pytorch_transformers import NRTR, SATRN

KINDS: Mapping[str, Callable[[Any], Recogniser]] = {
    "aster": ASTER, "abinet": ABINet, "nrtr": NRTR, "satrn": SATRN, "sar": SAR,
}  # fmt: skip
"""What makes a model of a config, by ``config.kind``."""


def load(path: str) -> Recogniser:
    """The model of a file of ``maerec_jax.export``, in eval mode, with its weights.

    Raises:
      ValueError: for a model of another kind.
    """
    return pytorch_twin.load(path, kinds=KINDS)
