"""Putting finished files where they belong: in a folder, or in a bucket (``gs://``) by way of a temporary folder."""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from etils import epath

from data_pipelines.errors import DataError

_WRITING = "writing-"  # folders of files that are being written


def is_bucket(place: epath.PathLike) -> bool:
    """Whether files get there by copying only."""
    return "://" in os.fspath(place)


def write_whole(file: epath.Path, text: str) -> None:
    """Write a small text file, over what is there: a process that is killed meanwhile leaves no half of it."""
    fresh = file if is_bucket(file) else file.with_name(f"{file.name}.new")  # buckets have no halves
    fresh.write_text(text)
    if fresh != file:
        fresh.replace(file)


@contextmanager
def staging(folder: epath.Path) -> Iterator[Path]:
    """A new local folder for files that are to be published in ``folder`` or beside it; it is removed in the end."""
    where = None if is_bucket(folder) else os.fspath(folder)
    with tempfile.TemporaryDirectory(prefix=_WRITING, dir=where) as name:
        yield Path(name)


def remove_leftovers(folder: epath.Path) -> None:
    """Remove what killed processes have left in ``folder``, where ``staging`` was to put it."""
    if not is_bucket(folder):
        for path in Path(folder).glob(f"{_WRITING}*"):
            shutil.rmtree(path)


def publish(file: Path, place: epath.Path) -> None:
    """Move a finished local file to ``place``, over what is there: at once, or not at all."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
    if not is_bucket(place):
        os.replace(file, place)
        return
    # Objects appear in a bucket when all of them has been sent.
    epath.Path(file).copy(place, overwrite=True)
    if place.stat().length != size:
        raise DataError(f"{place}: arrived with {place.stat().length:,} of {size:,} bytes; repeat the command")


def checksum(path: Path) -> str:
    """The SHA-256 of a local file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def held(folder: epath.Path) -> Iterator[None]:
    """Keep other processes of this machine out of ``folder``. Raises ``DataError`` where one is at work there."""
    if is_bucket(folder):
        yield
        return
    with (Path(folder) / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{folder}: another process is working here; wait for it, or stop it") from None
        except OSError:
            pass  # some network file systems have no locks
        yield
