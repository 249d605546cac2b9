"""Writing one shard of a set, in a worker process: all or nothing, and the same whoever writes it."""

import io
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from etils import epath
from pydantic import TypeAdapter
from tensorflow_datasets.proto import tf_example_pb2

from data_pipelines.errors import DataError
from data_pipelines.images.decoding import DecodeError
from data_pipelines.packed_strings import PackedStrings, StringPacker
from data_pipelines.prepared.encoding import Cost, Stored, store
from data_pipelines.prepared.layout import UNFINISHED, Plan, Shard
from data_pipelines.sources.records import Source
from data_pipelines.storage import checksum, publish, staging

_NAMED = 1000  # records left out of a shard that are named
# One record a group, so that reading one does not read others. Compression would save 7 % of the bytes (JPEG's tables)
# and take a tenth of the time that decoding an image takes.
_WRITER = "group_size:1,uncompressed"


@dataclass
class ShardReport:
    """What is known of a finished shard. It stands in ``.unfinished`` until the set is finished."""

    shard: Shard
    """The shard."""
    image_bytes: int = 0
    """Bytes of its images."""
    left_out: int = 0
    """Records that could not be read or decoded."""
    problems: list[tuple[str, str]] = field(default_factory=list)
    """Names of the first of these, and why."""
    formats: Counter[str] = field(default_factory=Counter)
    """Images by file format."""
    cost: Cost = field(default_factory=Cost)
    """What resizing cost."""


_REPORT = TypeAdapter(ShardReport)


@dataclass(frozen=True)
class ShardJob:
    """A shard to write."""

    source: Source
    """A source that holds its records."""
    start: int
    """The first of them in ``source``."""
    stop: int
    """The end of them in ``source``."""
    plan: Plan
    """The plan of the set."""
    number: int
    """Which of its shards this is."""
    folder: str
    """The folder of the set, which may be in a bucket."""


def write_shard(job: ShardJob) -> ShardReport:
    """Write a shard, its part of the index and its report. The report appears last: a shard that has one is whole.

    Raises ``DataError`` where the shard cannot be written.
    """
    folder = epath.Path(job.folder)
    names, labels, sizes = StringPacker(), StringPacker(), []
    report = ShardReport(Shard(0, "", 0))
    with staging(folder / UNFINISHED) as place:
        path = place / f"{job.number:05d}.shard"
        writer = ArrayRecordWriter(str(path), _WRITER)
        try:
            for index in range(job.start, job.stop):
                name = job.source.name(index)
                try:
                    record = job.source[index]
                    stored = store(record.image, job.plan.max_height, report.cost)
                except (DataError, DecodeError, cv2.error) as error:
                    report.left_out += 1
                    if len(report.problems) < _NAMED:
                        report.problems.append((name, " ".join(str(error).split())))
                    continue
                writer.write(_example(stored, (record.text or "") if job.plan.labelled else None, name))
                names.append(name)
                if job.plan.labelled:
                    labels.append(record.text or "")
                sizes.append((stored.height, stored.width))
                report.image_bytes += len(stored.data)
                report.formats[_format(stored.data)] += 1
            writer.close()
            written = ArrayRecordReader(str(path)).num_records()
        except RuntimeError as error:
            raise DataError(f"{path}: cannot be written ({str(error).split(';')[0]}); is the disk full?") from error
        if written != len(sizes):
            raise DataError(f"{path}: cannot be written; is the disk full?")
        report.shard = Shard(path.stat().st_size, checksum(path), len(sizes))
        part = place / f"{job.number:05d}.npz"
        _save_part(part, names.finish(), labels.finish(), np.array(sizes, np.int32).reshape(-1, 2))
        publish(part, part_path(folder, job.number))
        publish(path, folder / job.plan.shard_name(job.number))
        told = place / f"{job.number:05d}.json"
        told.write_bytes(_REPORT.dump_json(report))
        publish(told, _report_path(folder, job.number))
    return report


def read_report(folder: epath.Path, plan: Plan, number: int) -> ShardReport | None:
    """The report of a shard that has been finished; None where it has not, or is not there any more."""
    try:
        report = _REPORT.validate_json(_report_path(folder, number).read_bytes())
        size = (folder / plan.shard_name(number)).stat().length
        part = part_path(folder, number).exists()
    except (FileNotFoundError, ValueError):
        return None
    return report if part and size == report.shard.bytes else None


def part_path(folder: epath.Path, number: int) -> epath.Path:
    """The file with a finished shard's part of the index."""
    return folder / UNFINISHED / f"{number:05d}.npz"


def read_part(folder: epath.Path, number: int) -> tuple[PackedStrings, PackedStrings, np.ndarray]:
    """Names, labels and sizes of the records of a finished shard."""
    with np.load(io.BytesIO(part_path(folder, number).read_bytes()), allow_pickle=False) as part:
        names, labels = (PackedStrings(part[f"{k}_blob"].tobytes(), part[f"{k}_offsets"]) for k in ("names", "labels"))
        return names, labels, part["sizes"]


def _save_part(path: Path, names: PackedStrings, labels: PackedStrings, sizes: np.ndarray) -> None:
    blobs = {"names": names, "labels": labels}
    arrays = {f"{kind}_blob": np.frombuffer(strings.blob, np.uint8) for kind, strings in blobs.items()}
    arrays |= {f"{kind}_offsets": strings.offsets for kind, strings in blobs.items()}
    np.savez(path, sizes=sizes, **arrays)  # type: ignore[arg-type]


def _report_path(folder: epath.Path, number: int) -> epath.Path:
    return folder / UNFINISHED / f"{number:05d}.json"


def _example(stored: Stored, text: str | None, name: str) -> bytes:
    example = tf_example_pb2.Example()
    features = example.features.feature
    features["image"].bytes_list.value.append(stored.data)
    if text is not None:
        features["text"].bytes_list.value.append(text.encode())
    features["name"].bytes_list.value.append(name.encode())
    features["height"].int64_list.value.append(stored.height)
    features["width"].int64_list.value.append(stored.width)
    # The order of a map's entries is arbitrary otherwise.
    return example.SerializeToString(deterministic=True)


def _format(data: bytes) -> str:
    for start, name in ((b"\xff\xd8", "JPEG"), (b"\x89PNG", "PNG"), (b"BM", "BMP"), (b"GIF8", "GIF")):
        if data.startswith(start):
            return name
    return "WebP" if data[8:12] == b"WEBP" else "TIFF"
