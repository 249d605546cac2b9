"""Files of weights: safetensors whose metadata say, as JSON, what reading needs beside the tensors."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from maerec_jax.config import TrainConfig, UserError

ENDING = ".safetensors"

_ABOUT = "maerec_jax"  # the key of our entry in the metadata of a file
_PREPARATION = ("interpolation", "buckets", "turn_vertical")  # what a reader has to know of a run's data
_ADAPTER = TypeAdapter(TrainConfig)


def write_weights(
    path: str | Path, config: TrainConfig, step: int, tensors: dict[str, np.ndarray], **more: Any
) -> None:
    """Write tensors to a file, and what reading needs of the run that they come from.

    Args:
      path: the file, ending in ``.safetensors``.
      config: the run.
      step: its step.
      tensors: by name.
      more: more for the metadata, as it can be written in JSON.

    Raises:
      UserError: for another ending, or where the file cannot be written.
    """
    path = Path(path)
    if path.suffix != ENDING:
        raise UserError(f"{path}: the name of an exported model ends in {ENDING}")
    run = _ADAPTER.dump_python(config, mode="json")
    about = {"model": run["model"], "data": {name: run["data"][name] for name in _PREPARATION}, "dtype": run["dtype"]}
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")  # beside it and renamed: no half of a file is left behind
    try:
        save_file(tensors, fresh, {_ABOUT: json.dumps(about | {"step": step} | more)})
        fresh.replace(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be written ({error})") from error


def read_weights(path: Path) -> tuple[TrainConfig, int, dict[str, np.ndarray], dict[str, Any]]:
    """Read what ``write_weights`` wrote: the run, its step, the tensors, and what else was said of them.

    Raises:
      UserError: for anything else.
    """
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    try:
        with safe_open(path, framework="numpy") as file:
            written = (file.metadata() or {}).get(_ABOUT)
            tensors: dict[str, np.ndarray] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be read, is it cut or of another format? ({error})") from error
    if written is None:
        raise UserError(f"{path}: its metadata does not say what model it holds: give a file that maerec_jax exported")
    try:
        about = json.loads(written)
        step = int(about.pop("step"))
        config = _ADAPTER.validate_python({name: about.pop(name) for name in ("model", "data", "dtype")})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(f"{path}: not of this version: {place}: {first['msg']}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: its metadata cannot be understood: {error}") from error
    return config, step, tensors, about
