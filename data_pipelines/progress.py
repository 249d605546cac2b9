"""What commands that go through many records print: a progress bar, and wide tables."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        """How many records were done in a second of late."""
        return Text(f"{task.speed or 0:,.0f} records/s")


def progress_bar(console: Console) -> Progress:
    """Bars on a console, with counts, rates and the time left. They vanish in the end."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True)


def table_console() -> Console:
    """Where tables are printed: without a terminal that tells its width, 200 columns wide."""
    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, 200))
