"""Images that commands are given by name: files, folders and LMDBs, loaded while earlier ones are worked on."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np

from data_pipelines.errors import RecordError, UserError
from data_pipelines.images.decoding import DecodeError, pixels_of
from data_pipelines.packed_strings import PackedStrings
from data_pipelines.sources.archives import ENDING, names_in
from data_pipelines.sources.files import Folder, ImageFolder, LmdbWords
from data_pipelines.sources.records import Source

Loaded = TypeVar("Loaded")


def open_images(name: str, follow_links: bool = False) -> tuple[str, Source]:
    """What a name on the command line stands for, an image, a folder or an LMDB.

    With ``follow_links`` subfolders that are links are searched, too.

    Returns:
      What to put before the names of its images, and the images.

    Raises:
      UserError: where there is nothing of that name.
    """
    path = Path(name)
    if path.is_dir():
        if (path / "data.mdb").is_file():
            return "", LmdbWords(path=name, labelled=False).open(Path())
        return name.rstrip("/") + "/", Folder(path=".", follow_links=follow_links).open(path)
    if "://" in name:
        raise UserError(f"{name}: is an address, which is not fetched: download it, and name the file")
    if path.suffix.lower() == ".mdb":
        raise UserError(f"{name}: is a file of an LMDB; give its folder, {path.parent}")
    if not path.exists():
        raise UserError(f"no such image or folder: {name}")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{os.fsencode(name)!r}: its name is not UTF-8: rename it") from error
    if path.suffix == ENDING:
        try:
            return "", ImageFolder(Path(), PackedStrings.pack(names_in(name)))
        except OSError as error:
            raise UserError(f"{name}: {error.strerror}") from error
    return "", ImageFolder(Path(), PackedStrings.pack([name]))


def loaded_ahead(
    sources: Sequence[tuple[str, Source]], load: Callable[[np.ndarray, str], Loaded], size: int
) -> Iterator[list[tuple[str, Loaded | Exception]]]:
    """Images of ``open_images`` after their names, ``size`` at a time; the next are loaded while these are worked on.

    ``load`` makes what is wanted of an image, from its pixels and its name, in a thread of its own. An image for which
    it raises ``DecodeError`` or ``UserError``, or that cannot be read, is given as its error.
    """

    def one(name: str, source: Source, index: int) -> tuple[str, Loaded | Exception]:
        try:
            return name, load(pixels_of(source[index]), name)
        except (DecodeError, RecordError, UserError) as error:
            return name, error

    places = ((prefix + source.name(i), source, i) for prefix, source in sources for i in range(len(source)))
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(lambda: [one(*place) for place in islice(places, size)])
        while loaded := pending.result():
            pending = pool.submit(lambda: [one(*place) for place in islice(places, size)])
            yield loaded
