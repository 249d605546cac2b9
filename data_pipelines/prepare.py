"""Convert word images to sharded ArrayRecord: ``python -m data_pipelines.prepare ROOT --out FOLDER``."""

import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, NamedTuple

import tyro
from etils import epath
from rich.console import Console
from rich.table import Table
from rich.text import Text

from data_pipelines.command import main_of
from data_pipelines.errors import DataError
from data_pipelines.find_overlaps import spec_by_ending
from data_pipelines.prepared.conversion import Prepared, fingerprint, is_labelled, prepare_set
from data_pipelines.prepared.layout import Plan
from data_pipelines.progress import progress_bar, table_console
from data_pipelines.sources.combining import SourceSpec
from data_pipelines.sources.files import Annotations, LmdbWords, with_links
from data_pipelines.union14m.catalogue import BENCHMARK, COMMON, Place, locate
from data_pipelines.worker_processes import Workers

LEFT_OUT = 3
"""The exit status where all sets are finished, but records were left out."""

_LISTED = 10  # records left out of a set that are named on the screen
_LONGEST_NAME = 150  # characters; of a longer path the end


@dataclass(frozen=True)
class PrepareArguments:
    """Convert data sets to ArrayRecord shards, for fast random access on pods and in TFDS.

    Finds the sets of Union14M and the common benchmarks under ROOT by name; writes each to a folder in --out.

    Use a folder in a config as Records("FOLDER/SET"). Images keep their bytes, and records their names.

    Repeat a stopped command to resume it. Records without a usable image are left out and reported.

    Exit status: 0 if all records were converted, 3 if some were left out, 1 on errors.
    """

    root: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ROOT")]
    """Data root: the folder that holds the data sets."""
    out: str
    """Folder to write to; gs://BUCKET/FOLDER needs: pip install -e '.[gcs]'"""
    sets: tuple[str, ...] = ()
    """Sets to convert, for example train_easy cc_lmdb; default: all that are found."""
    sources: tuple[str, ...] = ()
    """Convert these lists, LMDBs or image folders (paths relative to ROOT), and only the sets in --sets."""
    workers: int = os.cpu_count() or 1
    """Worker processes; 0 for none. The shards do not depend on it."""
    shard_records: int = 32_768
    """Records per shard; 32,768 make 100 to 200 MB."""
    max_invalid: float = 0.1
    """Stop if a larger share of a set's records cannot be read or decoded."""
    follow_links: bool = False
    """Also read images and folders behind links, wherever they lead."""

    def __post_init__(self) -> None:
        if self.workers < 0 or self.shard_records < 1 or not 0 <= self.max_invalid <= 1:
            raise ValueError("--workers must be at least 0, --shard-records at least 1, and --max-invalid from 0 to 1")


class Task(NamedTuple):
    """A set to be prepared: the name of its folder, its split for TFDS, and its source, relative to the data root."""

    name: str
    split: Literal["train", "validation", "test"]
    path: str
    spec: SourceSpec


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
            raise DataError(f"{root}: no set named {', '.join(missing)}; available: {there}")
        if not found:
            raise DataError(f"{root} holds no known set: give the folder that holds Union14M-L, or use --sources")
        tasks = [_task(place) for place in places if not sets or place.word_set.name in sets]
    tasks += [Task(_name(root, path), "train", path, spec_by_ending(root, path)) for path in sources]
    for name, count in Counter(task.name for task in tasks).items():
        if count > 1:
            paths = ", ".join(task.path for task in tasks if task.name == name)
            raise DataError(f"{paths} have the same name {name}: convert them one by one, with different --out")
    return tasks


def _task(place: Place) -> Task:
    name, path, labelled = place.word_set.name, place.paths[0], place.word_set.labelled
    spec = LmdbWords(path=path, labelled=labelled) if place.kind == "lmdb" else Annotations(path=path)
    measured = place.collection in (BENCHMARK, COMMON)
    return Task(name, "test" if measured else "validation" if name == "val_annos" else "train", path, spec)


def _name(root: Path, path: str) -> str:
    """A name for the source at ``path`` that is one for folders, Python and TFDS: of ASCII letters, digits and _."""
    stem = path if (root / path).is_dir() else str(PurePosixPath(path).with_suffix(""))
    names = (re.sub(r"\W+", "_", each, flags=re.ASCII).strip("_") for each in (stem, root.resolve().name))
    name = next(filter(None, names), "words")[-_LONGEST_NAME:]
    return name if name[:1].isalpha() else f"set_{name}"


def prepare(arguments: PrepareArguments) -> int:
    """Prepare the sets, print a table of them, and return the exit status."""
    root, out = Path(arguments.root), epath.Path(os.path.expanduser(arguments.out))
    if not root.is_dir():
        raise DataError(f"{root} {'is a file' if root.exists() else 'does not exist'}: give the data root")
    tasks, done = find_tasks(root, arguments.sets, arguments.sources), list[Prepared]()
    tasks = [task._replace(spec=with_links(task.spec, arguments.follow_links)) for task in tasks]
    start = time.perf_counter()
    try:
        with Workers(arguments.workers) as workers, progress_bar(Console(stderr=True)) as progress:
            tell = partial(progress.console.out, highlight=False)
            for number, task in enumerate(tasks, 1):
                bar = progress.add_task(f"{number}/{len(tasks)} {task.name}", total=None)
                source = task.spec.open(root)
                for note in getattr(source, "notes", ()):
                    tell(note)
                plan = Plan(
                    name=task.name,
                    split=task.split,
                    source=task.path,
                    source_records=len(source),
                    fingerprint=fingerprint(source),
                    labelled=is_labelled(source),
                    shard_records=arguments.shard_records,
                )
                progress.update(bar, total=len(source))
                advance = partial(progress.advance, bar)
                done.append(prepare_set(source, plan, out / task.name, workers, arguments.max_invalid, advance))
                _tell_changes(done[-1], tell)
                progress.remove_task(bar)
    except ImportError as error:  # epath's: what reads and writes buckets is not installed
        raise DataError(f"{out}: {error}; pip install -e '.[gcs]' in the project's folder") from error
    _print_table(out, done, time.perf_counter() - start)
    return LEFT_OUT if any(prepared.manifest.left_out for prepared in done) else 0


def _tell_changes(prepared: Prepared, tell: Callable[[str], None]) -> None:
    plan, left_out = prepared.manifest.plan, prepared.manifest.left_out
    if changed := prepared.statistics.get("labels_composed"):  # sets of earlier versions do not count them
        tell(f"{plan.name}: {changed:,} labels in decomposed Unicode form (NFD) are stored as composed ones (NFC)")
    if left_out:
        tell(f"{plan.name}: {left_out:,} of {plan.source_records:,} records left out")
        problems = prepared.statistics["left_out_because"][:_LISTED]
        for problem in problems:
            tell(f"  {problem['name']}: {problem['detail']}")
        if left_out > len(problems):
            tell("  ...")


def _print_table(out: epath.Path, done: list[Prepared], seconds: float) -> None:
    table = Table(title=Text(str(out)), title_justify="left")
    table.add_column("set", overflow="fold")
    for column in ("records", "left out", "shards", "new", "MB"):
        table.add_column(column, justify="right")
    for prepared in done:
        records, left_out, shards = (getattr(prepared.manifest, part) for part in ("records", "left_out", "shards"))
        cells = (f"{records:,}", f"{left_out:,}" if left_out else "-", f"{len(shards):,}", f"{prepared.new_shards:,}")
        table.add_row(prepared.manifest.plan.name, *cells, f"{sum(shard.bytes for shard in shards) / 1e6:,.1f}")
    console = table_console()
    console.print(table)
    records = sum(prepared.manifest.records for prepared in done)
    left_out = sum(prepared.manifest.left_out for prepared in done)
    console.print(f"{records:,} records in {seconds:,.1f} s; {left_out:,} left out", highlight=False)


main = main_of(PrepareArguments, prepare, "data_pipelines.prepare")

if __name__ == "__main__":
    sys.exit(main())
