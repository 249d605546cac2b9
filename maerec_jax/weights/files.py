"""Files of weights: safetensors whose metadata say, as JSON, what reading needs beside the tensors."""

import json
import math
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from data_pipelines.errors import UserError
from maerec_jax.config import TrainConfig
from maerec_jax.models.names.table import COUNTS
from maerec_jax.weights.shipped_files import ENDING

ABOUT = "maerec_jax"
"""The key of our entry in the metadata of a file."""
BASE = "base"
"""The key in it that tells which encoder adapters belong to; files of whole models have none."""
DETECTOR = "detector"
"""The key in it of files that hold a text detector (``detector_files``) instead."""

FLOATS = frozenset({"F16", "F32", "F64"})
"""The types of numbers that weights have, as safetensors call them."""

_PREPARATION = ("interpolation", "buckets", "turn_vertical")  # what a reader has to know of a run's data
_TABLE = 2**22  # numbers of a position table that any model may have
_LAYERS = 1000
_LARGEST_BUCKET = 16  # times the pixels of the images that a model is made for
_ADAPTER = TypeAdapter(TrainConfig)


def about_weights(config: TrainConfig, step: int, **more: Any) -> str:
    """What reading needs of the run that weights come from, and ``more``, as JSON."""
    run = _ADAPTER.dump_python(config, mode="json")
    about = {"model": run["model"], "data": {name: run["data"][name] for name in _PREPARATION}, "dtype": run["dtype"]}
    return json.dumps(about | {"step": step} | more)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of ``path`` at the end; after an error nothing is left of it.

    Raises ``UserError`` for every ``OSError``.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as scratch:
            fresh = Path(scratch) / path.name
            yield fresh
            fresh.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error})") from error


def write_weights(path: Path, config: TrainConfig, step: int, tensors: dict[str, np.ndarray], **more: Any) -> None:
    """Write tensors to a file, and ``about_weights`` of the run that they come from.

    Raises ``UserError`` for another ending than ``.safetensors``, or where the file cannot be written.
    """
    write_tensors(path, tensors, about_weights(config, step, **more))


def write_tensors(path: Path, tensors: dict[str, np.ndarray], about: str) -> None:
    """Write tensors to a file, and what they are. Raises ``UserError`` as ``write_weights`` does."""
    if path.suffix != ENDING:
        raise UserError(f"{path}: the name of an exported model ends in {ENDING}")
    with written_whole(path) as fresh:
        fresh.touch()
        mode = fresh.stat().st_mode  # what new files have here; safetensors lets nobody else read its own
        try:
            save_file(tensors, fresh, {ABOUT: about})
        except SafetensorError as error:
            raise OSError(error) from error
        fresh.chmod(mode)


def read_about(path: Path) -> str:
    """What a file says of itself, as JSON; "" for nothing. Raises ``UserError`` where it cannot be read."""
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    with _opened(path) as file:
        return (file.metadata() or {}).get(ABOUT, "")


def read_tensors(path: Path, kinds: Collection[str] = FLOATS) -> dict[str, np.ndarray]:
    """The tensors of a file, floats as float32. Raises ``UserError`` where it cannot be read, has tensors of others
    than ``kinds``, as safetensors call them, or has NaN or infinity."""
    with _opened(path) as file:
        names = list(file.keys())
        if strange := {str(file.get_slice(name).get_dtype()) for name in names} - set(kinds):
            raise UserError(f"{path}: holds tensors of {', '.join(sorted(strange))}, expected {sorted(kinds)}")
        tensors = {name: file.get_tensor(name) for name in names}
    tensors = {name: value.astype(np.float32) if value.dtype.kind == "f" else value for name, value in tensors.items()}
    if damaged := [name for name, tensor in tensors.items() if not np.isfinite(tensor).all()]:
        raise UserError(f"{path}: {damaged[0]} contains NaN or infinity: export it again")
    return tensors


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be read, is it truncated or in another format? ({error})") from error


def detector_of(about: str) -> str:
    """The text detector that a file says it holds; "" where it says no such thing."""
    try:
        return str(json.loads(about)[DETECTOR])
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""


def read_weights(path: Path) -> tuple[TrainConfig, int, dict[str, np.ndarray], dict[str, Any]]:
    """Read what ``write_weights`` wrote: the run, its step, the tensors as float32, and what else was said of them.

    Anybody may have made the file: no model is made that is larger than its tensors. Raises ``UserError`` for anything
    else.
    """
    written = read_about(path)
    if detector_of(written):
        raise UserError(f"{path}: holds a text detector, not a recogniser: give it as --detection.detector")
    tensors = read_tensors(path, FLOATS | {"I64"})
    if whole := [name for name, tensor in tensors.items() if tensor.dtype.kind != "f" and not name.endswith(COUNTS)]:
        raise UserError(f"{path}: {whole[0]} holds whole numbers, expected floating-point ones")
    tensors = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
    if not written:
        raise UserError(f"{path}: its metadata does not say what model it holds: give a file that maerec_jax exported")
    try:
        config, step, about = run_of_metadata(written, {name: tensor.shape for name, tensor in tensors.items()})
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    return config, step, tensors, about


def run_of_metadata(written: str, shapes: Mapping[str, tuple[int, ...]]) -> tuple[TrainConfig, int, dict[str, Any]]:
    """The run that metadata tell of, as far as reading needs it; its step; and all that they tell.

    Anybody may have written them: anything may be missing or of another type. What makes a model large is compared with
    the shapes of the tensors before it is made. Raises ``ValueError`` where it is larger, or no config.
    """
    try:
        about = json.loads(written)
        return _run(about, shapes), int(about["step"]), about
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"not of this version: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}" if isinstance(error, LookupError) else error
        raise ValueError(f"its metadata and tensors do not fit: {reason}") from error


def _run(about: dict[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> TrainConfig:
    shapes = {name: shape for name, shape in shapes.items() if 0 not in shape}
    longest = max(max(shape, default=1) for shape in shapes.values())
    largest = max(math.prod(shape) for shape in shapes.values())

    def check(name: str, said: Any) -> None:
        if isinstance(said, dict):
            for key, value in said.items():
                check(str(key)[:80], value)
            if "image_size" in said:  # with a position table, as wide as any tensor
                sides = zip(said["image_size"], said.get("patch_size", (4, 4)), strict=True)  # convolutions shrink, too
                check("image_size", math.prod(side // max(patch, 1) for side, patch in sides) * longest)
        elif isinstance(said, list):
            for value in said:
                check(name, value)
        elif isinstance(said, int | float):
            limit = max(largest, _TABLE)
            if name.endswith(("dim", "channels")):
                limit = longest
            elif name.endswith(("depth", "layers", "blocks")):
                limit = min(len(shapes), _LAYERS)
            if said > limit:
                raise ValueError(f"its {name} is larger than any of the tensors can be of")

    check("model", about["model"])
    data = {name: about["data"][name] for name in _PREPARATION if name in about["data"]}
    # Strict: text that looks like a number has not been compared.
    run = json.dumps({"model": about["model"], "data": data, "dtype": about["dtype"]})
    config = _ADAPTER.validate_json(run, strict=True)
    pixels = math.prod(config.model.image_size)
    for height, width in config.data.buckets:
        if height * width > _LARGEST_BUCKET * pixels:
            raise ValueError(f"its bucket {height} x {width} has over {_LARGEST_BUCKET} times the pixels of its image")
    return config
