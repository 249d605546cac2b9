"""The index of a prepared set: names, labels and sizes of all records in files that processes map and share."""

import mmap
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.packed_strings import PackedStrings
from data_pipelines.prepared.layout import Manifest

FOLDER = "index"
_AGAIN = "copy the folder anew, or prepare the set again"


class IndexWriter:
    """Writes the files of an index, one part after the other. Holds 8 to 24 bytes a record in memory.

    Use it in a ``with`` block; leaving it writes the last of the files.
    """

    def __init__(self, folder: Path, labelled: bool) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._kinds = ("names", "labels") if labelled else ("names",)
        self._blobs = {kind: (folder / f"{kind}.utf8").open("wb") for kind in self._kinds}
        self._offsets = {kind: [np.zeros(1, np.int64)] for kind in self._kinds}
        self._ends = dict.fromkeys(self._kinds, 0)
        self._sizes: list[np.ndarray] = []

    def append(self, names: PackedStrings, labels: PackedStrings | None, sizes: np.ndarray) -> None:
        """Add the records of a shard; ``sizes`` is int32 ``(n, 2)``, height and width."""
        for kind, strings in zip(self._kinds, (names, labels), strict=False):
            assert strings is not None
            self._blobs[kind].write(strings.blob)
            self._offsets[kind].append(strings.offsets[1:] + self._ends[kind])
            self._ends[kind] += len(strings.blob)
        self._sizes.append(sizes)

    def __enter__(self) -> "IndexWriter":
        """The writer itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Write what is left, and close the files."""
        for kind, blob in self._blobs.items():
            blob.close()
            np.save(self.folder / f"{kind}.npy", np.concatenate(self._offsets[kind]))
        np.save(self.folder / "sizes.npy", np.concatenate(self._sizes))


def index_files(labelled: bool) -> Iterable[str]:
    """The names of the files of an index."""
    kinds = ("names", "labels") if labelled else ("names",)
    return (*(f"{kind}.{ending}" for kind in kinds for ending in ("utf8", "npy")), "sizes.npy")


def check_sizes(folder: Path, manifest: Manifest) -> None:
    """Raises ``DataError`` for a file of the index in ``folder`` that is not there or has another size than written."""
    for name in index_files(manifest.plan.labelled):
        path, expected = folder / name, manifest.index.get(name)
        if expected is None:
            raise DataError(f"{path}: the manifest does not list it; {_AGAIN}")
        if not path.is_file():
            raise DataError(f"{path}: is missing; {_AGAIN}")
        if path.stat().st_size != expected.bytes:
            raise DataError(f"{path}: has {path.stat().st_size:,} bytes instead of {expected.bytes:,}; {_AGAIN}")


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
