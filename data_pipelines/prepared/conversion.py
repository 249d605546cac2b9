"""Preparing a set: deal its shards out to workers, go on where a killed run has stopped, and finish the folder."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from data_pipelines.errors import DataError, RecordError
from data_pipelines.packed_strings import PackedStrings
from data_pipelines.prepared.index import FOLDER, map_array, map_strings, write_index
from data_pipelines.prepared.layout import MANIFEST, UNFINISHED, FileSum, Manifest, Plan, read_json, write_json
from data_pipelines.prepared.shards import ShardReport, read_part, read_report, write_shard
from data_pipelines.sources.records import Source, portion
from data_pipelines.storage import checksum, held, publish, remove_leftovers, staging
from data_pipelines.worker_processes import Workers, spans

STATISTICS = "statistics.json"
_PLAN = "plan.json"
_SHARES = {"least": 0.0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "most": 1.0}
_LOOKED_AT = 256  # images that tell whether a source is still the same
_TOLERATED = 100  # records that may be left out before their share is looked at
# What tfds.features.Image says of itself is not all: its decoder shows images otherwise than training does.
_IMAGE = (
    "The bytes of an image file, as in the source. TFDS decodes it without turning it as its EXIF orientation says, "
    "with its transparency as a fourth channel, and 16-bit samples modulo 256. For what training sees, skip that: "
    "as_data_source(decoders={'image': tfds.decode.SkipDecoding()}), then "
    "data_pipelines.images.decoding.decode_image(image), which gives uint8 RGB (height, width, 3)"
)


@dataclass(frozen=True)
class Prepared:
    """A finished set."""

    manifest: Manifest  # what it holds
    statistics: dict[str, Any]  # what ``statistics.json`` says
    new_shards: int  # how many of its shards were written in this run


def is_labelled(source: Source) -> bool:
    """Whether the records of a source have labels; its first label may be broken."""
    try:
        return source.text(0) is not None
    except RecordError:
        return True


def fingerprint(source: Source) -> str:
    """A hash of the names, labels and number of a source's records, and of the bytes of 256 of them.

    Names and labels count in full where the source holds them in memory, else those of the 256.
    """
    digest = hashlib.sha256(f"{len(source)}".encode())
    in_memory = (source.names, getattr(source, "labels", None)) if hasattr(source, "names") else ()
    for strings in in_memory:
        if isinstance(strings, PackedStrings):
            digest.update(hashlib.sha256(strings.blob).digest() + hashlib.sha256(strings.offsets.tobytes()).digest())
    for index in np.unique(np.linspace(0, len(source) - 1, _LOOKED_AT).astype(np.int64)).tolist():
        try:
            image, text = source[index]
        except DataError:
            image, text = b"", None
        data = image if isinstance(image, bytes) else image.tobytes()
        digest.update(hashlib.sha256(data + repr((source.name(index), text)).encode()).digest())
    return digest.hexdigest()


def prepare_set(
    source: Source, plan: Plan, folder: epath.Path, workers: Workers, max_invalid: float, advance: Callable[[int], None]
) -> Prepared:
    """Write the set of ``plan``, from the records of ``source``, into ``folder``; or what is missing of it.

    ``advance`` is told of numbers of records that are done. What is written does not depend on the workers.

    Raises ``DataError`` where the folder holds something else, where more than the share ``max_invalid`` of the records
    cannot be read or decoded, and where writing fails; what has been done by then is not lost.
    """
    finished = _finished(plan, folder)
    if finished is not None:
        advance(plan.source_records)
        return finished
    unfinished = folder / UNFINISHED
    unfinished.mkdir(parents=True, exist_ok=True)
    with held(unfinished):
        _begin(plan, folder)
        reports = [read_report(folder, plan, number) for number in range(plan.shards)]
        parts = list(spans(plan.source_records, plan.shard_records))
        calls = (
            (plan, folder, number, *portion(source, *part))
            for number, (part, report) in enumerate(zip(parts, reports, strict=True))
            if report is None
        )
        written = workers.results(write_shard, calls)
        done: list[ShardReport] = []
        for report, (start, stop) in zip(reports, parts, strict=True):
            done.append(report or next(written))
            advance(stop - start)
            _refuse_too_many(plan, folder, done, stop, max_invalid)
        return _finish(plan, folder, done, reports.count(None))


def _finished(plan: Plan, folder: epath.Path) -> Prepared | None:
    """What is in ``folder``, if it is the finished set of ``plan``; None where there is no finished set."""
    try:
        manifest = read_json(folder / MANIFEST, Manifest)
    except FileNotFoundError:
        return None
    _refuse_differences(manifest.plan, plan, folder)
    if (folder / UNFINISHED).exists():  # the run was killed at its very end
        (folder / UNFINISHED).rmtree()
    return Prepared(manifest, json.loads((folder / STATISTICS).read_bytes()), 0)


def _begin(plan: Plan, folder: epath.Path) -> None:
    """Note the plan in ``folder``, or see that it is the one noted there. Clears away what killed runs left behind."""
    unfinished = folder / UNFINISHED
    try:
        _refuse_differences(read_json(unfinished / _PLAN, Plan), plan, folder)
    except FileNotFoundError:
        others = [path.name for path in folder.glob("*") if path.name != UNFINISHED]
        if others:
            raise DataError(f"{folder}: contains other files, for example {min(others)}; give another --out") from None
        with staging(unfinished) as place:
            write_json(place / _PLAN, plan)
            publish(place / _PLAN, unfinished / _PLAN)
    remove_leftovers(unfinished)


def _refuse_differences(noted: Plan, plan: Plan, folder: epath.Path) -> None:
    if noted != plan:
        pairs = ((field.name, getattr(noted, field.name), getattr(plan, field.name)) for field in fields(plan))
        # A fingerprint says nothing to anybody.
        told = [f"{name}: {was!r}, now {now!r}" for name, was, now in pairs if was != now and name != "fingerprint"]
        what = "; ".join(told) or "the source has changed"
        raise DataError(f"{folder}: was started with other settings ({what}): give another --out or delete it")


def _refuse_too_many(plan: Plan, folder: epath.Path, reports: list[ShardReport], seen: int, max_invalid: float) -> None:
    """Raise ``DataError`` where too many of the first ``seen`` records were left out; at first, some always may be."""
    found = sum(report.left_out for report in reports)
    last = seen == plan.source_records
    if (found < _TOLERATED and not last) or (found <= max_invalid * seen and found < plan.source_records):
        return
    name, why = next(problem for report in reports for problem in report.problems)
    advice = f"repair the source and delete {folder}, or raise --max-invalid" if found < seen else "give another source"
    raise DataError(
        f"{plan.source}: {found:,} of {seen:,} records cannot be used, and --max-invalid is {max_invalid:g}; "
        f"the first is {name}: {why}; {advice}"
    )


def _finish(plan: Plan, folder: epath.Path, reports: list[ShardReport], new_shards: int) -> Prepared:
    """Write all that is not shards; the manifest last."""
    shards = tuple(report.shard for report in reports)
    records = sum(shard.records for shard in shards)
    (folder / FOLDER).mkdir(exist_ok=True)
    with staging(folder / UNFINISHED) as place:
        write_index(place, plan.labelled, (read_part(folder, number) for number in range(plan.shards)))
        sums = {path.name: FileSum(path.stat().st_size, checksum(path)) for path in sorted(place.iterdir())}
        manifest = Manifest(plan, records, sum(report.left_out for report in reports), shards, sums)
        labels = map_strings(place, "labels", records) if plan.labelled else None
        summary = _summarize(manifest, reports, labels, map_array(place / "sizes.npy", (records, 2), np.int32))
        (place / STATISTICS).write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        write_json(place / MANIFEST, manifest)
        for name in sums:
            publish(place / name, folder / FOLDER / name)
        _describe(manifest, folder)
        for name in (STATISTICS, MANIFEST):
            publish(place / name, folder / name)
    (folder / UNFINISHED).rmtree()
    return Prepared(manifest, summary, new_shards)


def _describe(manifest: Manifest, folder: epath.Path) -> None:
    """Write ``dataset_info.json`` and ``features.json``, with which TFDS reads the shards."""
    plan, shards = manifest.plan, manifest.shards
    features: dict[str, Any] = {
        "image": tfds.features.Image(doc=_IMAGE),
        "name": tfds.features.Text(doc="The name of the record in the source"),
        "height": tfds.features.Scalar(np.int32, doc="Pixels, once turned as the EXIF orientation says"),
        "width": tfds.features.Scalar(np.int32, doc="Pixels"),
    }
    if plan.labelled:
        features["text"] = tfds.features.Text(doc="The word in the image")
    template = tfds.core.ShardedFileTemplate(
        data_dir=folder, dataset_name=plan.name, split=plan.split, filetype_suffix="array_record"
    )
    split = tfds.core.SplitInfo(
        name=plan.split,
        shard_lengths=[shard.records for shard in shards],
        num_bytes=sum(shard.bytes for shard in shards),
        filename_template=template,
    )
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=features,
        split_infos=[split],
        filename_template=template,
        version=f"{plan.format}.0.0",
        check_data=False,  # it would read with TensorFlow
        description=f"Word images from {plan.source}, prepared by maerec_jax.",
    )


def _summarize(
    manifest: Manifest, reports: Sequence[ShardReport], labels: PackedStrings | None, sizes: np.ndarray
) -> dict[str, Any]:
    """Counts, bytes, sizes, labels and what was left out, as JSON holds them.

    ``sizes`` is integer ``(n, 2)``: height and width.
    """
    height, width = np.quantile(sizes, list(_SHARES.values()), axis=0, method="nearest").T.tolist()
    formats = sum((report.formats for report in reports), Counter[str]())
    vertical = int((sizes[:, 0] >= 2 * sizes[:, 1]).sum())
    summary: dict[str, Any] = {
        "set": manifest.plan.name,
        "records": manifest.records,
        "source_records": manifest.plan.source_records,
        "left_out": manifest.left_out,
        "left_out_because": [{"name": name, "detail": why} for report in reports for name, why in report.problems],
        "bytes": {
            "images": sum(report.image_bytes for report in reports),
            "shards": sum(shard.bytes for shard in manifest.shards),
            "index": sum(file.bytes for file in manifest.index.values()),
        },
        "formats": dict(formats.most_common()),
        "height": dict(zip(_SHARES, height, strict=True)),
        "width": dict(zip(_SHARES, width, strict=True)),
        "vertical": {"images": vertical, "share": vertical / len(sizes), "meaning": "at least twice as high as wide"},
    }
    if labels is not None:
        summary["labels_composed"] = sum(report.composed for report in reports)
        lengths, characters = Counter(map(len, labels)), Counter(bytes(labels.blob).decode())
        summary["labels"] = {
            "lengths": {str(length): lengths[length] for length in sorted(lengths)},
            "characters": dict(sorted(characters.items(), key=lambda item: (-item[1], item[0]))),
        }
    return summary
