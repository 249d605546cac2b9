"""Files of weights that others wrote: which tensors are in them, under what names, and what else."""

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from data_pipelines.errors import UserError
from maerec_jax.interop.inert_pickles import StandIn, StoredTensor
from maerec_jax.interop.state_dict_checks import grouped
from maerec_jax.interop.torch_files import TorchFile, UnreadableError
from maerec_jax.models.names.table import COUNTS
from maerec_jax.weights.files import ABOUT, ENDING

_ENTRIES = ("state_dict", "model", "model_state_dict", "model_state", "module", "net", "params")
_MOST_COPIES = 4  # times the bytes of a file that its tensors may have: some are there under two names
# What wrappers put before every name: DataParallel, torch.compile, Lightning, mmengine and the like.
_WRAPPERS = r"(module\.|_orig_mod\.|model\.|backbone\.)+"


@dataclass(frozen=True)
class WeightFile:
    """The tensors of an open file; they are read one by one."""

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    """The shape of each tensor by its name, without the prefixes of wrappers."""
    read_tensor: Callable[[str], np.ndarray]
    about: str
    """What one of our own files says of itself, as JSON."""
    others: tuple[str, ...]
    """Entries beside the state dict, such as the state of an optimizer."""
    notes: list[str]
    """What the user should know of how it was read."""

    def read(self) -> dict[str, np.ndarray]:
        """All tensors, as float32.

        Raises ``UserError`` naming one that cannot be read, or all that are no floats or have NaN or infinity.
        """
        state: dict[str, np.ndarray] = {}
        converted, others = set(), []
        for name in self.shapes:
            try:
                array = self.read_tensor(name)
            except (UnreadableError, SafetensorError, OSError) as error:
                raise UserError(f"{self.path}: {name} cannot be read: {error}") from error
            if name.endswith(COUNTS) and array.dtype.kind == "i":
                array = array.astype(np.float32)
            elif array.dtype.kind not in "fV":  # bfloat16 is of no kind that NumPy knows
                others.append(f"{name} ({array.dtype})")
            elif array.dtype != np.float32:
                converted.add(array.dtype.name)
                with np.errstate(over="ignore"):  # what float32 cannot hold is told below
                    array = array.astype(np.float32)
            state[name] = array
        if others:
            raise UserError(f"{self.path}: no floating-point numbers: {', '.join(others)}")
        if converted:
            self.notes.append(f"numbers were {', '.join(sorted(converted))} and are float32 now")
        if broken := [name for name, value in state.items() if not np.isfinite(value).all()]:
            then = "use weights from before training failed"
            raise UserError(f"{self.path}: NaN or infinity in {grouped(broken)}: {then}")
        return state


@contextmanager
def open_weights(path: Path, entry: str = "", ignore_code: bool = False) -> Iterator[WeightFile]:
    """Open a file of weights: ``.safetensors``, or whatever ``torch.save`` wrote. The rest is as in ``ImportOptions``.

    Raises ``UserError`` where the file cannot be read, is refused, or holds no tensors by name.
    """
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    if path.suffix == ENDING:
        try:
            with safe_open(path, framework="numpy") as file:
                shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
                about = (file.metadata() or {}).get(ABOUT, "")
                yield _weights(path, shapes, file.get_tensor, about)
        except SafetensorError as error:
            raise UserError(f"{path}: is it truncated, damaged or in another format? ({error})") from error
        return
    with path.open("rb") as stream:
        try:
            file = TorchFile(stream)
        except UnreadableError as error:
            raise UserError(f"{path}: {error}") from error
        if file.unknown and not ignore_code:
            raise UserError(
                f"{path}: refused: its pickle names {_some(file.unknown)}, which a file of weights does not need; "
                "nothing was run. Use --ignore-code to read the tensors"
            )
        yield _of_torch(path, file, entry)


def _of_torch(path: Path, file: TorchFile, entry: str) -> WeightFile:
    """The state dict in what was saved."""
    content = file.content
    if not isinstance(content, dict):
        kind = type(content).__name__
        what = f"an object of class {kind}" if isinstance(content, StandIn) else kind
        raise UserError(f"{path} holds {what}, not tensors by name: save the model's state_dict()")
    names, meta = [str(name) for name in content], content.get("meta")
    about = meta.get(ABOUT) if isinstance(meta, dict) else ""
    about = about if isinstance(about, str) else ""  # to write other things out may take for ever
    if entry and not _holds_tensors(content.get(entry)):
        raise UserError(f"{path}: --entry {entry} is not a state dict; the entries are {_some(names)}")
    entry = entry or next((name for name in _ENTRIES if _holds_tensors(content.get(name))), "")
    found = content[entry] if entry else content
    if not _holds_tensors(found):
        raise UserError(f"{path} holds no tensors by name, only {_some(names)}: does --entry help?")
    tensors = {name: value for name, value in found.items() if isinstance(value, StoredTensor)}
    size = path.stat().st_size  # tensors are not compressed; no model of larger ones is even thought of
    sizes = {name: math.prod(tensor.shape) * tensor.storage.dtype.itemsize for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        if sizes[name] > size:
            raise UserError(f"{path}: {name} {tensor.shape} is larger than the file: is it truncated or damaged?")
    if sum(sizes.values()) > _MOST_COPIES * size:
        raise UserError(f"{path}: its tensors share their numbers more often than those of any model: is it damaged?")
    if strange := sorted(map(str, found.keys() - tensors.keys())):
        raise UserError(f"{path}: no tensors: {grouped(strange)}")
    weights = _weights(
        path,
        {name: tensor.shape for name, tensor in tensors.items()},
        lambda name: file.read(tensors[name]),
        about,
        tuple(name for name in names if entry and name != entry and not (about and name == "meta")),
    )
    if entry:
        weights.notes.append(f"the tensors are those of its entry {entry!r}")
    if file.unknown:
        weights.notes.append(f"named in its pickle, and ignored: {', '.join(file.unknown)}")
    return weights


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, dict) and any(isinstance(v, StoredTensor) and isinstance(k, str) for k, v in value.items())


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (" ..." if len(names) > 8 else "") if names else "nothing"


def _weights(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    read_tensor: Callable[[str], np.ndarray],
    about: str,
    others: tuple[str, ...] = (),
) -> WeightFile:
    """Tensors under their names without what wrappers put before all of them."""
    match = re.match(_WRAPPERS, os.path.commonprefix(list(shapes)))  # noqa: RUF071
    prefix, notes = ("", []) if match is None else (match[0], [f"its names begin with {match[0]!r}, which is left out"])
    shapes = {name.removeprefix(prefix): shape for name, shape in shapes.items()}
    return WeightFile(path, shapes, lambda name: read_tensor(prefix + name), about, others, notes)
