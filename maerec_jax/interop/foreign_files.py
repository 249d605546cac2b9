"""Files of weights that others wrote: which tensors are in them, under what names, and what else."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from data_pipelines.errors import UserError
from maerec_jax.interop.inert_pickles import StandIn, StoredTensor
from maerec_jax.interop.torch_files import TorchFile, UnreadableError
from maerec_jax.weights.files import ABOUT, ENDING

_ENTRIES = ("state_dict", "model", "model_state_dict", "model_state", "module", "net", "params")
# What wrappers put before every name: DataParallel, torch.compile, Lightning and the like.
_PREFIXES = ("module.", "_orig_mod.", "model.")


@dataclass(frozen=True)
class WeightFile:
    """The tensors of an open file; they are read one by one."""

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    """The shape of each tensor by its name, without the prefixes of wrappers."""
    read_tensor: Callable[[str], np.ndarray]
    """Read one."""
    about: str = ""
    """What one of our own files says of itself, as JSON."""
    others: tuple[str, ...] = ()
    """Entries beside the state dict, such as the state of an optimizer."""
    no_tensors: tuple[str, ...] = ()
    """Names in the state dict that hold no tensors."""
    notes: list[str] = field(default_factory=list)
    """What the user should know of how it was read."""

    def read(self, progress: Callable[[int], None] = lambda _: None) -> dict[str, np.ndarray]:
        """All tensors, as float32 where they are floating-point numbers; ``progress`` is told how many numbers more.

        Raises:
          UserError: naming the tensor that cannot be read.
        """
        state, converted = {}, set()
        for name, shape in self.shapes.items():
            try:
                array = self.read_tensor(name)
            except (UnreadableError, SafetensorError, OSError) as error:
                raise UserError(f"{self.path}: {name} cannot be read: {error}") from error
            # Not np.floating: bfloat16 is of no kind that NumPy knows.
            if array.dtype != np.float32 and array.dtype.kind in "fV":
                converted.add(array.dtype.name)
                array = array.astype(np.float32)
            state[name] = array
            progress(int(np.prod(shape)))
        if converted:
            self.notes.append(f"numbers were {', '.join(sorted(converted))} and are float32 now")
        return state


@contextmanager
def open_weights(path: Path, entry: str = "", ignore_code: bool = False) -> Iterator[WeightFile]:
    """Open a file of weights: ``.safetensors``, or whatever ``torch.save`` wrote.

    Args:
      path: the file.
      entry: the entry of a checkpoint to take, such as "ema_state_dict"; by default the usual one.
      ignore_code: read files whose pickle names unknown functions or classes, too; these are never run.

    Raises:
      UserError: where the file cannot be read, is refused, or holds no tensors by name.
    """
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    if path.suffix == ENDING:
        try:
            with safe_open(path, framework="numpy") as file:
                shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
                about = (file.metadata() or {}).get(ABOUT, "")
                yield _named(WeightFile(path, shapes, file.get_tensor, about))
        except SafetensorError as error:
            raise UserError(f"{path}: is it cut, damaged or of another format? ({error})") from error
        return
    try:
        file = TorchFile(path)
    except UnreadableError as error:
        raise UserError(f"{path}: {error}") from error
    with file:
        if file.unknown and not ignore_code:
            names = ", ".join(file.unknown[:6]) + (
                f" and {len(file.unknown) - 6} more" if len(file.unknown) > 6 else ""
            )
            raise UserError(
                f"{path}: refused, for its pickle names {names}, which is no part of a file of weights; nothing was "
                "run. --ignore-code reads the tensors without it"
            )
        found = _state_dict(path, file.content, entry)
        about = _about(file.content)
        tensors = {name: value for name, value in found.tensors.items() if isinstance(value, StoredTensor)}
        _see_that_they_fit(path, tensors)
        weights = WeightFile(
            path,
            {name: tensor.shape for name, tensor in tensors.items()},
            lambda name: file.read(tensors[name]),
            about,
            tuple(name for name in found.others if not (about and name == "meta")),
            tuple(sorted(map(str, found.tensors.keys() - tensors.keys()))),
        )
        if found.entry:
            weights.notes.append(f"the tensors are those of its entry {found.entry!r}")
        if file.unknown:
            weights.notes.append(f"named in its pickle, and ignored: {', '.join(file.unknown)}")
        yield _named(weights)


@dataclass(frozen=True)
class _Found:
    """A state dict in what was saved."""

    tensors: Mapping[Any, Any]
    entry: str
    others: tuple[str, ...]


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, dict) and any(isinstance(v, StoredTensor) and isinstance(k, str) for k, v in value.items())


def _state_dict(path: Path, content: Any, entry: str) -> _Found:
    if not isinstance(content, dict):
        what = (
            f"an object of class {type(content).__name__}" if isinstance(content, StandIn) else type(content).__name__
        )
        raise UserError(f"{path} holds {what}, not tensors by name: save the model's state_dict()")
    names = [str(name) for name in content]
    if entry:
        if not _holds_tensors(content.get(entry)):
            raise UserError(f"{path}: --entry {entry} is no state dict of it; its entries are {_some(names)}")
    else:
        entry = next((name for name in _ENTRIES if _holds_tensors(content.get(name))), "")
        if not entry:
            if not _holds_tensors(content):
                raise UserError(f"{path} holds no tensors by name, only {_some(names)}: does --entry help?")
            return _Found(content, "", ())
    return _Found(content[entry], entry, tuple(name for name in names if name != entry))


def _see_that_they_fit(path: Path, tensors: Mapping[str, StoredTensor]) -> None:
    """Refuse tensors larger than their file before a model of such sizes is thought of; they are not compressed."""
    size = path.stat().st_size
    for name, tensor in tensors.items():
        if math.prod(tensor.shape) * tensor.storage.dtype.itemsize > size:
            raise UserError(f"{path}: {name} {tensor.shape} is larger than the file: is it cut or damaged?")


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (" ..." if len(names) > 8 else "") if names else "nothing"


def _about(content: Any) -> str:
    meta = content.get("meta") if isinstance(content, dict) else None
    about = meta.get(ABOUT) if isinstance(meta, dict) else None
    return about if isinstance(about, str) else json.dumps(about) if isinstance(about, dict) else ""


def _named(weights: WeightFile) -> WeightFile:
    """The same file, its names without what wrappers put before all of them."""
    prefix = ""
    names = list(weights.shapes)
    while found := next((p for p in _PREFIXES if names and all(n.startswith(prefix + p) for n in names)), ""):
        prefix += found
    if not prefix:
        return weights
    weights.notes.append(f"its names begin with {prefix!r}, which is left out")
    return WeightFile(
        weights.path,
        {name.removeprefix(prefix): shape for name, shape in weights.shapes.items()},
        lambda name: weights.read_tensor(prefix + name),
        weights.about,
        weights.others,
        tuple(name.removeprefix(prefix) for name in weights.no_tensors),
        weights.notes,
    )
