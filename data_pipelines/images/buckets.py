"""Aspect-ratio buckets: words of similar shape share batches of a fitting image size, so that few are squeezed much.

Every batch has one of a few static shapes, all of about as many pixels: a training step is compiled once for each.
"""

import math
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.images.decoding import DecodeError, image_size
from data_pipelines.sources.combining import Sources, Subset
from data_pipelines.sources.contents import Contents, contents_of
from data_pipelines.sources.records import Source
from data_pipelines.worker_processes import in_chunks

Shape = tuple[int, int]
"""Height and width in pixels."""

WORD_SHAPES: tuple[Shape, ...] = ((64, 64), (48, 96), (40, 112), (32, 128), (24, 176), (16, 256))
"""Shapes of 240 to 288 patches of 4 x 4 pixels, for words from square to sixteen times as wide as high."""

VERTICAL = 2.0
"""A crop at least this many times as high as wide holds a vertical word, as Union14M counts them."""

_FEW = 4096  # records whose sizes are read without starting processes, and rendered words that are drawn for it


@dataclass(frozen=True)
class Buckets:
    """Which records of a source share batches."""

    shapes: tuple[Shape, ...]  # the image size of each bucket
    numbers: np.ndarray  # uint8 (records,): the bucket of each record

    @classmethod
    def assign(cls, sizes_N2: np.ndarray, shapes: Sequence[Shape]) -> "Buckets":
        """Give each record the bucket whose aspect ratio is the nearest, as a factor.

        ``sizes_N2`` is int (records, 2), height and width; 0 where they are not known: those go to the middle bucket.
        """
        ratios = np.log([width / height for height, width in shapes])
        numbers = np.full(len(sizes_N2), len(shapes) // 2, np.uint8)
        known = (sizes_N2 > 0).all(axis=1)
        height, width = sizes_N2[known].T
        order = np.argsort(ratios)
        borders = (ratios[order][1:] + ratios[order][:-1]) / 2
        numbers[known] = order[np.searchsorted(borders, np.log(width / height))]
        return cls(tuple(shapes), numbers)


def nearest_shape(size: Shape, shapes: Sequence[Shape]) -> Shape:
    """The shape whose aspect ratio is the nearest to that of an image of ``size``, as a factor."""
    return shapes[Buckets.assign(np.array([size]), shapes).numbers[0]]


def is_vertical(size: Shape, text: str | None) -> bool:
    """Whether a crop of this height and width shows a vertical word: a single upright character may be as high."""
    return size[0] >= VERTICAL * size[1] and (text is None or len(text) != 1)


def image_sizes(source: Source, workers: int = os.cpu_count() or 1) -> np.ndarray:
    """Height and width of every image of a source, int32 (records, 2); 0 for those that cannot be read.

    Taken from the source where it knows them (prepared records do). Otherwise the head of every image is read, by
    ``workers`` processes where there are many, and what was found is kept beside the list, LMDB or folder for the next
    time. Raises ``DataError`` for many words that are rendered on the fly.
    """
    if isinstance(source, Sources):
        return np.concatenate([image_sizes(part, workers) for part in source.sources])
    if isinstance(source, Subset):
        if getattr(source.source, "sizes", None) is not None or 2 * len(source) > len(source.source):
            return image_sizes(source.source, workers)[source.indices]
    elif (sizes := getattr(source, "sizes", None)) is not None:
        return np.asarray(sizes, np.int32)
    if getattr(source, "drawn", False) and len(source) > _FEW:
        raise DataError(
            "words rendered on the fly have no size before they are drawn, which buckets need: write them to files "
            "with python -m data_pipelines.rendering --folder first"
        )
    kept = _KeptSizes.of(source) if len(source) > _FEW else None
    sizes = None if kept is None else kept.load(source)
    if sizes is None:
        parts = in_chunks(partial(_read_sizes, source), len(source), workers if len(source) > _FEW else 0)
        sizes = np.concatenate(list(parts))
        if kept is not None:
            kept.save(sizes)
    return sizes


class _KeptSizes(NamedTuple):
    """The sizes of the images of a source, in a file."""

    path: Path
    contents: Contents
    """What the source holds, without labels."""

    @classmethod
    def of(cls, source: Source) -> "_KeptSizes | None":
        """Where those of a source are kept, if anywhere."""
        path = getattr(source, "sizes_file", None)
        return None if path is None else cls(Path(path), contents_of(source, labelled=False))

    def load(self, source: Source) -> np.ndarray | None:
        """The sizes, int32 (records, 2); None where none are kept, or those of other records."""
        try:
            with np.load(self.path) as file:
                sizes, contents = file["sizes"], tuple(file["contents"].tolist())
        except (OSError, ValueError, LookupError, EOFError, BadZipFile):
            return None
        if contents != self.contents or sizes.shape != (len(source), 2):
            return None
        unread = np.flatnonzero((sizes == 0).any(axis=1))
        if len(unread) > _FEW:
            return None
        for index in unread.tolist():  # what could not be read then may be there now
            sizes[index] = _read_sizes(source, index, index + 1)
        return sizes

    def save(self, sizes: np.ndarray) -> None:
        """Keep sizes, where files can be written there."""
        fresh = self.path.with_name(f".{self.path.name}.{os.getpid()}.npz")
        with suppress(OSError):
            try:
                np.savez(fresh, sizes=sizes, contents=np.array(self.contents))
                fresh.replace(self.path)
            finally:
                fresh.unlink(missing_ok=True)


def _read_sizes(source: Source, start: int, stop: int) -> np.ndarray:
    """Sizes of the images of a span of records, int32 (stop - start, 2). Runs in the workers."""
    sizes = np.zeros((stop - start, 2), np.int32)
    for row, index in enumerate(range(start, stop)):
        with suppress(DataError, DecodeError):
            image = source[index].image
            sizes[row] = image_size(image) if isinstance(image, bytes) else image.shape[:2]
    return sizes


def turned_sizes(source: Source, sizes_N2: np.ndarray) -> np.ndarray:
    """Sizes after vertical words have been turned, int32 (records, 2)."""
    sizes_N2 = sizes_N2.copy()
    candidates = np.flatnonzero((sizes_N2[:, 0] >= VERTICAL * sizes_N2[:, 1]) & (sizes_N2[:, 1] > 0))
    vertical = [i for i in candidates.tolist() if is_vertical(tuple(sizes_N2[i]), source.text(i))]
    sizes_N2[vertical] = sizes_N2[vertical][:, ::-1]
    return sizes_N2


def check_shapes(shapes: Sequence[Shape], patch_size: Shape) -> None:
    """Raise ``ValueError`` for shapes that patches of ``patch_size`` do not fill, or that are alike."""
    for height, width in shapes:
        if height % patch_size[0] or width % patch_size[1] or min(height, width) < 1:
            raise ValueError(f"bucket {height} x {width} is not a multiple of the patch size {patch_size}")
    if len({math.log(width / height) for height, width in shapes}) != len(shapes):
        raise ValueError(f"two of the buckets {tuple(shapes)} have the same aspect ratio")
