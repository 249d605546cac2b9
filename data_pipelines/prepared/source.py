"""Reading prepared sets: ``Records("prepared/train_easy")`` in a config."""

import os
import threading
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Literal

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from data_pipelines.charset import composed
from data_pipelines.errors import DataError, MissingError, RecordError
from data_pipelines.packed_strings import PackedStrings
from data_pipelines.prepared.index import FOLDER, map_array, map_strings
from data_pipelines.prepared.layout import MANIFEST, UNFINISHED, FileSum, Manifest, read_json
from data_pipelines.sources.records import Record, Source, SourceSpec

# Reading by position costs time in proportion to the records of the file, in each call, but reads several at once; to
# seek and read costs the same for any file, if nothing is read ahead. From this many records of a shard on the first is
# the faster way where files are not in memory, and no slower where they are.
_TOGETHER = 16
_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
_BUFFER = 8192  # bytes; most word images fit in
_ADVICE = "python -m data_pipelines.check lists all damage; copy the file again, or prepare the set again"


@dataclass(frozen=True)
class Records(SourceSpec):
    """Prepared set: ArrayRecord shards written by data_pipelines.prepare, with or without labels."""

    kind: Literal["records"] = field(default="records", kw_only=True)
    """Kind of source."""
    path: str
    """Folder of the set, relative to the data root."""

    def open(self, root: Path) -> Source:
        """Map the index. Raises ``DataError`` where a file is missing or has another size than it was written with."""
        if not self.path.strip():
            raise DataError(f"a source has no path; give the folder of a prepared set, relative to {root}")
        if "://" in f"{root}/{self.path}" or str(root).startswith("gs:"):
            raise DataError(
                f"{root}/{self.path}: shards cannot be read from buckets: mount the bucket with gcsfuse and give "
                "the mounted folder, or copy the set to a disk with gcloud storage cp -r"
            )
        source = RecordSource.load(Path(root) / self.path, self.path)
        for number in range(len(source.manifest.shards)):
            source.find_shard(number)
        return source


class RecordSource:
    """The source of a ``Records``.

    Pickles as what it is made from: each process maps the index, which they thereby share, and opens the shards that it
    reads from. Forked processes open their own.
    """

    def __init__(self, folder: Path, title: str, manifest: Manifest) -> None:
        """Of a set in ``folder``, that messages call ``title``. Raises ``DataError`` where its index cannot be used."""
        self.folder, self.title, self.manifest = folder, title, manifest
        self._index, count = folder / FOLDER, manifest.records
        self.names = map_strings(self._index, "names", count)  # as the source that it was prepared from gives them
        self.labels = map_strings(self._index, "labels", count) if manifest.plan.labelled else None
        self.sizes = map_array(self._index / "sizes.npy", (count, 2), np.int32)  # height and width, as stored
        self._starts = [0, *accumulate(shard.records for shard in manifest.shards)]
        self._opened: dict[tuple[int, int], tuple[ArrayRecordReader, threading.Lock]] = {}

    @classmethod
    def load(cls, folder: Path, title: str) -> "RecordSource":
        """Read the manifest and map the index, but do not look at the shards.

        Raises ``DataError`` where they are missing or damaged.
        """
        try:
            manifest = read_json(folder / MANIFEST, Manifest)
        except (FileNotFoundError, NotADirectoryError):
            if (folder / UNFINISHED).is_dir():
                problem = f"{folder}: is not finished; repeat the command that prepares it"
            else:
                problem = f"{folder}: is not a prepared set; give a folder written by python -m data_pipelines.prepare"
            raise DataError(problem) from None
        except OSError as error:
            raise DataError(f"{folder / MANIFEST}: cannot be read ({error.strerror})") from error
        for name, expected in manifest.index.items():
            if fault := expected.fault(folder / FOLDER / name):
                raise DataError(f"{folder / FOLDER / name}: {fault}; {_ADVICE}")
        return cls(folder, title, manifest)

    def files(self) -> list[tuple[Path, FileSum]]:
        """All shards and the files of the index, and what they are to hold."""
        shards = [(self._shard_path(number), shard) for number, shard in enumerate(self.manifest.shards)]
        return [*shards, *((self._index / name, expected) for name, expected in self.manifest.index.items())]

    def __reduce__(self) -> tuple:
        """What another process needs: neither mapped nor opened files."""
        return RecordSource, (self.folder, self.title, self.manifest)

    def __len__(self) -> int:
        return self.manifest.records

    def __getitem__(self, index: int) -> Record:
        """Raises ``MissingError`` where its shard is gone, and ``RecordError`` where it is damaged there."""
        return self.read([index])[0]

    def read(self, indices: Sequence[int]) -> list[Record]:
        """The records ``indices``, in their order; those of a shard together. Raises what reading one raises."""
        by_shard: dict[int, list[tuple[int, int]]] = {}
        for order, index in enumerate(indices):
            if not 0 <= index < len(self):
                raise IndexError(f"record {index} of {len(self)}")
            shard = bisect_right(self._starts, index) - 1
            by_shard.setdefault(shard, []).append((index - self._starts[shard], order))
        records: dict[int, Record] = {}
        for shard, inside in by_shard.items():
            found = self._read_shard(shard, [place for place, _ in inside])
            for (_, order), data in zip(inside, found, strict=True):
                # Labels are quicker to find in the index.
                records[order] = Record(self._image(shard, data), self.text(indices[order]))
        return [records[order] for order in range(len(indices))]

    def text(self, index: int) -> str | None:
        """The label of record ``index``, from the index; None in an unlabelled set."""
        stored = self.stored_text(index)
        return stored and composed(stored)

    def stored_text(self, index: int) -> str | None:
        """The label as the set has it: those of earlier versions may be in any Unicode form."""
        return None if self.labels is None else self._string(self.labels, "labels", index)

    def name(self, index: int) -> str:
        """The name that record ``index`` had in the source that it was prepared from."""
        return self._string(self.names, "names", index)

    def _string(self, strings: PackedStrings, kind: str, index: int) -> str:
        try:
            return strings[index]
        except UnicodeDecodeError as error:
            raise DataError(f"{self._index / kind}.utf8: is damaged at record {index}; {_ADVICE}") from error

    def _read_shard(self, shard: int, places: list[int]) -> list[bytes]:
        # Seeking is a reader's state, so that threads take turns at it; a forked process must not share its parent's.
        key = (os.getpid(), shard)
        reader, lock = self._opened.get(key) or self._opened.setdefault(key, (self._open(shard), threading.Lock()))
        try:
            with lock:
                if len(places) >= _TOGETHER:
                    return reader.read(places)
                found = []
                for place in places:
                    reader.seek(place)
                    found.append(reader.read())
                return found
        except (RuntimeError, IndexError) as error:
            # A reader that has met damage refuses all other records, too: the next one gets a new reader.
            self._opened.pop(key, None)
            # Without the addresses and checksums that would make every message another.
            reason = str(error).split(" (")[0].split(";")[0]
            where = f" at record {places[0]}" if len(places) == 1 else ""
            raise self._damaged(shard, reason, where) from ValueError(reason)

    def _image(self, shard: int, example: bytes) -> bytes:
        from tensorflow_datasets.proto import tf_example_pb2  # here, as only those who read shards wait for it

        try:
            (image,) = tf_example_pb2.Example.FromString(example).features.feature["image"].bytes_list.value
        except Exception as error:  # protobuf has its own for what it cannot parse
            raise self._damaged(shard, "a record is not a tf.train.Example with an image") from error
        return image

    def _open(self, shard: int) -> ArrayRecordReader:
        reader = ArrayRecordReader(str(self.find_shard(shard)), options=_OPTIONS, file_reader_buffer_size=_BUFFER)
        expected, count = self.manifest.shards[shard].records, reader.num_records()
        if count != expected:
            raise self._damaged(shard, f"it holds {count} records instead of {expected}")
        return reader

    def _shard_path(self, number: int) -> Path:
        return self.folder / self.manifest.plan.shard_name(number)

    def find_shard(self, number: int) -> Path:
        """The file of shard ``number``. Raises ``RecordError`` where it is missing or has another size than written."""
        path = self._shard_path(number)
        if fault := self.manifest.shards[number].fault(path):
            raise (RecordError if path.exists() else MissingError)(f"{path}: {fault}; {_ADVICE}")
        return path

    def _damaged(self, shard: int, reason: str, where: str = "") -> RecordError:
        return RecordError(f"{self._shard_path(shard)}: is damaged{where} ({reason}); {_ADVICE}")
