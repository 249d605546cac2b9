"""What a word image is on its way from a file to a batch: the record, and the interface of all sources of records."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

Batch = dict[str, np.ndarray]
"""One step's data on the host. Every array has the batch size B as its first axis.

- ``image``: uint8 RGB ``(B, height, width, 3)``; zeros where ``valid`` is false. All steps have images of one size, or,
  with aspect-ratio buckets, of one of a few.
- ``valid``: bool ``(B,)``; false for an image that cannot be used, which takes no part in any loss or score.
- ``outcome``: uint8 ``(B,)``; what became of the record, a place in ``OUTCOMES``.
- ``index``: int64 ``(B,)``; the record's place in the source, for looking up its name and label.
- ``size``: int32 ``(B, 2)``; only in evaluation: height and width of the image in the file, 0 where not ``valid``.
- ``operations``: int32 ``(B, layers)``; only where a ``RandAugment`` is at work: what the device does to an image.
- ``tokens``: int32 ``(B, length)``; only where the task reads labels: ``[start, characters..., end, padding...]``.
"""


OUTCOMES = ("used", "missing", "unreadable")
"""What becomes of a record: its image is used, it is not there, or it cannot be read, decoded or resized."""

USED, MISSING, UNREADABLE = range(len(OUTCOMES))

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif")
"""Endings, in lower case, that mark a file as an image where nothing else does."""


class Record(NamedTuple):
    """One word image: the bytes of a file, or uint8 RGB pixels ``(height, width, 3)``; and its label, if any."""

    image: bytes | np.ndarray
    text: str | None


@runtime_checkable
class Source(Protocol):
    """Random access to records. Sources are picklable (workers get a copy) and open files only when first read.

    A source may also have some of these:

    - ``labels``: a ``PackedStrings`` of all labels as they are stored, for comparing them with a dictionary at once.
    - ``stored_text(index)``: a label as it is stored, which may be in another Unicode form.
    - ``characters``: a string of the only characters that occur in its labels; none of them is then looked at.
    - ``drawn``: true where images are drawn when they are read: their sizes and names are not looked for.
    - ``sizes``: int array ``(records, 2)`` of the heights and widths of its images, for aspect-ratio buckets.
    - ``origin(index)``: where the label of a record stands, where ``name`` tells of its image only.
    - ``sizes_file``: the path of a file that ``images.buckets`` keeps such sizes in, where they have to be looked for.
    - ``checksums(labelled)``: CRC-32 of its names and of its labels, 0 for none; see ``contents``.
    - ``notes``: a tuple of lines about what was decided when it was opened, for the user to read.

    - ``read(indices)``: a list of the records ``indices``, in their order, where many are read faster together than
      one by one; see ``read_records``.
    - ``part(start, stop)``: these records as a source of their own; see ``portion``.
    """

    def __len__(self) -> int:
        """Number of records."""

    def __getitem__(self, index: int) -> Record:
        """Read record ``index``; does not decode the image.

        Raises ``RecordError`` where this record cannot be read (``MissingError`` where it is not there), and another
        ``DataError`` where the source as a whole cannot.
        """

    def text(self, index: int) -> str | None:
        """The label of record ``index``, composed (NFC), without reading its image; None in an unlabelled source."""

    def name(self, index: int) -> str:
        """Where record ``index`` comes from, for messages: a path relative to the data root, or a file and a key."""


def read_records(source: Source, indices: Sequence[int]) -> list[Record]:
    """The records ``indices`` of a source, in their order; together, where the source has a method for that.

    Raises ``RecordError`` where one of them cannot be read; which of them, reading one by one tells.
    """
    read = getattr(source, "read", None)
    return [source[index] for index in indices] if read is None else read(indices)


def portion(source: Source, start: int, stop: int) -> tuple[Source, range]:
    """A source with the records from ``start`` up to ``stop``, and their indices in it.

    For worker processes: of a source that holds names and labels in memory they get those of these records only.
    """
    part = getattr(source, "part", None)
    return (source, range(start, stop)) if part is None else (part(start, stop), range(stop - start))


@dataclass(frozen=True, kw_only=True)
class SourceSpec(ABC):
    """Where word images are, before anything is opened."""

    weight: float | None = None
    """Share of the training records drawn from this source; those without a weight share the rest by size."""

    @abstractmethod
    def open(self, root: Path) -> Source:
        """The source itself, of files under the data root; raises ``DataError`` where it cannot be used."""
