"""Word images in an LMDB: ``num-samples``, ``image-%09d`` counted from 1 and, where labelled, ``label-%09d``."""

import os
import threading
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import lmdb

from data_pipelines.packed_strings import PackedStrings
from data_pipelines.records import DataError, MissingError, Record

_UNUSED = 2**20  # bytes of unused pages that may be missing at the end of a data.mdb

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
                    raise DataError(f"{path}: cannot be opened as an LMDB ({error}); copy it anew") from error
                # To read past the end of a file that is cut off would end the process without a word. A sound file may
                # lack a few pages at its end that were never used.
                size = os.path.getsize(os.path.join(path, "data.mdb"))
                needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
                if size + _UNUSED < needed:
                    environment.close()
                    raise DataError(f"{path}: data.mdb is cut off at {size:,} of {needed:,} bytes; copy it anew")
                _environments[path] = environment
            transactions[path] = _environments[path].begin()
    return transactions[path]


def _forget_environments() -> None:
    """Make a forked process open its own environments: it must not use its parent's."""
    global _opening, _of_thread
    for environment in _environments.values():
        environment.close()
    _environments.clear()
    _opening, _of_thread = threading.Lock(), threading.local()


os.register_at_fork(after_in_child=_forget_environments)


def stated_count(path: Path) -> int:
    """The number of records that an LMDB says it holds. Raises ``DataError`` where it says none."""
    count = _transaction(os.path.realpath(path)).get(b"num-samples")
    if count is None:
        raise DataError(f"{path}: has no key num-samples; give an LMDB with the keys of Union14M-U")
    if not bytes(count).isdigit() or int(count) == 0:
        raise DataError(f"{path}: num-samples is {bytes(count)!r}; expected the number of records, at least 1")
    return int(count)


def last_image(path: Path) -> int:
    """The number in the last image key that an LMDB holds, 0 where it holds none. Looks at that key only.

    Raises ``DataError`` where it cannot be opened.
    """
    with _transaction(os.path.realpath(path)).cursor() as cursor:
        found = cursor.prev() if cursor.set_range(b"image-:") else cursor.last()  # ":" is next after "9"
        key = bytes(cursor.key()) if found else b""
    number = key.removeprefix(b"image-")
    return int(number) if number != key and number.isdigit() else 0


@dataclass(frozen=True)
class LmdbSource:
    """The source of a ``LmdbWords``. Holds only the path and the count; opens the LMDB once in each process."""

    path: str
    """The folder with data.mdb, with links followed (one LMDB has one path)."""
    title: str
    """What messages call this LMDB."""
    size: int
    """Number of records."""
    labelled: bool
    """Whether records have labels."""

    @classmethod
    def open(cls, path: Path, title: str, labelled: bool | None) -> "LmdbSource":
        """Read the count. Raises ``DataError`` where there is none, or the last records are not there."""
        real_path = os.path.realpath(path)
        count = stated_count(path)
        if labelled is None:
            labelled = _transaction(real_path).get(b"label-%09d" % 1) is not None
        source = cls(real_path, title, count, labelled)
        for index in (0, source.size - 1):
            source._get("image", index)
            if labelled:
                source.text(index)
        return source

    def __len__(self) -> int:
        """Number of records."""
        return self.size

    def __getitem__(self, index: int) -> Record:
        """Read image ``index`` (counted from 0) and its label.

        Raises ``MissingError`` where a key is missing, and ``DataError`` for a label that is not UTF-8.
        """
        return Record(self._get("image", index), self.text(index))

    def text(self, index: int) -> str | None:
        """The label of record ``index``; None in an unlabelled LMDB. Raises what reading the record raises."""
        if not self.labelled:
            return None
        label = self._get("label", index)
        try:
            return label.decode()
        except UnicodeDecodeError as error:
            raise DataError(f"{self.path}: label-{index + 1:09d} is not UTF-8; correct or remove it") from error

    def name(self, index: int) -> str:
        """The LMDB and the key of record ``index``."""
        return f"{self.title}:image-{index + 1:09d}"

    @cached_property
    def labels(self) -> PackedStrings | None:
        """All labels, read at once on first use; None in an unlabelled LMDB."""
        if not self.labelled:
            return None
        return PackedStrings.pack(self.text(index) or "" for index in range(self.size))

    def __getstate__(self) -> dict[str, object]:
        """What a worker needs: not the cached labels."""
        return {name: value for name, value in self.__dict__.items() if name != "labels"}

    def _get(self, kind: str, index: int) -> bytes:
        if not 0 <= index < self.size:
            raise IndexError(f"record {index} of {self.size}")
        key = f"{kind}-{index + 1:09d}"
        try:
            value = _transaction(self.path).get(key.encode())
        except lmdb.Error as error:
            raise DataError(f"{self.path}: key {key} cannot be read ({error}); copy the LMDB anew") from error
        if value is None:
            raise MissingError(f"{self.path}: key {key} is missing (of {self.size} records); copy the LMDB anew")
        return bytes(value)  # lmdb's types allow for views; this is no copy
