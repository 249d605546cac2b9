"""Reading ``.pth`` and ``.pt`` files without PyTorch, and without running anything that is in them.

Both formats of ``torch.save`` are read: archives, and the stream that was written before PyTorch 1.6. Tensors are read
from the file one by one, when they are asked for: the state of an optimizer costs nothing.
"""

import struct
import zipfile
from typing import IO, Any

import numpy as np

from maerec_jax.interop.inert_pickles import InertUnpickler, Storage, StoredTensor

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_STRIDE = struct.Struct("<q")


class UnreadableError(Exception):
    """A file that is cut, damaged, or of another format. The message says what is wrong, but not with what file."""


class TorchFile:
    """A file that ``torch.save`` wrote; it has to stay open for as long as tensors are read.

    Raises ``UnreadableError`` where it is cut, damaged, or something else.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._archive: zipfile.ZipFile | None = None
        self._places: dict[str, int] = {}  # where storages begin in a stream
        self._folder, self._order = "", "<"
        self._kept: dict[str, np.ndarray] = {}
        try:
            self.content, unpickler = self._open()
            """What was saved: ``StoredTensor``, plain Python values and ``StandIn``."""
            self.unknown = sorted(unpickler.unknown)
            """The names of functions and classes that no training library is known to save. None was looked up."""
        except (UnreadableError, MemoryError):
            raise
        except Exception as error:  # of a damaged pickle whatever its operations raise
            raise UnreadableError(f"is it truncated, damaged or in another format? ({_first_line(error)})") from error

    def _open(self) -> tuple[Any, InertUnpickler]:
        if not zipfile.is_zipfile(self._file):
            self._file.seek(0)
            if self._file.read(4) == b"PK\x03\x04":
                raise UnreadableError("the archive is truncated: download it again")
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
            unpickler = InertUnpickler(file)
            return unpickler.load(), unpickler

    def _open_stream(self) -> tuple[Any, InertUnpickler]:
        """What PyTorch wrote before 1.6: three headers, the pickle, the order of the storages, and the storages."""
        if InertUnpickler(self._file).load() != _LEGACY_MAGIC:
            raise UnreadableError("a pickle that torch.save did not write")
        version, system = InertUnpickler(self._file).load(), InertUnpickler(self._file).load()
        if version != 1001 or not system.get("little_endian", True):
            raise UnreadableError("written by another version of PyTorch: load and save it again with a newer one")
        unpickler = InertUnpickler(self._file)
        content = unpickler.load()
        for key in InertUnpickler(self._file).load():
            storage = unpickler.storages[key]
            (count,) = _LEGACY_STRIDE.unpack(self._file.read(_LEGACY_STRIDE.size))
            if count != storage.count:
                raise UnreadableError(f"storage {key} has {count:,} numbers instead of {storage.count:,}")
            self._places[key] = self._file.tell()
            self._file.seek(storage.size, 1)
        return content, unpickler

    def read(self, tensor: StoredTensor) -> np.ndarray:
        """The numbers of a tensor, C-contiguous and in this machine's byte order.

        Raises ``UnreadableError`` where the file does not hold them.
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
                if self._archive is not None:
                    data = self._archive.read(f"{self._folder}data/{storage.key}")
                else:
                    self._file.seek(self._places[storage.key])
                    data = self._file.read(storage.size)
            except (OSError, KeyError, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
                raise UnreadableError(f"damaged ({_first_line(error)})") from error
            if len(data) < storage.size:
                raise UnreadableError(f"truncated: {len(data):,} of {storage.size:,} bytes are there")
            values = np.frombuffer(data, storage.dtype, storage.count)
            self._kept[storage.key] = values.byteswap() if self._order == ">" else values
        return self._kept[storage.key]


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
