"""Preparing a set: deal its shards out to workers, go on where a killed run has stopped, and finish the folder."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from data_pipelines.errors import DataError, RecordError
from data_pipelines.packed_strings import PackedStrings
from data_pipelines.prepared.index import FOLDER, IndexWriter, index_files, map_array, map_strings
from data_pipelines.prepared.layout import (
    MANIFEST,
    STATISTICS,
    UNFINISHED,
    FileSum,
    Manifest,
    Plan,
    Shard,
    plan_from_json,
    plan_to_json,
)
from data_pipelines.prepared.shards import ShardJob, ShardReport, read_part, read_report, write_shard
from data_pipelines.prepared.statistics import summarize
from data_pipelines.sources.records import Source
from data_pipelines.storage import checksum, entries, held, publish, remove_leftovers, staging
from data_pipelines.worker_processes import Workers, spans

_PLAN = "plan.json"
_LOOKED_AT = 256  # images that tell whether a source is still the same
_TOLERATED = 100  # records that may be left out before their share is looked at


@dataclass(frozen=True)
class Prepared:
    """A finished set."""

    manifest: Manifest
    """What it holds."""
    statistics: dict[str, Any]
    """What ``statistics.json`` says."""
    new_shards: int
    """How many of its shards were written in this run."""


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
    source: Source,
    plan: Plan,
    folder: epath.Path,
    workers: Workers,
    max_invalid: float,
    advance: Callable[[int], None],
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
        new = sum(report is None for report in reports)
        seen = found = 0
        written = workers.results(write_shard, _jobs(source, plan, folder, reports))
        for number, (start, stop) in enumerate(spans(plan.source_records, plan.shard_records)):
            report = reports[number] or next(written)
            reports[number] = report
            seen, found = stop, found + report.left_out
            advance(stop - start)
            if found >= _TOLERATED or stop == plan.source_records:
                _refuse_too_many(plan, folder, reports, found, seen, max_invalid)
        done = [report for report in reports if report is not None]
        return _finish(plan, folder, done, new)


def _finished(plan: Plan, folder: epath.Path) -> Prepared | None:
    """What is in ``folder``, if it is the finished set of ``plan``; None where there is no finished set."""
    try:
        manifest = Manifest.from_json((folder / MANIFEST).read_bytes(), str(folder / MANIFEST))
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
        noted = plan_from_json((unfinished / _PLAN).read_bytes(), str(unfinished / _PLAN))
    except FileNotFoundError:
        others = [name for name in entries(folder) if name != UNFINISHED]
        if others:
            raise DataError(f"{folder}: holds other files, {min(others)} for one; give another --out") from None
        with staging(unfinished) as place:
            (place / _PLAN).write_bytes(plan_to_json(plan))
            publish(place / _PLAN, unfinished / _PLAN)
    else:
        _refuse_differences(noted, plan, folder)
    remove_leftovers(unfinished)


def _refuse_differences(noted: Plan, plan: Plan, folder: epath.Path) -> None:
    differences = noted.differences(plan)
    if differences:
        # A fingerprint says nothing to anybody.
        told = [difference for difference in differences if not difference.startswith("fingerprint")]
        what = "; ".join(told) or "the source has changed"
        raise DataError(f"{folder}: was begun otherwise ({what}): give another --out, or delete this folder")


def _jobs(
    source: Source, plan: Plan, folder: epath.Path, reports: list[ShardReport | None]
) -> Iterator[tuple[ShardJob]]:
    for number, (start, stop) in enumerate(spans(plan.source_records, plan.shard_records)):
        if reports[number] is None:
            # A worker gets the names and labels of its shard only, where these are in memory.
            part = getattr(source, "part", None)
            if part is None:
                yield (ShardJob(source, start, stop, plan, number, os.fspath(folder)),)
            else:
                yield (ShardJob(part(start, stop), 0, stop - start, plan, number, os.fspath(folder)),)


def _refuse_too_many(
    plan: Plan, folder: epath.Path, reports: list[ShardReport | None], found: int, seen: int, max_invalid: float
) -> None:
    if found <= max_invalid * seen and found < plan.source_records:
        return
    name, why = next(problem for report in reports if report for problem in report.problems)
    advice = f"mend the source and delete {folder}, or allow for more" if found < seen else "give another source"
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
        with IndexWriter(place, plan.labelled) as index:
            for number in range(plan.shards):
                index.append(*read_part(folder, number))
        files = {name: place / name for name in index_files(plan.labelled)}
        sums = {name: FileSum(path.stat().st_size, checksum(path)) for name, path in files.items()}
        left_out = sum(report.left_out for report in reports)
        manifest = Manifest(plan, records, left_out, shards, sums)
        labels = map_strings(place, "labels", records) if plan.labelled else None
        summary = summarize(manifest, reports, labels, map_array(place / "sizes.npy", (records, 2), np.int32))
        for name, path in files.items():
            publish(path, folder / FOLDER / name)
        _describe(plan, folder, shards)
        (place / STATISTICS).write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        publish(place / STATISTICS, folder / STATISTICS)
        (place / MANIFEST).write_bytes(manifest.to_json())
        publish(place / MANIFEST, folder / MANIFEST)
    (folder / UNFINISHED).rmtree()
    return Prepared(manifest, summary, new_shards)


def _describe(plan: Plan, folder: epath.Path, shards: tuple[Shard, ...]) -> None:
    """Write ``dataset_info.json`` and ``features.json``, with which TFDS reads the shards."""
    features: dict[str, Any] = {
        "image": tfds.features.Image(doc="The bytes of an image file; decoded to uint8 (height, width, 3)"),
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
