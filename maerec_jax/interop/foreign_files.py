"""Files of weights that others wrote: which tensors are in them, under what names, and what else."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
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

    def read(self) -> dict[str, np.ndarray]:
        """All tensors, as float32 where they are floating-point numbers.

        Raises:
          UserError: naming the tensor that cannot be read.
        """
        state, converted = {}, set()
        for name in self.shapes:
            try:
                array = self.read_tensor(name)
            except (UnreadableError, SafetensorError, OSError) as error:
                raise UserError(f"{self.path}: {name} cannot be read: {error}") from error
            # Not np.floating: bfloat16 is of no kind that NumPy knows.
            if array.dtype != np.float32 and array.dtype.kind in "fV":
                converted.add(array.dtype.name)
                array = array.astype(np.float32)
            state[name] = array
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
    with path.open("rb") as stream:
        try:
            file = TorchFile(stream)
        except UnreadableError as error:
            raise UserError(f"{path}: {error}") from error
        if file.unknown and not ignore_code:
            raise UserError(
                f"{path}: refused, for its pickle names {_some(file.unknown)}, which is no part of a file of weights; "
                "nothing was run. --ignore-code reads the tensors without it"
            )
        yield _named(_of_torch(path, file, entry))


def _of_torch(path: Path, file: TorchFile, entry: str) -> WeightFile:
    """The state dict in what was saved."""
    content = file.content
    if not isinstance(content, dict):
        kind = type(content).__name__
        what = f"an object of class {kind}" if isinstance(content, StandIn) else kind
        raise UserError(f"{path} holds {what}, not tensors by name: save the model's state_dict()")
    names, about = [str(name) for name in content], _about(content)
    if entry and not _holds_tensors(content.get(entry)):
        raise UserError(f"{path}: --entry {entry} is no state dict of it; its entries are {_some(names)}")
    entry = entry or next((name for name in _ENTRIES if _holds_tensors(content.get(name))), "")
    found = content[entry] if entry else content
    if not _holds_tensors(found):
        raise UserError(f"{path} holds no tensors by name, only {_some(names)}: does --entry help?")
    tensors = {name: value for name, value in found.items() if isinstance(value, StoredTensor)}
    _see_that_they_fit(path, tensors)
    weights = WeightFile(
        path,
        {name: tensor.shape for name, tensor in tensors.items()},
        lambda name: file.read(tensors[name]),
        about,
        tuple(name for name in names if entry and name != entry and not (about and name == "meta")),
        tuple(sorted(map(str, found.keys() - tensors.keys()))),
    )
    if entry:
        weights.notes.append(f"the tensors are those of its entry {entry!r}")
    if file.unknown:
        weights.notes.append(f"named in its pickle, and ignored: {', '.join(file.unknown)}")
    return weights


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, dict) and any(isinstance(v, StoredTensor) and isinstance(k, str) for k, v in value.items())


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
    return replace(
        weights,
        shapes={name.removeprefix(prefix): shape for name, shape in weights.shapes.items()},
        read_tensor=lambda name: weights.read_tensor(prefix + name),
        no_tensors=tuple(name.removeprefix(prefix) for name in weights.no_tensors),
    )
