"""Weights to read with, wherever they are: training runs, exported files, and those that come with the package."""

import os
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
from maerec_jax.weights.files import BASE, read_weights, write_weights
from maerec_jax.weights.shipped_files import ENDING, SHIPPED, is_shipped, shipped_file
from maerec_jax.weights.state_dicts import params_from_state_dict, state_dict_from_params


def load_recognizer(
    path: epath.PathLike | None = None, adapters: str | Path | None = None
) -> tuple[TrainConfig, Any, int]:
    """Read the weights of a recogniser.

    Args:
      path: a workdir of a fine-tuning run (its best checkpoint by validation, or its latest), one of its
        ``checkpoints/<step>``, a file of ``save_weights``, or one of ``shipped_files.SHIPPED``, by default the first.
      adapters: a file of ``save_adapters``, if any. Then ``path`` is what has its encoder, which may be a masked
        autoencoder, too, and the adapters are merged into that.

    Returns:
      The run, of which an exported file holds no more than reading needs; the parameters as NumPy arrays; the step.

    Raises:
      UserError: where there are none, they are not a recogniser's, or the adapters belong to another encoder.
    """
    config, params, step = load_weights(path)
    if adapters:
        return attach_adapters((config, params, step), adapters)
    if not isinstance(config.model, RecogniserConfig):
        raise UserError(f"{path} holds a masked autoencoder, which cannot read: fine-tune it first (--init-from)")
    return config, params, step


def load_weights(
    path: epath.PathLike | None = None, adapters: str = "give it as --adapters, and their model as --checkpoint"
) -> tuple[TrainConfig, Any, int]:
    """``load_recognizer`` for a model of any kind: a workdir, a checkpoint, a file of ``save_weights`` or a name.

    ``adapters`` is what users of files with nothing but adapters are told to do.
    """
    name = os.fspath(path or "")
    if is_shipped(name):
        file = shipped_file(name or SHIPPED[0])
    elif name.endswith(ENDING):
        if is_bucket(name):
            raise UserError(f"{name}: exported files cannot be read from buckets: copy it to a disk first")
        file = Path(name)
    else:
        if "/" not in name and not Path(name).exists():
            raise UserError(f"no such checkpoint: {name}; the built-in models are {' and '.join(SHIPPED)}")
        if Path(name).is_file():
            raise UserError(f"{name}: give the workdir of a run, one of its checkpoints, or a file ending in {ENDING}")
        return load_params(name)
    config, step, tensors, about = read_weights(file)
    if BASE in about:
        raise UserError(f"{file} holds adapters: {adapters}")
    try:
        return config, params_from_state_dict(tensors, config.model), step
    except ValueError as error:
        raise UserError(f"{file}: its metadata and tensors do not fit: {error}") from error


def save_weights(
    path: str | Path, config: TrainConfig, params: Any, step: int, dtype: Literal["float32", "float16"] = "float32"
) -> None:
    """Write a model that has PyTorch names to one file, ending in ``.safetensors``.

    Its tensors have the names and shapes of PyTorch's state dicts. The metadata says, as JSON, what else is needed:
    sizes, characters, pixel scale, and how images are prepared. ``dtype`` is that of the tensors: float16 halves the
    file and keeps 11 bits of each number.

    Raises ``UserError`` for another ending, where the model has no PyTorch names or the file cannot be written, and for
    a number that float16 cannot hold.
    """
    tensors = state_dict_from_params(params, config.model)
    if dtype == "float16":
        largest = np.finfo(np.float16).max
        for name, tensor in tensors.items():
            if not (np.abs(tensor) <= largest).all():
                raise UserError(f"{path}: {name} has values that float16 cannot hold: NaN or above {largest:g}")
        tensors = {n: t.astype(np.float16) if t.dtype.kind == "f" else t for n, t in tensors.items()}
    write_weights(Path(path), config, step, tensors)
