"""Running a step that goes through its input part by part: what all steps share."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

from pydantic import BaseModel
from rich.console import Console
from rich.progress import Progress, TaskID

from data_pipelines.construct.engine import Engine, Results, engine_results
from data_pipelines.construct.records import words_as_lines
from data_pipelines.construct.report import Report
from data_pipelines.construct.resume import as_noted, finish_parts, join, refuse_differences, unfinished, work_folder
from data_pipelines.errors import UserError
from data_pipelines.progress import progress_bar


@dataclass(frozen=True, kw_only=True)
class Running:
    """How a step is run. What it makes does not depend on it."""

    workers: int = os.cpu_count() or 1
    """Worker processes; 0 for none."""
    engine: Engine = "local"
    """Where to work: in processes of this machine, or on a Ray cluster (needs: pip install -e '.[ray]')."""
    takes_device: ClassVar[bool] = False
    """Whether a call uses all cores, or an accelerator."""

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise UserError("--workers must not be negative")


class Outcome(NamedTuple):
    """What a step made of a part."""

    words: Sequence[BaseModel]
    """The words that it passes on, in order; or what else its list has a line for."""
    counts: Counter[str]
    """How many words came ``in`` and went ``out``, and how many were left out, by reason."""


class Part(Protocol):
    """What one call of a step works on: a ``Span``, perhaps with more."""

    @property
    def lines(self) -> int:
        """How many records it has, for the progress bar."""


AnyPart = TypeVar("AnyPart", bound=Part)


class Work(NamedTuple):
    """A step under way."""

    folder: Path
    """The folder of unfinished work."""
    results: Results
    """Calls functions, here or elsewhere."""
    progress: Progress

    @property
    def made(self) -> Path:
        """Where the result is to be left."""
        return self.folder / "made"

    def finish(self, phase: str, work: Callable[[AnyPart], Iterable[bytes]], parts: Sequence[AnyPart]) -> list[Path]:
        """``finish_parts`` with a progress bar named by the phase."""
        bar = self.progress.add_task(phase, total=sum(part.lines for part in parts))
        advance = partial(_advance, self.progress, bar)
        return finish_parts(self.folder, phase, work, parts, self.results, advance)


def run_step(
    step: Callable[[AnyPart], Outcome],
    parts: Callable[[Work], Sequence[AnyPart]],
    out: Path,
    plan: Mapping[str, Any],
    running: Running,
) -> Report:
    """Make the list ``out`` of what ``step`` makes of each part; write and print the report.

    ``step`` is pure and picklable. ``parts`` is given the work, for what has to be done first. Raises what ``make``
    raises.
    """

    def make_list(work: Work) -> Counter[str]:
        files = work.finish("words", partial(_lines, step), parts(work))
        join(files, work.made, skip=1)
        return sum(map(_counts, files), Counter[str]())

    return make(make_list, out, plan, running)


def make(work_of: Callable[[Work], Counter[str]], out: Path, plan: Mapping[str, Any], running: Running) -> Report:
    """Make ``out``, a file or folder, which ``work_of`` leaves at ``Work.made``, and write and print the report on it.

    ``plan`` holds the name of the ``step`` and all that the result depends on, the checksums of lists among it. What
    was made by the same plan is left as it is. Raises ``DataError`` where there is something else.
    """
    out = out.absolute()  # machines of a cluster have other working folders
    if out.exists():
        report = Report.read(out)
        refuse_differences(report.plan, plan, out, out)
        shutil.rmtree(work_folder(out), ignore_errors=True)  # the run was killed at its very end
    else:
        with (
            unfinished(out, plan) as folder,
            engine_results(running.engine, running.workers, running.takes_device) as results,
            progress_bar(Console(stderr=True)) as progress,
        ):
            work = Work(folder, results, progress)
            report = Report(as_noted(plan), work_of(work))
            report.write(out)
            work.made.replace(out)
    report.print(out)
    return report


def _advance(progress: Progress, bar: TaskID, part: Part) -> None:
    progress.advance(bar, part.lines)


def _lines(step: Callable[[AnyPart], Outcome], part: AnyPart) -> Iterator[bytes]:
    words, counts = step(part)
    yield json.dumps(counts).encode() + b"\n"
    yield from words_as_lines(words)


def _counts(file: Path) -> Counter[str]:
    with file.open("rb") as opened:
        return Counter(json.loads(opened.readline()))
