"""Look at every record of a download: ``python -m data_pipelines.check ROOT``."""

import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from data_pipelines.charset import MAEREC_CHARACTERS
from data_pipelines.checking.inspecting import Findings, Rules, inspect, open_place
from data_pipelines.checking.report import Report, SetReport
from data_pipelines.command import fail, main_of
from data_pipelines.errors import DataError
from data_pipelines.prepared import RecordSource
from data_pipelines.prepared.layout import FileSum
from data_pipelines.progress import progress_bar
from data_pipelines.sources.records import Source, portion
from data_pipelines.union14m.catalogue import Collection, Place, WordSet, kind_at, locate
from data_pipelines.worker_processes import CHUNK, Workers, spans

_NAMED = Collection("named", ())  # what --sources names


@dataclass(frozen=True)
class CheckArguments:
    """Check a download of Union14M and the common benchmarks: decode every image and list problems.

    Sets are found by the names of folders and files. Prepared sets are also compared with their checksums.

    Missing or damaged images and labels are problems. Long labels and tall images are only counted.

    Exit status: 0 if everything can be read, 1 if there are problems, 2 if ROOT does not exist.
    """

    root: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ROOT")]
    """Folder that holds Union14M-L, Union14M-U and so on, or one of these folders."""
    sources: tuple[str, ...] = ()
    """Check only these annotation lists, LMDBs and prepared sets (paths relative to ROOT)."""
    workers: int = os.cpu_count() or 1
    """Worker processes; 0 for none."""
    json: str = ""
    """Write all results to this JSON file."""
    list: int = 10
    """Records to name for each problem and set."""
    max_length: int = 46
    """Count labels with more characters as too long."""
    characters: str = MAEREC_CHARACTERS
    """Charset: labels with other characters are counted. Default: the published 91."""
    follow_links: bool = False
    """Also read images behind links out of ROOT."""

    def __post_init__(self) -> None:
        if self.workers < 0 or self.list < 0 or self.max_length < 1:
            raise ValueError("workers and list must be at least 0, and max_length at least 1")
        if not self.characters:
            raise ValueError("characters is empty: leave it out for the published 91")


def check(arguments: CheckArguments) -> int:
    """Check a download, print the table, and return the exit status."""
    root, advice = Path(arguments.root), "give the folder that holds Union14M-L or Union14M-U"
    if not root.is_dir():
        fail(f"{root} {'is a file' if root.exists() else 'does not exist'}: {advice}")
        return 2
    places, extra = ([_place(root, path) for path in arguments.sources], []) if arguments.sources else locate(root)
    if not places:
        raise DataError(f"{root} holds no known set: {advice}, or use --sources")
    if arguments.json:
        Path(arguments.json).parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    rules = Rules(arguments.characters, arguments.max_length, arguments.list, arguments.follow_links)
    sets = check_places(root, places, rules, arguments.workers, Console(stderr=True))
    report = Report(root, sets, extra, time.perf_counter() - start)
    report.print()
    if arguments.json:
        text = json.dumps(report.as_json(), indent=2, ensure_ascii=False) + "\n"
        Path(arguments.json).write_text(text, encoding="utf-8")
    return int(report.found.problems > 0)


def _place(root: Path, path: str) -> Place:
    """What a path under ``root`` names. Raises ``DataError`` where that is nothing with records."""
    kind = kind_at(root / path)
    if kind is None:
        raise DataError(f"{root / path} is not an annotation list, LMDB or prepared set: give paths relative to {root}")
    return Place(_NAMED, WordSet(path, None, labelled=None), kind, (path,))


def check_places(root: Path, places: list[Place], rules: Rules, workers: int, console: Console) -> list[SetReport]:
    """Look at every record of ``places`` under ``root`` in ``workers`` processes, with a progress bar on ``console``.

    Reports come in the order of ``places``. Raises ``DataError`` where a worker process is ended from outside.
    """
    reports = []
    with Workers(workers) as pool, progress_bar(console) as progress:
        for number, place in enumerate(places, 1):
            bar = progress.add_task(f"{number}/{len(places)} {place.word_set.name}", total=None)
            findings = Findings(rules.listed)
            source = open_place(root, place, findings, rules.follow_links)
            refused = findings.counts["malformed"] + findings.counts["outside"]
            if isinstance(source, RecordSource):
                refused = source.manifest.left_out
                files = source.files()
                faults = pool.results(FileSum.fault, ((expected, path, True) for path, expected in files))
                for (path, _), fault in zip(files, faults, strict=True):
                    if fault:
                        findings.add("damaged_files", source.title, f"{path}: {fault}")
            if source is not None:
                progress.update(bar, total=len(source))
                for found in _inspect_all(source, rules, pool):
                    findings += found
                    progress.advance(bar, found.records)
            progress.remove_task(bar)
            reports.append(SetReport(place, refused, findings))
    return reports


def _inspect_all(source: Source, rules: Rules, pool: Workers) -> Iterator[Findings]:
    """What is found in each chunk of ``source``, in order."""
    chunks = list(spans(len(source), CHUNK))
    calls = ((*portion(source, start, stop), rules) for start, stop in chunks)
    return pool.results(inspect, calls, lambda done: source.name(chunks[done][0]))


main = main_of(CheckArguments, check, "data_pipelines.check")

if __name__ == "__main__":
    sys.exit(main())
