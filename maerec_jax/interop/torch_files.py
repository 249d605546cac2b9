"""Reading ``.pth`` and ``.pt`` files without PyTorch, and without running anything that is in them.

Both formats of ``torch.save`` are read: archives, and the stream that was written before PyTorch 1.6. Tensors are read
from the file one by one, when they are asked for: the state of an optimizer costs nothing. Whatever a file declares of
itself is compared with its size before memory is taken for it.
"""

import io
import struct
import zipfile
from typing import IO, Any

import numpy as np

from maerec_jax.interop.inert_pickles import InertUnpickler, Storage, StoredTensor

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_STRIDE = struct.Struct("<q")
# Operations that the pickle of a small file may have, and to how many bytes of a larger one there may be one more.
_OPERATIONS, _BYTES_AN_OPERATION = 200_000, 1000
_DIRECTORY = 4_000_000  # bytes of the list of an archive's members: over 30,000 of them


class UnreadableError(Exception):
    """A file that is cut, damaged, or of another format. The message says what is wrong, but not with what file."""


class _Bounded:
    """An open file that sets no memory aside for more than it has: Python's own do for as much as they are asked."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.size = self.most = file.seek(0, io.SEEK_END)  # in bytes; and how many may be read at once
        self.seek, self.tell, self.seekable, self.readline = file.seek, file.tell, file.seekable, file.readline
        self.seek(0)

    def read(self, size: int = -1) -> bytes:
        left = max(self.size - self.tell(), 0)
        size = left if size < 0 else min(size, left)
        if size > self.most:
            raise UnreadableError("an archive with more members than a file of weights needs")
        return self._file.read(size)


class TorchFile:
    """A file that ``torch.save`` wrote; it has to stay open for as long as tensors are read.

    Raises ``UnreadableError`` where it is cut, damaged, or something else.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = _Bounded(file)
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
        declared = sum(storage.size for storage in unpickler.storages.values())
        if declared > self._file.size:
            raise UnreadableError(
                f"its tensors should have {declared:,} bytes, and it has {self._file.size:,}: is it truncated?"
            )

    def _open(self) -> tuple[Any, InertUnpickler]:
        if not zipfile.is_zipfile(self._file):
            self._file.seek(0)
            if self._file.read(4) == b"PK\x03\x04":
                raise UnreadableError("the archive is truncated: download it again")
            self._file.seek(0)
            return self._open_stream()
        self._file.most = _DIRECTORY
        self._archive = zipfile.ZipFile(self._file)
        self._file.most = self._file.size
        names = self._archive.namelist()
        pickles = [name for name in names if name.endswith("/data.pkl") or name == "data.pkl"]
        if len(pickles) != 1 or any(name.endswith("constants.pkl") for name in names):
            raise UnreadableError("an archive, but not of weights (TorchScript?): save the model's state_dict()")
        self._folder = pickles[0].removesuffix("data.pkl")
        if f"{self._folder}byteorder" in names:
            self._order = ">" if self._member("byteorder") == b"big" else "<"
        unpickler = self._unpickler(io.BytesIO(self._member("data.pkl")))
        return unpickler.load(), unpickler

    def _unpickler(self, file: Any) -> InertUnpickler:
        return InertUnpickler(file, _OPERATIONS + self._file.size // _BYTES_AN_OPERATION)

    def _member(self, name: str, size: int = -1) -> bytes:
        """The first bytes of a member of the archive, by default all."""
        assert self._archive is not None
        member = self._archive.getinfo(self._folder + name)
        if member.compress_type != zipfile.ZIP_STORED:
            raise UnreadableError("its archive is compressed, as no file of torch.save is: save it with PyTorch again")
        if member.file_size > self._file.size:
            raise UnreadableError(f"{member.filename} is larger than the whole file: is it truncated or damaged?")
        with self._archive.open(member) as file:
            return file.read(size)

    def _open_stream(self) -> tuple[Any, InertUnpickler]:
        """What PyTorch wrote before 1.6: three headers, the pickle, the order of the storages, and the storages."""
        if self._unpickler(self._file).load() != _LEGACY_MAGIC:
            raise UnreadableError("a pickle that torch.save did not write")
        version, system = self._unpickler(self._file).load(), self._unpickler(self._file).load()
        if version != 1001 or not system.get("little_endian", True):
            raise UnreadableError("written by another version of PyTorch: load and save it again with a newer one")
        unpickler = self._unpickler(self._file)
        content = unpickler.load()
        for key in self._unpickler(self._file).load():
            if not isinstance(key, str):  # others may take long to look up
                raise UnreadableError("damaged: the names of its storages are no texts")
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
                    data = self._member(f"data/{storage.key}", storage.size)
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
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
