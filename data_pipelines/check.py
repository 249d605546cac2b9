"""Look at every record of a download: ``python -m data_pipelines.check ROOT``."""

import json
import multiprocessing
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from data_pipelines.catalogue import Place, locate
from data_pipelines.check_report import SetReport, print_report, report_as_json
from data_pipelines.inspecting import Findings, Rules, inspect, open_annotations, open_lmdb
from data_pipelines.records import DataError, Source
from data_pipelines.sources import AnnotatedImages
from data_pipelines.worker_processes import follow_parent
from maerec_jax.charset import MAEREC_CHARACTERS
from maerec_jax.command import run_command

Submit = Callable[..., Future[Findings]]

_CHUNK = 512  # records that a worker looks at before it reports
_AHEAD = 4  # chunks that wait for each worker


@dataclass(frozen=True)
class CheckArguments:
    """Compare a download of Union14M and the common benchmarks with what they should hold, and decode every image.

    Finds the sets by the names of their folders and files, counts what is missing, damaged or unusual in each, and
    prints it as a table. Labels that cannot be read are problems; labels that are long or hold unknown characters, and
    vertical images, are not. The exit status is 0 where all that was found can be read, 1 where there are problems,
    and 2 where ROOT is not there.
    """

    root: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ROOT")]
    """The folder that holds Union14M-L, Union14M-U and the like, or one of these folders."""
    workers: int = os.cpu_count() or 1
    """Processes that read and decode; 0 does it in the main process."""
    json: str = ""
    """Also write everything to this JSON file."""
    list: int = 10
    """How many records with the same problem are named in each set."""
    max_length: int = 46
    """Labels with more characters are counted as too long."""
    characters: str = MAEREC_CHARACTERS
    """The characters that the recogniser can write; labels with others are counted. By default the published 91."""

    def __post_init__(self) -> None:
        if self.workers < 0 or self.list < 0 or self.max_length < 1:
            raise ValueError("workers and list must be at least 0, and max_length at least 1")


def check(arguments: CheckArguments) -> int:
    """Check a download, print the table, and return the exit status."""
    root = Path(arguments.root)
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        print(f"error: {root}: {what}; give the folder that holds Union14M-L or Union14M-U", file=sys.stderr)
        return 2
    places, extra = locate(root)
    if not places:
        raise DataError(f"{root}: holds no set of the catalogue; give the folder that holds Union14M-L or Union14M-U")
    if arguments.json:
        Path(arguments.json).parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    rules = Rules(arguments.characters, arguments.max_length, arguments.list)
    reports = check_places(root, places, rules, arguments.workers, Console(stderr=True))
    seconds = time.perf_counter() - start
    print_report(root, reports, extra, seconds)
    if arguments.json:
        report = report_as_json(root, reports, extra, seconds)
        Path(arguments.json).write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return int(any(report.findings.problems for report in reports))


def check_places(root: Path, places: list[Place], rules: Rules, workers: int, console: Console) -> list[SetReport]:
    """Look at every record of ``places`` under ``root`` in ``workers`` processes, with a progress bar on ``console``.

    Reports come in the order of ``places``. Raises ``DataError`` where a worker process is ended from outside.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    reports = []
    with _submitter(workers) as submit, Progress(*columns, console=console, transient=True) as progress:
        for number, place in enumerate(places, 1):
            title = f"{number}/{len(places)} {place.word_set.name}"
            bar = progress.add_task(f"{title}: opening", total=None, rate="")
            report, source = _open(root, place, rules)
            progress.update(bar, description=title, total=report.records)
            start, done = time.perf_counter(), 0
            for found, size in _inspect_all(source, rules, submit, _AHEAD * max(1, workers)):
                report.findings += found
                done += size
                rate = done / (time.perf_counter() - start)
                progress.update(bar, advance=size, rate=f"{rate:,.0f} records/s")
            progress.remove_task(bar)
            reports.append(report)
    return reports


def _open(root: Path, place: Place, rules: Rules) -> tuple[SetReport, Source | None]:
    found = Findings(rules.listed)
    source: Source | None
    if place.kind == "lmdb":
        source = open_lmdb(root, place.paths[0], place.word_set.labelled, found)
    else:
        source = open_annotations(root, place.paths, found)
    refused = found.counts["malformed"] + found.counts["outside"]
    return SetReport(place, 0 if source is None else len(source), refused, found), source


def _inspect_all(source: Source | None, rules: Rules, submit: Submit, ahead: int) -> Iterator[tuple[Findings, int]]:
    """What is found in each chunk of ``source``, in order, and its size. Few chunks exist at any time."""
    waiting: deque[tuple[Future[Findings], int]] = deque()
    if source is None:
        return
    size, done = len(source), 0
    try:
        for start in range(0, size, _CHUNK):
            indices = range(start, min(start + _CHUNK, size))
            if isinstance(source, AnnotatedImages):
                # A worker gets the names and labels of its chunk only, not those of millions of records.
                future = submit(inspect, source.part(indices.start, indices.stop), range(len(indices)), rules)
            else:
                future = submit(inspect, source, indices, rules)
            waiting.append((future, len(indices)))
            if len(waiting) >= ahead:
                future, count = waiting.popleft()
                yield future.result(), count
                done += count
        for future, count in waiting:
            yield future.result(), count
            done += count
    except BrokenProcessPool:
        where = f"at {source.name(done)} or within {ahead * _CHUNK:,} records after it"
        raise DataError(f"a worker process has died, {where}; if memory is short, try fewer --workers") from None


@contextmanager
def _submitter(workers: int) -> Iterator[Submit]:
    """A function like ``Executor.submit``; without workers it does the work when it is called."""
    if not workers:
        yield _do_now
        return
    # Spawned, not forked: the progress bar has a thread.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_start_worker) as pool:
        try:
            yield pool.submit
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _do_now(function: Callable[..., Findings], *arguments: object) -> Future[Findings]:
    future: Future[Findings] = Future()
    future.set_result(function(*arguments))
    return future


def _start_worker() -> None:
    follow_parent()
    # What libjpeg has to say about damaged images would run into the progress bar; the report says it, too.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


if __name__ == "__main__":
    sys.exit(run_command(CheckArguments, check, "python -m data_pipelines.check"))
