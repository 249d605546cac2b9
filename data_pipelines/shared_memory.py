"""What processes have in memory together: batches on their way from worker processes, and semaphores.

Batches are files in ``/dev/shm``, or in the folder for temporary files where that is half full: containers have little
of it. All names begin with one that a lock marks as that of a process that lives, so that whoever comes next can remove
what killed processes have left. Otherwise it would stay until the machine is started anew.
"""

import atexit
import fcntl
import multiprocessing
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

_SHARED = Path("/dev/shm")
_KIND = "maerec-"
_LOCK = re.compile(rf"{_KIND}[0-9a-f]{{12}}\.lock")


@dataclass(frozen=True)
class Parcel:
    """A batch in a file."""

    path: str  # the file
    arrays: tuple[tuple[str, np.dtype, tuple[int, ...]], ...]  # name, dtype and shape of each, in the file's order

    @classmethod
    def pack(cls, batch: dict[str, np.ndarray], folders: Sequence[str]) -> "Parcel":
        """Write a batch to the first of ``folders`` that has room, or to the last. Raises ``OSError``."""
        arrays = tuple((name, array.dtype, array.shape) for name, array in batch.items())
        for folder in folders[:-1]:
            room = os.statvfs(folder)
            if 2 * room.f_bavail > room.f_blocks:
                with suppress(OSError):  # others may have been faster
                    return cls(_write(folder, batch), arrays)
        return cls(_write(folders[-1], batch), arrays)

    def unpack(self) -> dict[str, np.ndarray]:
        """Read the batch, and remove the file."""
        with open(self.path, "rb") as file:
            os.unlink(self.path)
            return {
                name: np.fromfile(file, dtype, int(np.prod(shape))).reshape(shape) for name, dtype, shape in self.arrays
            }


def _write(folder: str, batch: dict[str, np.ndarray]) -> str:
    """Write the bytes of arrays to a new file in a folder; returns its path."""
    path = os.path.join(folder, secrets.token_hex(8))
    try:
        with open(path, "wb") as file:
            for array in batch.values():
                file.write(np.ascontiguousarray(array).data)
    except OSError:
        with suppress(OSError):
            os.unlink(path)
        raise
    return path


def parcel_folders() -> tuple[str, ...]:
    """New folders for ``Parcel.pack``, to be removed by whoever asks for them, or else at the end of this process."""
    return tuple(tempfile.mkdtemp(prefix=f"{_own_name()}-", dir=place) for place in _places())


def own_place(name: str) -> Path:
    """Where this process may keep something under a name, for its worker processes."""
    return _places()[0] / f"{_own_name()}-{name}"


def full_shared_memory() -> str:
    """What to say where there is no room for the semaphores of worker processes."""
    size = f" ({shutil.disk_usage(_SHARED).total // 1024:,} kB)" if _SHARED.is_dir() else ""
    return (
        f"{_SHARED}{size} is full, and worker processes need some kilobytes of it: remove what is there, give the "
        "container more (docker run --shm-size 1g), or use 0 workers"
    )


def remove_leftovers() -> None:
    """Remove what processes that do not live any more have left."""
    places = _places()
    for lock in (path for path in places[0].iterdir() if _LOCK.fullmatch(path.name)):
        with suppress(OSError), lock.open() as file:  # another user's; or it is locked, and its process lives
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            names = f"{lock.stem}-*", f"sem.{lock.stem}-*"  # of folders and of semaphores
            for left in (path for place in places for name in names for path in place.glob(name)):
                if left.is_dir():
                    shutil.rmtree(left, ignore_errors=True)
                else:
                    left.unlink(missing_ok=True)
            lock.unlink(missing_ok=True)


def name_semaphores() -> None:
    """Let the names of all semaphores that this process makes from now on tell whose they are."""
    if _SHARED.is_dir():  # macOS allows for short names only, and has no such folder
        vars(multiprocessing.current_process())["_config"]["semprefix"] = f"/{_own_name()}"


@cache
def _own_name() -> str:
    """What the names of all that is this process's begin with; the lock is held until it ends."""
    remove_leftovers()
    name = f"{_KIND}{secrets.token_hex(6)}"
    fresh, lock = (_places()[0] / f"{name}.{ending}" for ending in ("new", "lock"))
    file = os.open(fresh, os.O_CREAT | os.O_WRONLY, 0o600)
    fcntl.flock(file, fcntl.LOCK_EX)
    fresh.rename(lock)  # others see it when it is locked
    atexit.register(_leave, lock)
    return name


def _leave(lock: Path) -> None:
    for folder in (path for place in _places() for path in place.glob(f"{lock.stem}-*")):
        shutil.rmtree(folder, ignore_errors=True)
    lock.unlink(missing_ok=True)


def _places() -> list[Path]:
    """The folders that may be used, the fastest first."""
    return [place for place in (_SHARED, Path(tempfile.gettempdir())) if os.access(place, os.W_OK)]
