"""Convert word images to sharded ArrayRecord: ``python -m data_pipelines.prepare ROOT --out FOLDER``."""

import os
import re
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import tyro
from etils import epath
from rich.console import Console
from rich.table import Table
from rich.text import Text

from data_pipelines.command import run_command
from data_pipelines.errors import DataError
from data_pipelines.find_overlaps import spec_by_ending
from data_pipelines.prepared.conversion import Prepared, fingerprint, is_labelled, prepare_set
from data_pipelines.prepared.layout import Plan
from data_pipelines.progress import Bar, progress_bar
from data_pipelines.sources.combining import SourceSpec
from data_pipelines.sources.files import Annotations, LmdbWords
from data_pipelines.union14m.catalogue import BENCHMARK, COMMON, Place, locate
from data_pipelines.worker_processes import Workers

LEFT_OUT = 3
"""The exit status where all sets are finished, but records were left out."""

_LISTED = 10  # records left out of a set that are named on the screen
_NARROWEST = 160  # columns of a table that is not printed to a terminal


@dataclass(frozen=True)
class PrepareArguments:
    """Convert word images to sharded ArrayRecord, which pods and TFDS read at random without TensorFlow.

    Finds the sets of Union14M and the common benchmarks under ROOT by their names, as data_pipelines.check does, and
    writes a folder for each into --out; Records("FOLDER/SET") reads it in a config. Images keep their bytes unless
    --max-height is given. Records keep the names that they have relative to ROOT, so that lists of --data.exclude stay
    valid.

    Stopped at any moment, the same command goes on with the shards that are missing. The shards do not depend on the
    number of workers. A record whose image is missing or cannot be decoded is left out, counted and named.

    The exit status is 0 where every record was converted, 3 where some were left out, and 1 where the work was stopped.
    """

    root: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ROOT")]
    """The data root."""
    out: str
    """Where the folders of the sets go; gs://BUCKET/FOLDER, too, with gcsfs installed (pip install -e .[gcs])."""
    sets: tuple[str, ...] = ()
    """Names of the sets to convert, such as train_easy cc_lmdb; by default all that are found."""
    sources: tuple[str, ...] = ()
    """Convert these, relative to ROOT: lists (.jsonl, .json, .tsv, .txt), LMDB folders, image folders. A set is named
    after its path. Without --sets, nothing else is then converted."""
    workers: int = os.cpu_count() or 1
    """Processes that read, decode and write; 0 does it in the main process."""
    shard_records: int = 32_768
    """Records in a shard: at 3 to 6 KB a word, 100 to 200 MB."""
    max_height: int = 0
    """Store images higher than this many pixels as smaller copies (JPEG of quality 95), where that saves bytes; of
    vertical images the width counts. What it costs is measured and told. 0 keeps all bytes as they are."""
    max_invalid: float = 0.1
    """Stop at a set of which more than this share of the records cannot be read or decoded."""

    def __post_init__(self) -> None:
        if self.workers < 0 or self.max_height < 0 or self.shard_records < 1 or not 0 <= self.max_invalid <= 1:
            raise ValueError(
                "workers and max-height must be at least 0, shard-records at least 1, and max-invalid from 0 to 1"
            )


@dataclass(frozen=True)
class Task:
    """A set to be prepared."""

    name: str
    """The name of its folder."""
    split: Literal["train", "validation", "test"]
    """Its split for TFDS."""
    path: str
    """Its source, relative to the data root."""
    spec: SourceSpec
    """The same, to be opened."""


def find_tasks(root: Path, sets: tuple[str, ...], sources: tuple[str, ...]) -> list[Task]:
    """What to prepare: the sets of the catalogue with the given names, or all if there are no ``sources`` either.

    Raises ``DataError`` for a set that is not there, or is there twice.
    """
    tasks = []
    if sets or not sources:
        places = [place for place in locate(root)[0] if place.kind != "records"]
        found = {place.word_set.name for place in places}
        if missing := sorted(set(sets) - found):
            there = ", ".join(sorted(found)) or "none"
            raise DataError(f"{root}: holds no set named {', '.join(missing)}; there are: {there}")
        if not found:
            raise DataError(f"{root}: holds no set of the catalogue; give the folder above Union14M-L, or --sources")
        tasks = [_task(place) for place in places if not sets or place.word_set.name in sets]
    tasks += [Task(_name(root, path), "train", path, spec_by_ending(root, path)) for path in sources]
    for name, count in Counter(task.name for task in tasks).items():
        if count > 1:
            paths = ", ".join(task.path for task in tasks if task.name == name)
            raise DataError(f"{name}: is the name of {paths}: give one of them to --sources, or one to each --out")
    return tasks


def _task(place: Place) -> Task:
    name, path, labelled = place.word_set.name, place.paths[0], place.word_set.labelled
    spec = LmdbWords(path=path, labelled=labelled) if place.kind == "lmdb" else Annotations(path=path)
    measured = place.collection in (BENCHMARK, COMMON)
    return Task(name, "test" if measured else "validation" if name == "val_annos" else "train", path, spec)


def _name(root: Path, path: str) -> str:
    """A name for the source at ``path`` that is one for folders, Python and TFDS."""
    stem = path if (root / path).is_dir() else str(PurePosixPath(path).with_suffix(""))
    name = re.sub(r"\W+", "_", stem, flags=re.ASCII).strip("_") or root.resolve().name
    return name if name[:1].isalpha() else f"set_{name}"


def prepare(arguments: PrepareArguments) -> int:
    """Prepare the sets, print a table of them, and return the exit status."""
    root, out = Path(arguments.root), epath.Path(os.path.expanduser(arguments.out))
    if not root.is_dir():
        raise DataError(f"{root}: {'is a file' if root.exists() else 'does not exist'}; give the data root")
    tasks, done = find_tasks(root, arguments.sets, arguments.sources), []
    start = time.perf_counter()
    try:
        with Workers(arguments.workers) as workers, progress_bar(Console(stderr=True)) as progress:
            for number, task in enumerate(tasks, 1):
                bar = Bar(progress, f"{number}/{len(tasks)} {task.name}")
                prepared = _prepare(task, root, out / task.name, arguments, workers, bar)
                _tell_left_out(task, prepared, bar)
                bar.remove()
                done.append((task, prepared))
    except ImportError as error:  # epath's: what reads and writes buckets is not installed
        raise DataError(f"{out}: {error}; pip install gcsfs") from error
    _print_table(out, done, time.perf_counter() - start)
    return LEFT_OUT if any(prepared.manifest.left_out for _, prepared in done) else 0


def _prepare(
    task: Task, root: Path, folder: epath.Path, arguments: PrepareArguments, workers: Workers, bar: Bar
) -> Prepared:
    source = task.spec.open(root)
    for note in getattr(source, "notes", ()):
        bar.print(note)
    plan = Plan(
        name=task.name,
        split=task.split,
        source=task.path,
        source_records=len(source),
        fingerprint=fingerprint(source),
        labelled=is_labelled(source),
        shard_records=arguments.shard_records,
        max_height=arguments.max_height,
    )
    bar.start(len(source))
    return prepare_set(source, plan, folder, workers, arguments.max_invalid, bar.advance)


def _tell_left_out(task: Task, prepared: Prepared, bar: Bar) -> None:
    left_out = prepared.manifest.left_out
    if left_out:
        lines = [f"{task.name}: {left_out:,} of {prepared.manifest.plan.source_records:,} records left out"]
        problems = prepared.statistics["left_out_because"][:_LISTED]
        lines += [f"  {problem['name']}: {problem['detail']}" for problem in problems]
        lines += ["  ..."] if left_out > len(problems) else []
        bar.print("\n".join(lines))


def _print_table(out: epath.Path, done: list[tuple[Task, Prepared]], seconds: float) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=max(console.width, _NARROWEST))
    resized = any(prepared.statistics["resized"]["images"] for _, prepared in done)
    table = Table(title=Text(str(out)), title_justify="left")
    columns = ["records", "left out", "shards", "new", "MB"]
    columns += ["resized", "MB saved", "bilinear: difference", "PSNR", "bicubic: difference", "PSNR"] if resized else []
    table.add_column("set", overflow="fold")
    for column in columns:
        table.add_column(column, justify="right")
    for task, prepared in done:
        manifest, summary = prepared.manifest, prepared.statistics
        cells = [f"{manifest.records:,}", f"{manifest.left_out:,}" if manifest.left_out else "-"]
        cells += [f"{len(manifest.shards):,}", f"{prepared.new_shards:,}", f"{summary['bytes']['shards'] / 1e6:,.1f}"]
        if resized:
            cost = summary["resized"]
            cells += [f"{cost['images']:,}", f"{(cost['bytes_before'] - cost['bytes_after']) / 1e6:,.1f}"]
            for difference in cost["difference"].values():
                cells += [f"{difference['mean_absolute']:.2f}", f"{difference['psnr']:.1f} dB"]
        table.add_row(Text(task.name), *cells)
    console.print(table)
    records = sum(prepared.manifest.records for _, prepared in done)
    left_out = sum(prepared.manifest.left_out for _, prepared in done)
    console.print(f"{records:,} records in {seconds:,.1f} s; {left_out:,} left out", highlight=False)
    if resized:
        console.print(
            "difference: mean absolute difference, in grey levels, of the 32 x 128 pictures that training sees from "
            "those of the original bytes, over the resized images; PSNR: of the mean squared difference",
            highlight=False,
            soft_wrap=True,
        )


if __name__ == "__main__":
    sys.exit(run_command(PrepareArguments, prepare, "python -m data_pipelines.prepare"))
