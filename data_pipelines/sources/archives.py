"""Files in ZIP archives, named as if an archive were a folder: ``words/photos/000000064.zip/000000070_0003.jpg``.

Millions of small files take most file systems longer to make and to copy than what is in them.
"""

import errno
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

ENDING = ".zip"
_KEPT_OPEN = 16  # archives
_LARGEST = 2**28  # bytes of a file: what damage or malice gives as its size is no more than this


def read_file(path: str) -> bytes:
    """The bytes of a file, or of one in an archive.

    Raises ``OSError`` where it cannot be read, for damaged archives, too.
    """
    try:
        with open(path, "rb") as file:
            return file.read()
    except NotADirectoryError:
        if f"{ENDING}/" not in path:
            raise
    with _member(path) as (archive, member):
        return archive.read(member)


def file_exists(path: str) -> bool:
    """Whether there is a file, or one in an archive, that can be read."""
    if os.path.exists(path) or f"{ENDING}/" not in path:
        return os.path.exists(path)
    try:
        with _member(path):
            return True
    except OSError:
        return False


def names_in(path: str) -> list[str]:
    """The paths, as ``read_file`` takes them, of the files in an archive. Raises ``OSError`` where it is damaged."""
    with _as_errors_of_reading(path):
        return [f"{path}/{member.filename}" for member in _opened(path).infolist() if not member.is_dir()]


@contextmanager
def _member(path: str) -> Iterator[tuple[ZipFile, ZipInfo]]:
    place, name = path.split(f"{ENDING}/", 1)
    with _as_errors_of_reading(path):
        archive = _opened(place + ENDING)
        try:
            member = archive.getinfo(name)
        except KeyError as error:
            raise FileNotFoundError(errno.ENOENT, "not in its archive", path) from error
        if member.file_size > _LARGEST:
            raise OSError(errno.EFBIG, f"{member.file_size} bytes are more than {_LARGEST}", path)
        if member.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
            raise OSError(errno.EINVAL, "compressed by another method than ZIP's usual one", path)
        yield archive, member


@contextmanager
def _as_errors_of_reading(path: str) -> Iterator[None]:
    try:
        yield
    except (BadZipFile, EOFError, RuntimeError, ValueError, zlib.error) as error:  # RuntimeError for encrypted files
        raise OSError(errno.EINVAL, f"damaged archive: {error}", path) from error


def _opened(path: str) -> ZipFile:
    # Another process would move the place at which this one reads; another file may have taken the place of an old one.
    stat = os.stat(path)
    return _kept(path, os.getpid(), (stat.st_ino, stat.st_size, stat.st_mtime_ns))


@lru_cache(_KEPT_OPEN)
def _kept(path: str, process: int, version: tuple[int, int, int]) -> ZipFile:
    return ZipFile(path)
