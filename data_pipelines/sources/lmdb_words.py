"""Word images in an LMDB: ``num-samples``, ``image-%09d`` counted from 1 and, where labelled, ``label-%09d``."""

import os
import subprocess
import sys
import threading
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

import lmdb

from data_pipelines.charset import composed
from data_pipelines.errors import DataError, MissingError, RecordError
from data_pipelines.sources.records import Record

_UNUSED = 2**20  # bytes of unused pages that may be missing at the end of a data.mdb
_TOUCH_EVERYTHING = """
import sys, lmdb
with lmdb.open(sys.argv[1], readonly=True, lock=False).begin(buffers=True) as transaction:
    for _, value in transaction.cursor():
        value[-1:].tobytes()
"""

# LMDB allows an environment to be open once in a process.
_environments: dict[str, lmdb.Environment] = {}
_opening = threading.Lock()
_of_thread = threading.local()


def _transaction(path: str) -> lmdb.Transaction:
    """This thread's read transaction on the LMDB at ``path``, opened on first use."""
    transactions: dict[str, lmdb.Transaction] = _of_thread.__dict__.setdefault("transactions", {})
    if path not in transactions:
        with _opening:
            if path not in _environments:
                try:
                    # Nobody writes while we read, so no lock file is needed (the data may be on a read-only disk).
                    environment = lmdb.open(path, readonly=True, lock=False, readahead=False)
                except lmdb.Error as error:
                    raise DataError(f"{path}: cannot be opened as an LMDB ({error}); copy it again") from error
                size = os.path.getsize(os.path.join(path, "data.mdb"))
                needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
                if size < needed and not _readable_without(needed - size, path):
                    environment.close()
                    raise DataError(f"{path}: data.mdb is cut off at {size:,} of {needed:,} bytes; copy it again")
                _environments[path] = environment
            transactions[path] = _environments[path].begin()
    return transactions[path]


def _damage(path: str, what: str, error: lmdb.Error) -> RecordError:
    """Of a page that LMDB met. Its transaction reads nothing any more; a new one reads all other pages."""
    _of_thread.transactions.pop(path).abort()
    return RecordError(f"{path}: {what} cannot be read ({error}); copy the LMDB again")


def _value(path: str, key: str) -> bytes | None:
    """What stands under a key. Raises ``RecordError`` for a damaged page, another ``DataError`` for a damaged LMDB."""
    try:
        value = _transaction(path).get(key.encode())
    except lmdb.Error as error:
        raise _damage(path, f"key {key}", error) from error
    return None if value is None else bytes(value)  # lmdb's types allow for views; this is no copy


def _readable_without(missing: int, path: str) -> bool:
    """Whether an LMDB whose file lacks bytes at its end has all of its values.

    To read past the end of a file ends the process without a word: a child tries it. A sound file may lack a few pages
    that were never used. Worker processes get sources that the main process has opened, and do not try again.
    """
    if missing > _UNUSED:
        return False
    if parent_process() is not None:
        return True
    return subprocess.run([sys.executable, "-c", _TOUCH_EVERYTHING, path], capture_output=True).returncode == 0


def _forget_environments() -> None:
    """Make a forked process open its own environments: it must not use its parent's."""
    global _opening, _of_thread
    for environment in _environments.values():
        environment.close()
    _environments.clear()
    _opening, _of_thread = threading.Lock(), threading.local()


os.register_at_fork(after_in_child=_forget_environments)


def stated_count(path: Path) -> int | None:
    """The number of records that an LMDB says it holds; None where it has no ``num-samples``.

    Raises ``DataError`` for a ``num-samples`` that is no number, or 0, and where the LMDB cannot be opened.
    """
    count = _value(os.path.realpath(path), "num-samples")
    if count is not None and (not count.isdigit() or int(count) == 0):
        raise DataError(f"{path}: num-samples is {count!r}; expected the number of records, at least 1")
    return None if count is None else int(count)


def images_of(path: Path, stated: int | None) -> range:
    """The numbers of the images that an LMDB holds by its first and last image key; empty where it has none.

    They are counted from 1; or from 0, where there is an image 0 and the number ``stated`` says so or is not known.
    Looks at those keys only. Raises ``DataError`` where it cannot be opened.
    """
    real_path = os.path.realpath(path)
    try:
        with _transaction(real_path).cursor() as cursor:
            found = cursor.prev() if cursor.set_range(b"image-:") else cursor.last()  # ":" is next after "9"
            key = bytes(cursor.key()) if found else b""
    except lmdb.Error as error:
        raise _damage(real_path, "the last key", error) from error
    number = key.removeprefix(b"image-")
    if number == key or not number.isdigit() or len(number) != 9:
        return range(0)
    last = int(number)
    from_0 = stated in (None, last + 1) and _value(real_path, "image-000000000") is not None
    return range(0 if from_0 else 1, last + 1)


def has_labels(path: Path) -> bool:
    """Whether an LMDB holds the label of any record. Raises ``DataError`` where it cannot be opened."""
    real_path = os.path.realpath(path)
    try:
        with _transaction(real_path).cursor() as cursor:
            return cursor.set_range(b"label-") and bytes(cursor.key()).startswith(b"label-")
    except lmdb.Error as error:
        raise _damage(real_path, "the first label", error) from error


@dataclass(frozen=True)
class LmdbSource:
    """The source of a ``LmdbWords``. Holds only the path and the count; opens the LMDB once in each process."""

    path: str  # the folder with data.mdb, with links followed (one LMDB has one path)
    title: str  # what messages call this LMDB
    size: int  # number of records
    labelled: bool  # whether records have labels
    notes: tuple[str, ...] = ()  # what was decided about the number of records
    first: int = 1  # number of the first record in its keys

    @classmethod
    def open(cls, path: Path, title: str, labelled: bool | None) -> "LmdbSource":
        """Read the count, which is ``num-samples``, or without it the number of images up to the last one.

        Raises ``DataError`` where there is no image, the last ones are not there, or there is no label where there
        should be.
        """
        real_path = os.path.realpath(path)
        count = stated_count(path)
        images, note = images_of(path, count), ""
        if not images:
            raise DataError(f"{path}: has no keys image-000000001 and so on; give an LMDB with the keys of Union14M-U")
        first, last = images[0], images[-1]
        if count is None:
            note = f"{title}: has no num-samples; it holds {len(images):,} records by its last image"
        elif count > len(images):
            raise DataError(f"{path}: num-samples is {count}, but the last image is image-{last:09d}; copy it again")
        elif count < len(images):
            note = f"{title}: num-samples is {count}; the images after it, up to image-{last:09d}, are not used"
        elif not first:
            note = f"{title}: its records are counted from image-000000000"
        label = f"label-{first:09d}"
        has_labels = _value(real_path, label) is not None
        if labelled and not has_labels:
            raise DataError(f"{path}: key {label} is missing; choose an LMDB with labels")
        labelled = has_labels if labelled is None else labelled
        return cls(real_path, title, count or len(images), labelled, (note,) if note else (), first)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Record:
        """Raises ``MissingError`` for a missing key, ``RecordError`` for a damaged page or a label not in UTF-8."""
        return Record(self._get("image", index), self.text(index))

    def read(self, indices: Sequence[int]) -> list[Record]:
        """The records ``indices``, in their order, in half the time. Raises what reading one of them raises."""
        texts: list[str | None] = [None] * len(indices)
        with suppress(lmdb.Error, UnicodeDecodeError):
            get: Any = _transaction(self.path).get  # lmdb's types allow for views
            images = [get(b"image-%09d" % (index + self.first)) for index in indices]
            if self.labelled:
                texts = [composed(get(b"label-%09d" % (index + self.first), b"\xff").decode()) for index in indices]
            if None not in images and max(indices, default=0) < self.size:
                return list(map(Record, images, texts))
        return [self[index] for index in indices]  # one of them raises an error that names it

    def text(self, index: int) -> str | None:
        """The label of record ``index``; None in an unlabelled LMDB. Raises what reading the record raises."""
        stored = self.stored_text(index)
        return stored and composed(stored)

    def stored_text(self, index: int) -> str | None:
        """The label as the LMDB has it, in any Unicode form."""
        if not self.labelled:
            return None
        label = self._get("label", index)
        try:
            return label.decode()
        except UnicodeDecodeError as error:
            raise RecordError(f"{self.path}: {self._key('label', index)} is not UTF-8; correct or remove it") from error

    @property
    def sizes_file(self) -> str:
        """Where the sizes of its images may be kept."""
        return f"{self.path}.sizes.npz"

    def checksums(self, labelled: bool) -> tuple[int, int]:
        """The size of its file for its images, and the CRC-32 of its labels, which are read one after the other."""
        checksum = 0
        if labelled and self.labelled:
            try:
                with _transaction(self.path).cursor() as cursor:
                    cursor.set_range(b"label-")
                    for key, value in cursor.iternext():
                        if not bytes(key).startswith(b"label-"):
                            break
                        checksum = zlib.crc32(value, zlib.crc32(key, checksum))
            except lmdb.Error as error:
                _damage(self.path, "a label", error)  # not raised: that record is left out
        return os.path.getsize(os.path.join(self.path, "data.mdb")), checksum

    def name(self, index: int) -> str:
        """The LMDB and the key of record ``index``."""
        return f"{self.title}:{self._key('image', index)}"

    def _key(self, kind: str, index: int) -> str:
        return f"{kind}-{index + self.first:09d}"

    def _get(self, kind: str, index: int) -> bytes:
        if not 0 <= index < self.size:
            raise IndexError(f"record {index} of {self.size}")
        key = self._key(kind, index)
        value = _value(self.path, key)
        if value is None:
            raise MissingError(f"{self.path}: key {key} is missing (of {self.size} records); copy the LMDB again")
        return value
