"""What commands that go through many records print: a progress bar, and wide tables."""

import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

TELL_EVERY = 30.0
"""Seconds between lines of progress where there is no terminal to show a bar."""


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        """How many records were done in a second of late."""
        return Text(f"{task.speed or 0:,.0f} records/s")


class _Progress(Progress):
    """Bars, or lines where there is no terminal."""

    def start(self) -> None:
        """Show the bars."""
        self._told = time.monotonic()
        super().start()

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """Count records as done."""
        super().advance(task_id, advance)
        now = time.monotonic()
        if not self.disable and not self.console.is_terminal and now - self._told >= TELL_EVERY:
            self._told = now
            task = self._tasks[task_id]
            of = f" of {task.total:,.0f}" if task.total is not None else ""
            self.console.print(f"{task.description}: {task.completed:,.0f}{of}", highlight=False, markup=False)


def progress_bar(console: Console, disable: bool = False) -> Progress:
    """Bars on a console, with counts, rates and the time left, which vanish in the end.

    Without a terminal there is a line every half minute instead.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    return _Progress(*columns, console=console, transient=True, disable=disable)


def table_console() -> Console:
    """Where tables are printed: without a terminal that tells its width, 200 columns wide."""
    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, 200))
