"""Writing one shard of a set, in a worker process: all or nothing, and the same whoever writes it."""

import io
from collections import Counter
from dataclasses import dataclass, field

import cv2
import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from etils import epath
from pydantic import TypeAdapter
from tensorflow_datasets.proto import tf_example_pb2

from data_pipelines.errors import DataError
from data_pipelines.images.decoding import DecodeError, decode_image
from data_pipelines.packed_strings import PackedStrings, StringPacker
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

    shard: Shard  # the shard
    image_bytes: int = 0  # bytes of its images
    left_out: int = 0  # records that could not be read or decoded
    composed: int = 0  # labels that were in another Unicode form than NFC
    problems: list[tuple[str, str]] = field(default_factory=list)  # names of the first of these, and why
    formats: Counter[str] = field(default_factory=Counter)  # images by file format


_REPORT = TypeAdapter(ShardReport)


def write_shard(plan: Plan, folder: epath.Path, number: int, source: Source, indices: range) -> ShardReport:
    """Write shard ``number`` of a set, the records ``indices`` of ``source``; its part of the index; and its report.

    The report appears last: a shard that has one is whole. Raises ``DataError`` where the shard cannot be written.
    """
    names, labels, sizes = StringPacker(), StringPacker(), []
    report = ShardReport(Shard(0, "", 0))
    with staging(folder / UNFINISHED) as place:
        path = place / "shard"
        writer = ArrayRecordWriter(str(path), _WRITER)
        try:
            for index in indices:
                name = source.name(index)
                try:
                    image, label = source[index]
                    assert isinstance(image, bytes)  # of a file
                    height, width = decode_image(image).shape[:2]
                except (DataError, DecodeError, cv2.error) as error:
                    report.left_out += 1
                    if len(report.problems) < _NAMED:
                        report.problems.append((name, " ".join(str(error).split())))
                    continue
                text = label or ""
                if label is not None:
                    report.composed += getattr(source, "stored_text", source.text)(index) != label
                writer.write(_example(image, name, height, width, text if plan.labelled else None))
                names.append(name)
                labels.append(text)
                sizes.append((height, width))
                report.image_bytes += len(image)
                report.formats[_format(image)] += 1
            writer.close()
            written = ArrayRecordReader(str(path)).num_records()
        except RuntimeError as error:
            raise DataError(f"{path}: cannot be written ({str(error).split(';')[0]}); is the disk full?") from error
        if written != len(sizes):
            raise DataError(f"{path}: cannot be written; is the disk full?")
        report.shard = Shard(path.stat().st_size, checksum(path), len(sizes))
        parts = {"sizes": np.array(sizes, np.int32).reshape(-1, 2)}
        for kind, strings in (("names", names.finish()), ("labels", labels.finish())):
            parts |= {f"{kind}_blob": np.frombuffer(strings.blob, np.uint8), f"{kind}_offsets": strings.offsets}
        np.savez(place / "part.npz", **parts)  # type: ignore[arg-type]
        (place / "report").write_bytes(_REPORT.dump_json(report))
        publish(place / "part.npz", _known(folder, number, "npz"))
        publish(path, folder / plan.shard_name(number))
        publish(place / "report", _known(folder, number, "json"))
    return report


def read_report(folder: epath.Path, plan: Plan, number: int) -> ShardReport | None:
    """The report of a shard that has been finished; None where it has not, or is not there any more."""
    try:
        report = _REPORT.validate_json(_known(folder, number, "json").read_bytes())
        size = (folder / plan.shard_name(number)).stat().length
    except (FileNotFoundError, ValueError):
        return None
    return report if size == report.shard.bytes and _known(folder, number, "npz").exists() else None


def read_part(folder: epath.Path, number: int) -> tuple[PackedStrings, PackedStrings, np.ndarray]:
    """Names, labels and sizes of the records of a finished shard."""
    with np.load(io.BytesIO(_known(folder, number, "npz").read_bytes()), allow_pickle=False) as part:
        names, labels = (PackedStrings(part[f"{k}_blob"].tobytes(), part[f"{k}_offsets"]) for k in ("names", "labels"))
        return names, labels, part["sizes"]


def _known(folder: epath.Path, number: int, ending: str) -> epath.Path:
    """The file with what is known of a finished shard: its report (json), or its part of the index (npz)."""
    return folder / UNFINISHED / f"{number:05d}.{ending}"


def _example(image: bytes, name: str, height: int, width: int, text: str | None) -> bytes:
    example = tf_example_pb2.Example()
    features = example.features.feature
    features["image"].bytes_list.value.append(image)
    if text is not None:
        features["text"].bytes_list.value.append(text.encode())
    features["name"].bytes_list.value.append(name.encode())
    features["height"].int64_list.value.append(height)
    features["width"].int64_list.value.append(width)
    # The order of a map's entries is arbitrary otherwise.
    return example.SerializeToString(deterministic=True)


def _format(data: bytes) -> str:
    for start, name in ((b"\xff\xd8", "JPEG"), (b"\x89PNG", "PNG"), (b"BM", "BMP"), (b"GIF8", "GIF")):
        if data.startswith(start):
            return name
    return "WebP" if data[8:12] == b"WEBP" else "TIFF"
