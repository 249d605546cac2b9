"""Files in ZIP archives, named as if an archive were a folder: ``words/photos/000000064.zip/000000070_0003.jpg``.

Millions of small files take most file systems longer to make and to copy than what is in them.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

ENDING = ".zip"
_KEPT_OPEN = 16


def read_file(path: str) -> bytes:
    """The bytes of a file, or of one in an archive.

    Raises ``OSError`` where it cannot be read, for damaged archives and compressed files in them, too.
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
    try:
        return [f"{path}/{member.filename}" for member in _opened(path).infolist() if not member.is_dir()]
    except BadZipFile as error:
        raise OSError(errno.EINVAL, f"damaged archive: {error}", path) from error


@contextmanager
def _member(path: str) -> Iterator[tuple[ZipFile, ZipInfo]]:
    place, name = path.split(f"{ENDING}/", 1)
    try:
        archive = _opened(place + ENDING)
        member = archive.getinfo(name)
        # A size that is forged cannot ask for gigabytes.
        if member.compress_type != ZIP_STORED or member.file_size > os.path.getsize(place + ENDING):
            raise OSError(errno.EINVAL, "compressed in its archive: store it without", path)
        yield archive, member
    except KeyError as error:
        raise FileNotFoundError(errno.ENOENT, "not in its archive", path) from error
    except BadZipFile as error:
        raise OSError(errno.EINVAL, f"damaged archive: {error}", path) from error


def _opened(path: str) -> ZipFile:
    # Another process would move the place at which this one reads; another file may have taken the place of an old one.
    return _kept(path, os.getpid(), os.stat(path).st_mtime_ns)


@lru_cache(_KEPT_OPEN)
def _kept(path: str, process: int, changed: int) -> ZipFile:
    return ZipFile(path)
