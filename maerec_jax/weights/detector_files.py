"""Files of text detectors: safetensors with the names of PyTorch, whose metadata say what detector it is."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.errors import UserError
from maerec_jax.models.dbnetpp import DBNetPPConfig
from maerec_jax.weights.files import DETECTOR, ENDING, FLOATS, detector_of, read_about, read_tensors, write_tensors
from maerec_jax.weights.state_dicts import params_from_state_dict

ABOUT_DBNETPP = json.dumps({DETECTOR: DBNetPPConfig().kind})
"""What files of a DBNet++ say of themselves, also those in other formats."""


def holds_detector(path: str | Path) -> bool:
    """Whether there is a ``.safetensors`` file that says that it holds a detector."""
    path = Path(path)
    return path.suffix == ENDING and path.is_file() and bool(detector_of(read_about(path)))


def write_detector(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """Write the state dict of a DBNet++, counters included, to a file.

    Raises ``UserError`` for another ending than ``.safetensors``, or where the file cannot be written.
    """
    write_tensors(path, tensors, ABOUT_DBNETPP)


def read_detector(path: Path) -> dict[str, np.ndarray]:
    """The state dict of a DBNet++ that ``write_detector`` wrote: float32, and its counters int64.

    Raises ``UserError`` where it is no such file, or damaged.
    """
    found = detector_of(read_about(path))
    if found != DBNetPPConfig().kind:
        holds = f"a detector of the unknown kind {found[:80]!r}" if found else "no text detector"
        raise UserError(f"{path}: holds {holds}: give a DBNet++ that `maerec import` wrote, or an ONNX file")
    return read_tensors(path, FLOATS | {"I64"})


def load_detector_params(path: Path) -> Any:
    """The parameters of the DBNet++ in a file, NumPy float32. Raises ``UserError`` as ``read_detector`` does."""
    tensors = {name: value.astype(np.float32) for name, value in read_detector(path).items()}
    try:
        return params_from_state_dict(tensors, DBNetPPConfig())
    except ValueError as error:
        raise UserError(f"{path}: its metadata and tensors do not fit: {error}") from error
