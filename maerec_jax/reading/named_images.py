"""Images that commands are given by name: files, folders and LMDBs, loaded while earlier ones are worked on."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from data_pipelines.errors import RecordError, UserError
from data_pipelines.images.decoding import DecodeError, pixels_of
from data_pipelines.packed_strings import PackedStrings
from data_pipelines.sources.files import Folder, ImageFolder, LmdbWords
from data_pipelines.sources.records import Source

Loaded = TypeVar("Loaded")


def open_images(name: str) -> tuple[str, Source]:
    """What a name on the command line stands for, an image, a folder or an LMDB.

    Returns:
      What to put before the names of its images, and the images.

    Raises:
      UserError: where there is nothing of that name.
    """
    path = Path(name)
    if path.is_dir():
        if (path / "data.mdb").is_file():
            return "", LmdbWords(path=name, labelled=False).open(Path())
        return name.rstrip("/") + "/", Folder(path=".").open(path)
    if not path.exists():
        raise UserError(f"no such image or folder: {name}")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{os.fsencode(name)!r}: its name is not UTF-8: rename it") from error
    return "", ImageFolder(Path(), PackedStrings.pack([name]))


class LoadedAhead(Generic[Loaded]):
    """Images and their names, some at a time; the next are loaded while these are worked on.

    Args:
      sources: as ``open_images`` gives them.
      load: makes what is wanted of an image, from its pixels and its name, in a thread of its own. An image for which
        it raises ``DecodeError`` or ``UserError``, or that cannot be read, is given as its error.
      size: how many at a time.
    """

    def __init__(
        self, sources: Sequence[tuple[str, Source]], load: Callable[[np.ndarray, str], Loaded], size: int
    ) -> None:
        self._sources, self._load, self._size = sources, load, size

    def __iter__(self) -> Iterator[tuple[list[str], list[Loaded | Exception]]]:
        places = ((prefix, source, index) for prefix, source in self._sources for index in range(len(source)))
        with ThreadPoolExecutor(1) as pool:
            pending = pool.submit(self._load_all, list(islice(places, self._size)))
            while True:
                names, loaded = pending.result()
                if not names:
                    return
                pending = pool.submit(self._load_all, list(islice(places, self._size)))
                yield names, loaded

    def _load_all(self, places: list[tuple[str, Source, int]]) -> tuple[list[str], list[Loaded | Exception]]:
        names = [prefix + source.name(index) for prefix, source, index in places]
        return names, [self._one(name, source, index) for name, (_, source, index) in zip(names, places, strict=True)]

    def _one(self, name: str, source: Source, index: int) -> Loaded | Exception:
        try:
            return self._load(pixels_of(source[index]), name)
        except (DecodeError, RecordError, UserError) as error:
            return error
