"""Weights to read with, wherever they are: training runs, exported files, and those that come with the package."""

import hashlib
import os
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
from etils import epath

from data_pipelines.errors import UserError
from data_pipelines.storage import is_bucket
from maerec_jax.config import TrainConfig
from maerec_jax.models.interface import RecogniserConfig
from maerec_jax.weights.adapters import attach_adapters
from maerec_jax.weights.checkpoint import load_params
from maerec_jax.weights.files import BASE, ENDING, read_weights, write_weights
from maerec_jax.weights.state_dicts import params_from_state_dict, state_dict_from_params

SHIPPED = ("maerec_tiny", "maerec_tiny_rendered")
"""The names of the weights that come with the package, which stand for their files; the first are the default."""


def load_recognizer(
    path: epath.PathLike | None = None, adapters: str | Path | None = None
) -> tuple[TrainConfig, Any, int]:
    """Read the weights of a recogniser.

    Args:
      path: a workdir of a fine-tuning run (its best checkpoint by validation, or its latest), one of its
        ``checkpoints/<step>``, a file that ``save_weights`` wrote, or one of ``SHIPPED``, of which the first is the
        default.
      adapters: a file that ``adapters.save_adapters`` wrote, if any. Then ``path`` is what has its encoder,
        which may be a masked autoencoder, too, and the adapters are merged into that.

    Returns:
      The config of the run, of which an exported file holds no more than reading needs; the parameters as NumPy
      arrays; and the step.

    Raises:
      UserError: where there are none, they are not a recogniser's, or the adapters belong to another encoder.
    """
    config, params, step = load_weights(path)
    if adapters:
        return attach_adapters((config, params, step), adapters)
    if not isinstance(config.model, RecogniserConfig):
        raise UserError(f"{path} holds a masked autoencoder, which cannot read: fine-tune it first (--init-from)")
    return config, params, step


def load_weights(path: epath.PathLike | None = None) -> tuple[TrainConfig, Any, int]:
    """``load_recognizer`` for a model of any kind: a workdir, a checkpoint, a file of ``save_weights`` or a name."""
    if path is None or not os.fspath(path):
        path = shipped_file(SHIPPED[0])  # whatever else has this name here
    elif "/" not in os.fspath(path) and not Path(path).exists() and not os.fspath(path).endswith(ENDING):
        if os.fspath(path) not in SHIPPED:
            raise UserError(f"no such checkpoint: {path}; the weights of the package are {' and '.join(SHIPPED)}")
        path = shipped_file(os.fspath(path))
    if os.fspath(path).endswith(ENDING):
        if is_bucket(path):
            raise UserError(f"{path}: exported files are read from disks only: copy it to one first")
        return _read_file(Path(path))
    if Path(path).is_file():
        raise UserError(f"{path}: give the workdir of a run, one of its checkpoints, or a file ending in {ENDING}")
    return load_params(path)


def shipped_file(name: str) -> Path:
    """The file of weights that come with the package, compared with its checksum in ``shipped/SHA256SUMS``.

    Raises:
      UserError: where it is missing or was changed.
    """
    folder = Path(str(resources.files("maerec_jax.weights"))) / "shipped"
    file = folder / f"{name}{ENDING}"
    try:
        lines = (folder / "SHA256SUMS").read_text().splitlines()
        expected = {line.split(maxsplit=1)[1]: line.split(maxsplit=1)[0] for line in lines}[file.name]
        found = hashlib.sha256(file.read_bytes()).hexdigest()
    except (OSError, LookupError, UnicodeDecodeError) as error:
        raise UserError(f"the weights {name} of this package cannot be read ({error}): install it again") from error
    if found != expected:
        raise UserError(f"{file} is damaged, its SHA-256 is {found} and not {expected}: install maerec-jax again")
    return file


def save_weights(
    path: str | Path, config: TrainConfig, params: Any, step: int, dtype: Literal["float32", "float16"] = "float32"
) -> None:
    """Write a model that has PyTorch names to one file, ending in ``.safetensors``.

    Its tensors have the names and shapes of PyTorch's state dicts. The metadata says, as JSON, what else
    is needed: sizes, characters, pixel scale, and how images are prepared.

    Args:
      path: the file.
      config: the run.
      params: its parameters.
      step: its step.
      dtype: that of the tensors. float16 halves the file and keeps 11 bits of each number.

    Raises:
      UserError: for another ending, where the model has no PyTorch names, or the file cannot be written; and for a
        number that float16 cannot hold.
    """
    if config.model.names() is None:
        raise UserError(f"{path}: a model of the kind {config.model.kind} cannot be exported: the reference has none")
    tensors = state_dict_from_params(params, config.model)
    if dtype == "float16":
        largest = np.finfo(np.float16).max
        for name, tensor in tensors.items():
            if not (np.abs(tensor) <= largest).all():
                raise UserError(f"{path}: {name} holds what float16 cannot hold, NaN or above {largest:g}")
        tensors = {name: tensor.astype(np.float16) for name, tensor in tensors.items()}
    write_weights(path, config, step, tensors)


def _read_file(path: Path) -> tuple[TrainConfig, Any, int]:
    config, step, tensors, about = read_weights(path)
    if BASE in about:
        raise UserError(f"{path} holds adapters: give it as such (--adapters), and the checkpoint that they belong to")
    try:
        return config, params_from_state_dict(tensors, config.model), step
    except ValueError as error:
        raise UserError(f"{path}: its metadata and tensors do not fit: {error}") from error
