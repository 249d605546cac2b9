"""What a step did: how many records came in and went out, and why the others did not."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etils import epath
from rich.table import Table

from data_pipelines.errors import DataError
from data_pipelines.progress import table_console
from data_pipelines.storage import write_whole

IN, OUT = "in", "out"
"""What counters call the words that a step was given, and those that it passed on."""


def report_of(out: Path) -> Path:
    """Where the report of what made ``out`` is."""
    return out.with_name(f"{out.name.removesuffix('.jsonl')}.report.json")


@dataclass(frozen=True)
class Report:
    """The counts of a step: of ``in``, of ``out``, and of words left out by reason."""

    plan: dict[str, Any]
    """What the step was told to do, its name first: what ``resume.unfinished`` compares."""
    counts: Counter[str]
    """Of words."""

    def __post_init__(self) -> None:
        dropped = sum(self.dropped.values())
        assert self.counts[IN] == self.counts[OUT] + dropped, f"{self.plan} has lost words: {self.counts}"

    @property
    def dropped(self) -> dict[str, int]:
        """How many words were left out, by reason; the most frequent first."""
        return {why: number for why, number in self.counts.most_common() if why not in (IN, OUT) and number}

    @classmethod
    def read(cls, out: Path) -> "Report":
        """The report beside a finished ``out``. Raises ``DataError`` where it is not there or something else."""
        path = report_of(out)
        try:
            told = json.loads(path.read_text())
            return cls(told["plan"], Counter({IN: told[IN], OUT: told[OUT], **told["dropped"]}))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{out}: is there, without a report of its making: give another --out") from error

    def write(self, out: Path) -> None:
        """Write it as JSON beside ``out``."""
        told = {"plan": self.plan, IN: self.counts[IN], OUT: self.counts[OUT], "dropped": self.dropped}
        write_whole(epath.Path(report_of(out)), json.dumps(told, indent=1, ensure_ascii=False) + "\n")

    def print(self, out: Path) -> None:
        """Print it as a table; ``out`` is what was made."""
        table = Table("", "", show_header=False)
        table.columns[1].justify = "right"
        rows = {IN: self.counts[IN], **{f"left out: {why}": n for why, n in self.dropped.items()}}
        for what, number in {**rows, OUT: self.counts[OUT]}.items():
            table.add_row(what, f"{number:,}")
        console = table_console()
        console.out(f"{self.plan['step']}: {out}", highlight=False)
        console.print(table)
