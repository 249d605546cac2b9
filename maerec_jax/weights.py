"""Weights to read with, wherever they are: training runs, exported files, and those that come with the package."""

import json
import math
import os
import re
import tempfile
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from data_pipelines.prepared.storage import is_bucket
from maerec_jax.config import TrainConfig, UserError
from maerec_jax.interop.pytorch_names import params_from_state_dict, state_dict_from_params
from maerec_jax.models.maerec import MAERecConfig
from maerec_jax.training.checkpoint import load_params

ENDING = ".safetensors"

_ABOUT = "maerec_jax"  # the key of our entry in the metadata of a file
_PREPARATION = ("interpolation", "buckets", "turn_vertical")  # what a reader has to know of a run's data
_FLOATS = {"F16", "F32", "F64"}
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
    if os.fspath(path).endswith(ENDING):
        if is_bucket(path):
            raise UserError(f"{path}: exported files are read from disks only: copy it to one first")
        return _read_file(Path(path))
    if Path(path).is_file():
        raise UserError(f"{path}: give the workdir of a run, one of its checkpoints, or a file ending in {ENDING}")
    config, params, step = load_params(path)
    if not isinstance(config.model, MAERecConfig):
        raise UserError(f"{path} holds a masked autoencoder, which cannot read: fine-tune it first (--init-from)")
    return config, params, step


def save_recognizer(path: str | Path, config: TrainConfig, params: Any, step: int) -> None:
    """Write a recogniser to one file, ending in ``.safetensors``.

    Its tensors have the names and shapes of the reference's PyTorch state dicts. The metadata says, as JSON, what else
    reading needs: sizes, characters, pixel scale, and how images are prepared.

    Raises:
      UserError: for another ending, or where the file cannot be written.
    """
    path = Path(path)
    if path.suffix != ENDING:
        raise UserError(f"{path}: the name of an exported recogniser ends in {ENDING}")
    assert isinstance(config.model, MAERecConfig)
    run = _ADAPTER.dump_python(config, mode="json")
    about = {"model": run["model"], "data": {name: run["data"][name] for name in _PREPARATION}, "dtype": run["dtype"]}
    tensors = state_dict_from_params(params, config.model)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Beside it and renamed: no half of a file takes its place.
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as scratch:
            fresh = Path(scratch) / path.name
            save_file(tensors, fresh, {_ABOUT: json.dumps(about | {"step": step})})
            fresh.replace(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be written ({error})") from error


def _read_file(path: Path) -> tuple[TrainConfig, Any, int]:
    """Read an exported file, which anybody may have made: nothing is as large as its numbers say but its tensors."""
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    try:
        with safe_open(path, framework="numpy") as file:
            about = (file.metadata() or {}).get(_ABOUT)
            kinds = {str(file.get_slice(name).get_dtype()) for name in file.keys()}  # noqa: SIM118
            if strange := kinds - _FLOATS:
                raise UserError(f"{path}: holds tensors of {', '.join(sorted(strange))}, expected {sorted(_FLOATS)}")
            tensors: dict[str, np.ndarray] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be read, is it cut or of another format? ({error})") from error
    if about is None:
        raise UserError(f"{path}: its metadata does not say what model it holds: give a file that maerec_jax exported")
    try:
        described = json.loads(about)
        step = int(described["step"])
        data = {name: described["data"][name] for name in _PREPARATION if name in described["data"]}
        _compare_sizes(described["model"], tensors)
        config = _ADAPTER.validate_python({"model": described["model"], "data": data, "dtype": described["dtype"]})
        if not isinstance(config.model, MAERecConfig):
            raise UserError(f"{path} holds a masked autoencoder, which cannot read")
        tensors = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
        return config, params_from_state_dict(tensors, config.model), step
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(f"{path}: not of this version: {place}: {first['msg']}") from error
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}" if isinstance(error, LookupError) else error
        raise UserError(f"{path}: its metadata and tensors do not fit: {reason}") from error


def _compare_sizes(model: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
    """Compare what makes a model large with the tensors, before one is made. Raises ``ValueError``."""
    encoder, decoder = model["encoder"], model["decoder"]
    (height, width), (rows, columns) = encoder["image_size"], encoder["patch_size"]
    positions, dim = tensors["backbone.pos_embed"].shape[1:]
    said = {
        "encoder.dim": (encoder["dim"], dim),
        "encoder.depth": (encoder["depth"], _count(tensors, r"backbone\.blocks\.(\d+)\..*")),
        "number of patches": (height // rows * (width // columns) + 1, positions),
        "decoder.dim": (decoder["dim"], tensors["decoder.trg_word_emb.weight"].shape[1]),
        "decoder.layers": (decoder["layers"], _count(tensors, r"decoder\.layer_stack\.(\d+)\..*")),
        "patch size": (rows * columns, math.prod(tensors["backbone.patch_embed.proj.weight"].shape[2:])),
    }
    for name, (stated, found) in said.items():
        if stated != found:
            raise ValueError(f"{name} is said to be {stated}, but is {found}")


def _count(names: Iterable[str], pattern: str) -> int:
    """How many different numbers stand in the place of the group in names of a pattern."""
    return len({match[1] for name in names if (match := re.fullmatch(pattern, name))})


def _shipped() -> Path:
    """The weights that come with the package."""
    folder = Path(str(resources.files("maerec_jax"))) / "shipped"
    found = sorted(folder.glob(f"*{ENDING}")) if folder.is_dir() else []
    if not found:
        raise UserError("no weights come with this version: give --checkpoint, the workdir of a fine-tuning run")
    return found[0]
