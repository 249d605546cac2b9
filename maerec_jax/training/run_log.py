"""What a run tells: a progress bar, JSON lines, TensorBoard events and pictures."""

import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
from etils import epath
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from data_pipelines.errors import UserError
from data_pipelines.progress import TELL_EVERY
from data_pipelines.storage import is_bucket
from maerec_jax.reading.pictures import save_picture
from maerec_jax.training.task import Validation
from maerec_jax.training.wall_time import WallTime

METRICS_FILE = "metrics.jsonl"
_SEND_EVERY = 60.0  # seconds


# How numbers are shown in the progress bar; others get four digits.
_SHOWN = {
    "loss": ("loss", ".4f"),
    "learning_rate": ("lr", ".2e"),
    "images_per_second": ("images/s", ",.0f"),
    "mfu": ("MFU", ".1%"),
    "data_wait": ("data wait", ".0%"),
    "step_deviation": ("deviation", ".0%"),
    "epoch": ("epoch", ".2f"),
    "gradient_norm": ("gradient", ".3g"),
    "character_accuracy": ("characters right", ".1%"),
    "word_accuracy": ("WA", ".1%"),
    "word_accuracy_ignore_case": ("WAIC", ".1%"),
    "word_accuracy_ignore_case_symbols": ("WAICS", ".1%"),
    "word_accuracy_36_characters": ("36 characters", ".1%"),
    "edit_similarity": ("1-NED", ".1%"),
    "word_accuracy_all_letters": ("all letters", ".1%"),
}


def _summary_writer() -> Any:
    """tensorboardX's writer of events.

    Where PyTorch and Google's client of buckets are installed it imports both, which takes seconds. What is logged here
    needs neither: so they are kept from it.
    """
    kept: Any = dict.fromkeys({"torch", "google.cloud.storage"} - sys.modules.keys())  # None: cannot be imported
    sys.modules.update(kept)
    try:
        from tensorboardX import SummaryWriter
    finally:
        for name in kept:
            del sys.modules[name]
    return SummaryWriter


class _Outbox:
    """Copies what is written in a local folder to a bucket, whose files cannot be added to."""

    def __init__(self, place: epath.Path, message: Callable[[str], None]) -> None:
        self._place, self._message = place, message
        self._temporary = tempfile.TemporaryDirectory(prefix="maerec_jax-log-")
        self._sent: dict[Path, tuple[int, int]] = {}
        self._one_at_a_time = threading.Lock()
        self.folder = Path(self._temporary.name)
        if (place / METRICS_FILE).exists():  # it is added to
            (self.folder / METRICS_FILE).write_bytes((place / METRICS_FILE).read_bytes())

    def send(self) -> None:
        """Copy the files that have changed since they were last sent. What fails is told, and sent the next time."""
        with self._one_at_a_time:
            for file in sorted(path for path in self.folder.rglob("*") if path.is_file()):
                state = (file.stat().st_size, file.stat().st_mtime_ns)
                if self._sent.get(file) == state:
                    continue
                place = self._place / file.relative_to(self.folder).as_posix()
                try:
                    place.parent.mkdir(parents=True, exist_ok=True)
                    place.write_bytes(file.read_bytes())
                except Exception as error:  # whatever the bucket's library raises; training goes on without its log
                    self._message(f"warning: {place} could not be written: {error}")
                else:
                    self._sent[file] = state

    def close(self) -> None:
        """Send what is left, and remove the local folder."""
        self.send()
        self._temporary.cleanup()


class RunLog:
    """The log of a run. In all but the first process of a run it does nothing, but for alarms.

    Args:
      workdir: the run's folder; metrics.jsonl, tensorboard/ and pictures/ are written there. In a bucket they arrive
        once a minute, and whenever ``arrive`` is called.
      start_step: the steps that are done already; what an interrupted run logged after them is removed, since it is
        computed again.
      total_steps: for the progress bar.
      active: whether this is the process that logs.
      wall_time: that of this run, to which that of earlier runs is added from their log.
    """

    def __init__(
        self, workdir: epath.PathLike, start_step: int, total_steps: int, active: bool, wall_time: WallTime
    ) -> None:
        self.active = active
        self.earlier_sources: list[dict[str, str | int]] = []
        """What had become of the records of each training source at the step that this run starts from."""
        if not active:
            return
        self._outbox = _Outbox(epath.Path(workdir), self.message) if is_bucket(epath.Path(workdir)) else None
        self._sent = self._printed = time.monotonic()
        folder = Path(workdir) if self._outbox is None else self._outbox.folder
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / METRICS_FILE
        if file.exists():
            lines = [(line, parsed) for line in file.read_text().splitlines() if (parsed := _parsed(line)) is not None]
            wall_time.add_earlier([parsed for _, parsed in lines], start_step)
            fresh = file.with_suffix(".new")  # a run that is killed here keeps its log
            kept = [(line, parsed) for line, parsed in lines if parsed["step"] <= start_step]
            fresh.write_text("".join(f"{line}\n" for line, _ in kept))
            fresh.replace(file)
            counted = [parsed["sources"] for _, parsed in kept if parsed.get("group") == "sources"]
            self.earlier_sources = counted[-1] if counted else []
        self._file = file.open("a")
        self._events = _summary_writer()(str(folder / "tensorboard"), purge_step=start_step + 1)
        self._console = Console(stderr=True, width=None if sys.stderr.isatty() else 160)
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not sys.stderr.isatty(),
        )
        self._bar = self._progress.add_task("training", total=total_steps, completed=start_step, status="compiling")
        self._total, self._wall_time = total_steps, wall_time
        self._start = time.time()
        self._write_spent(start_step)

    def __enter__(self) -> "RunLog":
        """Show the progress bar."""
        if self.active:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take the progress bar down and close the files."""
        if self.active:
            self._progress.stop()
            with suppress(OSError):  # what could not be written has been told
                self._file.close()
                self._events.close()
            if self._outbox is not None:
                self._outbox.close()

    def arrive(self) -> None:
        """Bring all that was logged to its place, before a checkpoint that says it was."""
        if self.active:
            self._events.flush()
            if self._outbox is not None:
                self._outbox.send()
                self._sent = time.monotonic()

    def alarm(self, text: str) -> None:
        """Print a line whichever process this is, from any thread."""
        if self.active:
            self.message(text)
        else:
            print(f"process {jax.process_index()} of {jax.process_count()}: {text}", file=sys.stderr, flush=True)

    def message(self, text: str) -> None:
        """Print a line above the progress bar."""
        if self.active:
            self._printed = time.monotonic()
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def advance(self, done: int, validating: bool = False) -> None:
        """Show how many steps are done, and without a terminal now and then whether that is being ``validating``."""
        if self.active:
            self._progress.update(self._bar, completed=done)
            if self._progress.disable and time.monotonic() - self._printed >= TELL_EVERY:
                self.message(f"step {done} of {self._total}{', validating' * validating}")
            if self._outbox is not None and time.monotonic() - self._sent > _SEND_EVERY:
                self._sent = time.monotonic()
                threading.Thread(target=self._outbox.send).start()

    def scalars(self, step: int, values: dict[str, float], group: str = "train") -> None:
        """Log numbers after a step: a JSON line, TensorBoard, and the progress bar (or a printed line without one)."""
        if not self.active:
            return
        now = time.time()
        line = {"step": step, "group": group, **values, "seconds": round(now - self._start, 3), "at": round(now, 3)}
        self._write(line)
        self._plot(step, values, group)
        shown = {name: _SHOWN.get(name, (name.replace("_", " "), ".4g")) for name in values}
        text = "  ".join(f"{shown[name][0]} {value:{shown[name][1]}}" for name, value in values.items())
        if group == "train" and not self._progress.disable:
            self._progress.update(self._bar, status=text)
        else:
            self.message(f"{group} step {step} of {self._total}: {text}")

    def spent(self, step: int) -> None:
        """Log where the wall time has gone: seconds in a JSON line, and in TensorBoard shares of the whole."""
        if self.active:
            seconds = self._write_spent(step)
            self._plot(step, {part: value / sum(seconds.values()) for part, value in seconds.items()}, "time")

    def _write_spent(self, step: int) -> dict[str, float]:
        line = self._wall_time.line()
        self._write({"step": step, "group": "time", **line})
        return line["workdir"]

    def sources(self, step: int, sources: list[dict[str, str | int]]) -> None:
        """Log what has become of the records of each training source since the run began, as a JSON line."""
        if self.active:
            self._write({"step": step, "group": "sources", "sources": sources})

    def validation(self, step: int, found: Validation) -> None:
        """Log the outcome of a validation: numbers, a picture (pictures/validation_<step>.png), sample readings."""
        if not self.active:
            return
        self.scalars(step, found.metrics, "validation")
        if found.picture is not None:
            try:
                save_picture(found.picture, self._folder / "pictures" / f"validation_{step:07d}.png")
            except OSError as error:
                raise self._no_room("pictures") from error
            self._events.add_image("validation", found.picture, step, dataformats="HWC")
        if found.samples:
            self._write({"step": step, "group": "samples", "samples": found.samples})
            self.message("read: " + "  ".join(f"{s['text']!r} -> {s['reading']!r}" for s in found.samples[:5]))

    def _plot(self, step: int, values: Mapping[str, float], group: str) -> None:
        if not self._events.file_writer.event_writer._worker.is_alive():  # it would be waited for, without end
            raise self._no_room("tensorboard")
        for name, value in values.items():
            self._events.add_scalar(f"{group}/{name}", value, step)

    def _write(self, line: dict[str, Any]) -> None:
        try:
            self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise self._no_room(METRICS_FILE) from error

    def _no_room(self, name: str) -> UserError:
        return UserError(f"{self._folder / name}: cannot be written: make room, and repeat the command to resume")


def _parsed(line: str) -> dict[str, Any] | None:
    """A JSON line; None for one that a killed run left half-written."""
    try:
        parsed = json.loads(line)
        return parsed if isinstance(parsed["step"], int) else None
    except (ValueError, KeyError, TypeError):
        return None
