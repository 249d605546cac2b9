"""What making a batch consists of, for traces of a run.

JAX's profiler sees the process that it runs in. What worker processes do meanwhile, they write down themselves: each in
a file of its own, for as long as there is a folder for that.
"""

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from jax.profiler import TraceAnnotation

from data_pipelines.shared_memory import own_place

_folder: Path | None = None  # of a worker process: where it writes


class Event(NamedTuple):
    """What a worker process did, and when: in nanoseconds since 1970."""

    begin: int
    end: int
    name: str


@contextmanager
def traced(name: str) -> Iterator[None]:
    """Traces show what is done in the block under a name."""
    folder = _folder if _folder is not None and _folder.is_dir() else None
    begin = time.time_ns()
    with TraceAnnotation(name):
        yield
    if folder is not None:
        with suppress(FileNotFoundError), (folder / str(os.getpid())).open("a") as file:  # the trace may have ended
            file.write(f"{begin} {time.time_ns()} {name}\n")


def events_folder() -> Path:
    """Where the workers of this process write what they do, if it is there."""
    return own_place("events")


def write_events(folder: Path) -> None:
    """Call this in a worker process, with the folder of the process that it works for."""
    global _folder
    _folder = folder


def begin_events() -> None:
    """From now on the workers of this process write down what they do."""
    events_folder().mkdir()


def end_events() -> dict[int, list[Event]]:
    """What the workers of this process have done since ``begin_events``, by their process IDs."""
    folder = events_folder().rename(own_place("past-events"))  # where they do not find it
    found = {int(file.name): re.findall(r"(\d+) (\d+) (.*)\n", file.read_text()) for file in folder.iterdir()}
    shutil.rmtree(folder)
    return {pid: [Event(int(begin), int(end), name) for begin, end, name in lines] for pid, lines in found.items()}
