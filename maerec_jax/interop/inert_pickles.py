"""Pickles of ``torch.save``, loaded without running anything that they name.

A pickle can name any function of any module and have it called. Here no name is ever looked up: the few that make up
tensors are known by their spelling, and every other becomes a stand-in that takes whatever it is given and does
nothing. So what comes out are tensors that are still to be read, and plain Python values.
"""

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

import jax.numpy as jnp
import numpy as np

_DTYPES = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": jnp.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
_BUILTINS = {"bytearray", "bytes", "complex", "dict", "float", "frozenset", "getattr", "int", "list", "object", "range"}
_BUILTINS |= {"set", "slice", "str", "tuple"}
# What training libraries put beside weights: settings, histories, versions. All of it becomes stand-ins.
_HARMLESS = {
    "argparse": {"Namespace"},
    "builtins": _BUILTINS,
    "__builtin__": _BUILTINS,  # so in pickles of the protocol that PyTorch writes
    "_codecs": {"encode"},
    "collections": {"Counter", "OrderedDict", "defaultdict", "deque"},
    "copyreg": {"_reconstructor"},
    "copy_reg": {"_reconstructor"},
    "types": {"SimpleNamespace"},
}
_HARMLESS_PACKAGES = {"datetime", "mmcv", "mmdet", "mmengine", "mmocr", "numpy", "omegaconf", "pathlib"}
_HARMLESS_PACKAGES |= {"timm", "torch", "yacs"}


class StandIn:
    """What takes the place of an object of a class, or of a call of a function, that was named in a pickle."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __call__(self, *_: Any, **__: Any) -> "StandIn":
        """Itself, whatever is asked of it."""
        return self

    def _ignore(self, *_: Any) -> None:
        pass

    __setstate__ = __setitem__ = append = extend = add = _ignore


class _Fixed:
    """What no operation of a pickle may change."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it changes what tensors are made of")


@dataclass(frozen=True)
class Storage(_Fixed):
    """Numbers in the file that one or more tensors are made of."""

    key: str
    dtype: np.dtype
    count: int

    @property
    def size(self) -> int:
        """In bytes."""
        return self.count * self.dtype.itemsize


@dataclass(frozen=True)
class StoredTensor(_Fixed):
    """A tensor that has not been read yet. Whether its storage has room for it is checked when it is."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Mapping(dict):
    """What stands for an ``OrderedDict``; the attributes of a state dict's are left out."""

    def __setstate__(self, state: Any) -> None:
        pass


@dataclass(frozen=True)
class _StorageType(_Fixed):
    """What stands for ``torch.FloatStorage`` and the like."""

    dtype: np.dtype


@dataclass(frozen=True)
class _Maker(_Fixed):
    """What stands for one of the functions that make tensors of storages."""

    make: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        return self.make(*arguments)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Any:
    known = isinstance(storage, Storage) and isinstance(shape, tuple) and isinstance(strides, tuple)
    if not known or len(shape) != len(strides):
        return StandIn()
    if not all(isinstance(size, int) and size >= 0 for size in (offset, *shape, *strides)):
        return StandIn()
    return StoredTensor(storage, offset, shape, strides)


def _of_subclass(make: Any, _: Any, arguments: Any, *__: Any) -> Any:
    return make(*arguments) if isinstance(make, _Maker) else StandIn()


_MAKERS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _Mapping,
    "torch._tensor._rebuild_from_type_v2": _of_subclass,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
}


class InertUnpickler(pickle.Unpickler):
    """Makes tensors that are still to be read, plain values and stand-ins; looks nothing up and calls nothing else."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, encoding="utf-8")
        self.unknown: set[str] = set()
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        """What takes the place of a name; a new one each time, so that no file leaves anything behind."""
        if module.startswith("torch") and name in _DTYPES:
            return _StorageType(np.dtype(_DTYPES[name]))
        if f"{module}.{name}" in _MAKERS:
            return _Maker(_MAKERS[f"{module}.{name}"])
        if module.split(".")[0] not in _HARMLESS_PACKAGES and name not in _HARMLESS.get(module, ()):
            self.unknown.add(f"{module}.{name}")
        return type(name, (StandIn,), {"__module__": module})

    def persistent_load(self, saved: Any) -> Any:
        """A storage, as a pickle of ``torch.save`` refers to it."""
        kind, type_, key, _, count, *_ = saved
        if kind != "storage" or not isinstance(type_, _StorageType) or not isinstance(key, str):
            return StandIn()
        return self.storages.setdefault(key, Storage(key, type_.dtype, int(count)))
