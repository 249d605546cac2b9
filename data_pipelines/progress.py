"""The progress bar of commands that go through the records of several sets."""

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def progress_bar(console: Console) -> Progress:
    """What shows ``Bar``s on a console: with counts, rates and the time left. They vanish in the end."""
    rate = TextColumn("{task.fields[rate]}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True)


class Bar:
    """The bar of one set, from when it is being opened."""

    def __init__(self, progress: Progress, title: str) -> None:
        self._progress, self._title, self._done = progress, title, 0
        self._bar = progress.add_task(f"{title}: opening", total=None, rate="")
        self._start = time.perf_counter()

    def start(self, total: int) -> None:
        """The set is open and has this many records."""
        self._start = time.perf_counter()
        self._progress.update(self._bar, description=self._title, total=total)

    def advance(self, count: int) -> None:
        """So many more records are done."""
        self._done += count
        rate = self._done / (time.perf_counter() - self._start)
        self._progress.update(self._bar, advance=count, rate=f"{rate:,.0f} records/s")

    def print(self, text: str) -> None:
        """Print above the bars."""
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def remove(self) -> None:
        """The set is done."""
        self._progress.remove_task(self._bar)
