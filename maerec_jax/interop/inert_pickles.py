"""Pickles of ``torch.save``, loaded without running anything that they name.

A pickle can name any function of any module and have it called. Here no name is ever looked up: the few that make up
tensors are known by their spelling, and every other becomes a stand-in that takes whatever it is given and does
nothing. So what comes out are tensors that are still to be read, and plain Python values.

Nor may a file take long or much memory, however little of it there is: Python's own unpickler in Python, which sets
nothing aside for what a file merely declares, gets its operations counted, and those that may be slow looked at first.
"""

import pickle
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

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
# More than this no file of weights has.
_MOST_NAMES, _LONGEST_NAME = 1000, 500
_MOST_PARTS, _MOST_AXES = 100, 32
_LARGEST = 2**56


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
    if not known or len(shape) != len(strides) or len(shape) > _MOST_AXES:
        return StandIn()
    if not all(isinstance(size, int) and 0 <= size < _LARGEST for size in (offset, *shape, *strides)):
        return StandIn()
    return StoredTensor(storage, offset, shape, strides)


def _of_subclass(make: Any, _: Any, arguments: Any, *__: Any) -> Any:
    if not isinstance(make, _Maker) or not isinstance(arguments, tuple):
        return StandIn()
    _check_length(arguments)
    return make(*arguments)


_MAKERS: dict[str, Callable[..., Any]] = {
    "torch._tensor._rebuild_from_type_v2": _of_subclass,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
}

# Which objects on the stack an operation hashes, and which it takes apart as the arguments of a call.
_EVERY_SECOND = slice(None, None, 2)
_HASHED = {pickle.SETITEM: slice(-2, -1), pickle.SETITEMS: _EVERY_SECOND, pickle.DICT: _EVERY_SECOND}
_HASHED |= {pickle.ADDITEMS: slice(None), pickle.FROZENSET: slice(None)}
_ARGUMENTS = {pickle.REDUCE: slice(-1, None), pickle.NEWOBJ: slice(-1, None), pickle.NEWOBJ_EX: slice(-2, None)}


def _check_key(key: Any) -> None:
    """Refuse what takes long to hash, as tuples of tuples may, or to tell from others, as large whole numbers may."""
    parts = key if isinstance(key, tuple) else (key,)
    _check_length(parts)
    if any(isinstance(part, tuple | frozenset) or (isinstance(part, int) and abs(part) >= _LARGEST) for part in parts):
        raise pickle.UnpicklingError("it has keys that no file of weights needs")


def _check_length(arguments: Any) -> None:
    if len(arguments) > _MOST_PARTS:
        raise pickle.UnpicklingError(f"it has a call or a key of {len(arguments):,} parts")


def _guarded(code: bytes, operation: Callable[[Any], None]) -> Callable[[Any], None]:
    """An operation that is counted, and whose operands are looked at first."""
    hashed, arguments = _HASHED.get(code, slice(0)), _ARGUMENTS.get(code, slice(0))

    def run(unpickler: Any) -> None:
        unpickler.count()
        for key in unpickler.stack[hashed]:
            _check_key(key)
        for given in unpickler.stack[arguments]:
            _check_length(given)
        operation(unpickler)

    return run


class Readable(Protocol):
    """A file of bytes, which sets no more memory aside than there is to read."""

    def read(self, size: int, /) -> bytes:
        """So many bytes, or as many as are left."""

    def readline(self) -> bytes:
        """The bytes up to the end of a line."""


class InertUnpickler(pickle._Unpickler):
    """Makes tensors that are still to be read, plain values and stand-ins; looks nothing up and calls nothing else.

    ``load`` raises whatever the operations of a damaged pickle raise, and ``pickle.UnpicklingError`` after
    ``operations`` of them.
    """

    # Without two operations that no file of weights has: they set aside what a file declares, or want other buffers.
    dispatch: ClassVar[dict[int, Any]] = {
        code: _guarded(bytes([code]), operation)
        for code, operation in pickle._Unpickler.dispatch.items()
        if bytes([code]) not in (pickle.BYTEARRAY8, pickle.NEXT_BUFFER)
    }

    def __init__(self, file: Readable, operations: int) -> None:
        super().__init__(file, encoding="utf-8")
        self.unknown: set[str] = set()
        self.storages: dict[str, Storage] = {}
        self._named: dict[str, Any] = {}
        self._left = operations

    def count(self, operations: int = 1) -> None:
        """Count what takes as long as some operations."""
        self._left -= operations
        if self._left < 0:
            raise pickle.UnpicklingError("it has more operations than a file of weights of its size needs")

    def find_class(self, module: str, name: str) -> Any:
        """What takes the place of a name, for this file alone: none leaves anything behind."""
        if len(module) + len(name) > _LONGEST_NAME or len(self._named) >= _MOST_NAMES:
            raise pickle.UnpicklingError("it names more functions and classes than a file of weights needs")
        full = f"{module}.{name}"
        if full not in self._named:
            self._named[full] = self._stand_in(module, name)
        return self._named[full]

    def _stand_in(self, module: str, name: str) -> Any:
        if module.startswith("torch") and name in _DTYPES:
            return _StorageType(np.dtype(_DTYPES[name]))
        if (module, name) == ("collections", "OrderedDict"):
            return _Maker(self._mapping)
        if f"{module}.{name}" in _MAKERS:
            return _Maker(_MAKERS[f"{module}.{name}"])
        if module.split(".")[0] not in _HARMLESS_PACKAGES and name not in _HARMLESS.get(module, ()):
            self.unknown.add(f"{module}.{name}")
        return type(name, (StandIn,), {"__module__": module})

    def _mapping(self, pairs: Iterable[Any] = ()) -> _Mapping:
        """An ``OrderedDict``, which Python 2 saved with its items."""
        items = [(key, value) for key, value in pairs]
        self.count(len(items))
        for key, _ in items:
            _check_key(key)
        return _Mapping(items)

    def persistent_load(self, saved: Any) -> Any:
        """A storage, as a pickle of ``torch.save`` refers to it."""
        if not isinstance(saved, tuple) or len(saved) < 5:
            return StandIn()
        kind, type_, key, _, count = saved[:5]
        if kind != "storage" or not isinstance(type_, _StorageType) or not isinstance(key, str):
            return StandIn()
        if not isinstance(count, int) or not 0 <= count < _LARGEST:
            return StandIn()
        return self.storages.setdefault(key, Storage(key, type_.dtype, count))
