"""Weights to read with, wherever they are: training runs, exported files, and those that come with the package."""

import json
import os
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from maerec_jax.config import TrainConfig, UserError
from maerec_jax.interop.pytorch_names import params_from_state_dict, state_dict_from_params
from maerec_jax.models.mae import MAEConfig
from maerec_jax.models.maerec import MAERecConfig
from maerec_jax.training.checkpoint import load_params

ENDING = ".safetensors"

_ABOUT = "maerec_jax"  # the key of our entry in the metadata of a file
_PREPARATION = ("interpolation", "buckets", "turn_vertical")  # what a reader has to know of a run's data
_ADAPTER = TypeAdapter(TrainConfig)


def load_recognizer(path: epath.PathLike | None = None) -> tuple[TrainConfig, Any, int]:
    """Read the weights of a recogniser.

    Args:
      path: a workdir of a fine-tuning run (its best checkpoint by validation, or its latest), one of its
        ``checkpoints/<step>``, or a file that ``save_recognizer`` wrote. By default the weights that come with the
        package.

    Returns:
      The config of the run, of which an exported file holds no more than reading needs; the parameters as NumPy
      arrays; and the step.

    Raises:
      UserError: where there are none, or they are not a recogniser's.
    """
    path = _shipped() if path is None or not os.fspath(path) else path
    config, params, step = load_weights(path)
    if not isinstance(config.model, MAERecConfig):
        raise UserError(f"{path} holds a masked autoencoder, which cannot read: fine-tune it first (--init-from)")
    return config, params, step


def load_weights(path: epath.PathLike) -> tuple[TrainConfig, Any, int]:
    """``load_recognizer`` for a model of any kind, from a workdir, a checkpoint, or a file of ``save_weights``."""
    if os.fspath(path).endswith(ENDING):
        return _read_file(Path(path))
    if Path(path).is_file():
        raise UserError(f"{path}: give the workdir of a run, one of its checkpoints, or a file ending in {ENDING}")
    return load_params(path)


def save_recognizer(path: str | Path, config: TrainConfig, params: Any, step: int) -> None:
    """Write a recogniser to one file, as ``save_weights`` does."""
    assert isinstance(config.model, MAERecConfig)
    save_weights(path, config, params, step)


def save_weights(path: str | Path, config: TrainConfig, params: Any, step: int) -> None:
    """Write a recogniser or a masked autoencoder to one file, ending in ``.safetensors``.

    Its tensors have the names and shapes of the reference's PyTorch state dicts. The metadata says, as JSON, what else
    is needed: sizes, characters, pixel scale, and how images are prepared.

    Raises:
      UserError: for another ending, where the reference has no such model, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix != ENDING:
        raise UserError(f"{path}: the name of an exported model ends in {ENDING}")
    if not isinstance(config.model, MAEConfig | MAERecConfig):
        raise UserError(f"{path}: a model of the kind {config.model.kind} cannot be exported: the reference has none")
    run = _ADAPTER.dump_python(config, mode="json")
    about = {"model": run["model"], "data": {name: run["data"][name] for name in _PREPARATION}, "dtype": run["dtype"]}
    tensors = state_dict_from_params(params, config.model)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")  # beside it and renamed: no half of a file is left behind
    try:
        save_file(tensors, fresh, {_ABOUT: json.dumps(about | {"step": step})})
        fresh.replace(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be written ({error})") from error


def _read_file(path: Path) -> tuple[TrainConfig, Any, int]:
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    try:
        with safe_open(path, framework="numpy") as file:
            about = (file.metadata() or {}).get(_ABOUT)
            tensors: dict[str, np.ndarray] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be read, is it cut or of another format? ({error})") from error
    if about is None:
        raise UserError(f"{path}: its metadata does not say what model it holds: give a file that maerec_jax exported")
    try:
        described = json.loads(about)
        step = int(described.pop("step"))
        config = _ADAPTER.validate_python(described)
        if not isinstance(config.model, MAEConfig | MAERecConfig):
            raise UserError(f"{path}: a model of the kind {config.model.kind} is in no such file")
        return config, params_from_state_dict(tensors, config.model), step
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(f"{path}: not of this version: {place}: {first['msg']}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: its metadata and tensors do not fit: {error}") from error


def _shipped() -> Path:
    """The weights that come with the package."""
    folder = Path(str(resources.files("maerec_jax"))) / "shipped"
    found = sorted(folder.glob(f"*{ENDING}")) if folder.is_dir() else []
    if not found:
        raise UserError("no weights come with this version: give --checkpoint, the workdir of a fine-tuning run")
    return found[0]
