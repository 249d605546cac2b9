"""The index of a prepared set: names, labels and sizes of all records in files that processes map and share."""

import mmap
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.packed_strings import PackedStrings

FOLDER = "index"
_AGAIN = "copy the folder again, or prepare the set again"


def write_index(folder: Path, labelled: bool, parts: Iterable[tuple[PackedStrings, PackedStrings, np.ndarray]]) -> None:
    """Write the files of an index. Holds 8 to 24 bytes a record in memory.

    ``parts`` are names, labels (not looked at in an unlabelled set) and sizes, int32 ``(n, 2)``, of one shard's records
    after the other.
    """
    kinds = ("names", "labels") if labelled else ("names",)
    offsets = {kind: [np.zeros(1, np.int64)] for kind in kinds}
    all_sizes = []
    with ExitStack() as stack:
        blobs = {kind: stack.enter_context((folder / f"{kind}.utf8").open("wb")) for kind in kinds}
        for names, labels, sizes in parts:
            all_sizes.append(sizes)
            for kind, strings in zip(kinds, (names, labels), strict=False):
                offsets[kind].append(strings.offsets[1:] + blobs[kind].tell())
                blobs[kind].write(strings.blob)
    for kind in kinds:
        np.save(folder / f"{kind}.npy", np.concatenate(offsets[kind]))
    np.save(folder / "sizes.npy", np.concatenate(all_sizes))


def map_array(path: Path, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Map an .npy file. Raises ``DataError`` where it holds another shape or type."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); {_AGAIN}") from error
    if array.shape != shape or array.dtype != dtype:
        raise DataError(f"{path}: holds {array.dtype} {array.shape} instead of {dtype.__name__} {shape}; {_AGAIN}")
    return array


def map_strings(folder: Path, kind: str, count: int) -> PackedStrings:
    """Map the names or labels. Raises ``DataError`` where there are not ``count`` of them."""
    offsets, path = map_array(folder / f"{kind}.npy", (count + 1,), np.int64), folder / f"{kind}.utf8"
    if offsets[0] or offsets[-1] != path.stat().st_size:
        raise DataError(f"{path}: is not the file that {kind}.npy describes; {_AGAIN}")
    with path.open("rb") as file:
        # An empty file cannot be mapped.
        blob = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if offsets[-1] else b""
    return PackedStrings(blob, offsets)
