"""Reading ``.pth`` and ``.pt`` files without PyTorch, and without running anything that is in them.

``torch.save`` writes a pickle, which can name any function of any module and have it called. Here no name is ever
looked up: the few that make up tensors are known by their spelling, and every other becomes a stand-in that takes
whatever it is given and does nothing. So what is read are tensors and plain Python values; a file whose pickle names
something that no training library puts beside weights is refused all the same (``TorchFile.unknown``).

Both formats of ``torch.save`` are read: archives, and the stream that was written before PyTorch 1.6. Tensors are read
from the file one by one, when they are asked for: the state of an optimizer costs nothing.
"""

import pickle
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
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

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_STRIDE = struct.Struct("<q")


class UnreadableError(Exception):
    """A file that is cut, damaged, or of another format. The message says what is wrong, but not with what file."""


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


class _Maker(_Fixed):
    """What stands for one of the functions that make tensors of storages."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        return self._make(*arguments)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Any:
    known = isinstance(storage, Storage) and isinstance(shape, tuple) and isinstance(strides, tuple)
    if not known or len(shape) != len(strides):
        return StandIn()
    if not all(isinstance(size, int) and size >= 0 for size in (offset, *shape, *strides)):
        return StandIn()
    return StoredTensor(storage, offset, shape, strides)


def _of_subclass(make: Any, _: Any, arguments: Any, *__: Any) -> Any:
    return make(*arguments) if isinstance(make, _Maker) else StandIn()


class _Unpickler(pickle.Unpickler):
    """Makes tensors that are still to be read, plain values and stand-ins; looks nothing up and calls nothing else."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, encoding="utf-8")
        self.unknown: set[str] = set()
        self.storages: dict[str, Storage] = {}
        self._found: dict[tuple[str, str], Any] = {}

    def find_class(self, module: str, name: str) -> Any:
        """What takes the place of a name. Each file has its own, so that none leaves anything behind."""
        if (module, name) not in self._found:
            self._found[module, name] = self._make(module, name)
        return self._found[module, name]

    def _make(self, module: str, name: str) -> Any:
        if module.startswith("torch") and name in _DTYPES:
            return _StorageType(np.dtype(_DTYPES[name]))
        if module == "torch._utils" and name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
            return _Maker(_tensor)
        if module == "torch._utils" and name.startswith("_rebuild_parameter"):
            return _Maker(lambda data, *_: data)
        if (module, name) == ("torch._tensor", "_rebuild_from_type_v2"):
            return _Maker(_of_subclass)
        if (module, name) == ("collections", "OrderedDict"):
            return _Maker(_Mapping)
        if module.split(".")[0] not in _HARMLESS_PACKAGES and name not in _HARMLESS.get(module, ()):
            self.unknown.add(f"{module}.{name}")
        return type(name, (StandIn,), {"__module__": module})

    def persistent_load(self, saved: Any) -> Any:
        """A storage, as a pickle of ``torch.save`` refers to it."""
        kind, type_, key, _, count, *_ = saved
        if kind != "storage" or not isinstance(type_, _StorageType) or not isinstance(key, str):
            return StandIn()
        return self.storages.setdefault(key, Storage(key, type_.dtype, int(count)))


class TorchFile:
    """A file that ``torch.save`` wrote, open for reading.

    Args:
      path: the file.

    Raises:
      UnreadableError: where it is cut, damaged, or something else.
      OSError: where it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._archive: zipfile.ZipFile | None = None
        self._places: dict[str, int] = {}  # where storages begin in a stream
        self._folder, self._order = "", "<"
        self._kept: dict[str, np.ndarray] = {}
        try:
            self.content, unpickler = self._open()
            """What was saved: ``StoredTensor``, plain Python values and ``StandIn``."""
            self.unknown = sorted(unpickler.unknown)
            """The names of functions and classes that no training library is known to save. None was looked up."""
        except Exception as error:  # of a damaged pickle whatever its operations raise
            self.close()
            if isinstance(error, UnreadableError | MemoryError):
                raise
            raise UnreadableError(f"is it cut, damaged or of another format? ({_first_line(error)})") from error
        except BaseException:
            self.close()
            raise

    def _open(self) -> tuple[Any, _Unpickler]:
        if not zipfile.is_zipfile(self._file):
            self._file.seek(0)
            if self._file.read(4) == b"PK\x03\x04":
                raise UnreadableError("the end of the archive is missing: it was cut, fetch it again")
            self._file.seek(0)
            return self._open_stream()
        self._archive = zipfile.ZipFile(self._file)
        names = self._archive.namelist()
        pickles = [name for name in names if name.endswith("/data.pkl") or name == "data.pkl"]
        if len(pickles) != 1 or any(name.endswith("constants.pkl") for name in names):
            raise UnreadableError("an archive, but not of weights (TorchScript?): save the model's state_dict()")
        self._folder = pickles[0].removesuffix("data.pkl")
        if f"{self._folder}byteorder" in names:
            self._order = ">" if self._archive.read(f"{self._folder}byteorder") == b"big" else "<"
        with self._archive.open(pickles[0]) as file:
            unpickler = _Unpickler(file)
            return unpickler.load(), unpickler

    def _open_stream(self) -> tuple[Any, _Unpickler]:
        """What PyTorch wrote before 1.6: three headers, the pickle, the order of the storages, and the storages."""
        if _Unpickler(self._file).load() != _LEGACY_MAGIC:
            raise UnreadableError("a pickle, but none that torch.save wrote")
        version, system = _Unpickler(self._file).load(), _Unpickler(self._file).load()
        if version != 1001 or not system.get("little_endian", True):
            raise UnreadableError("written by another version of PyTorch: load and save it again with a newer one")
        unpickler = _Unpickler(self._file)
        content = unpickler.load()
        for key in _Unpickler(self._file).load():
            storage = unpickler.storages[key]
            (count,) = _LEGACY_STRIDE.unpack(self._file.read(_LEGACY_STRIDE.size))
            if count != storage.count:
                raise UnreadableError(f"storage {key} has {count:,} numbers instead of {storage.count:,}")
            self._places[key] = self._file.tell()
            self._file.seek(count * storage.dtype.itemsize, 1)
        return content, unpickler

    def read(self, tensor: StoredTensor) -> np.ndarray:
        """The numbers of a tensor, C-contiguous and in this machine's byte order.

        Raises:
          UnreadableError: where the file does not hold them.
        """
        shape, strides = tensor.shape, tensor.strides
        values = self._values(tensor.storage)
        last = tensor.offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        if int(np.prod(shape, dtype=object)) > len(values) or (0 not in shape and last >= len(values)):
            raise UnreadableError(f"{shape} does not lie in its {len(values):,} numbers")
        steps = tuple(stride * values.itemsize for stride in strides)
        array = np.lib.stride_tricks.as_strided(values[tensor.offset :], shape, steps)
        return array if array.flags.c_contiguous else array.copy()

    def _values(self, storage: Storage) -> np.ndarray:
        """All numbers of a storage; those that several tensors share are read once."""
        if storage.key not in self._kept:
            try:
                data = self._bytes(storage)
            except (OSError, KeyError, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
                raise UnreadableError(f"damaged ({_first_line(error)})") from error
            if len(data) < storage.count * storage.dtype.itemsize:
                raise UnreadableError(
                    f"cut: {len(data):,} of {storage.count * storage.dtype.itemsize:,} bytes are there"
                )
            values = np.frombuffer(data, storage.dtype, storage.count)
            self._kept[storage.key] = values.byteswap() if self._order == ">" else values
        return self._kept[storage.key]

    def _bytes(self, storage: Storage) -> bytes:
        if self._archive is not None:
            return self._archive.read(f"{self._folder}data/{storage.key}")
        self._file.seek(self._places[storage.key])
        return self._file.read(storage.count * storage.dtype.itemsize)

    def close(self) -> None:
        """Close the file."""
        self._kept.clear()
        if self._archive is not None:
            self._archive.close()
        self._file.close()

    def __enter__(self) -> "TorchFile":
        """The open file."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
