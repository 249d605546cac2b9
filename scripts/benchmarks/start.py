"""How long a fresh process takes to read one word: this build, another checkout, and rapidocr's recogniser in turns.

python scripts/benchmarks/start.py --base ../other_checkout
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from data_pipelines.command import run_command

_HERE = Path(__file__).resolve().parents[2]
_RAPIDOCR = """
import sys
from rapidocr import RapidOCR
print(RapidOCR(params={"Global.log_level": "error"})(sys.argv[1], use_det=False, use_cls=False).txts)
"""


@dataclass(frozen=True)
class StartArguments:
    """Measure whole processes that read one image of a word: processor time, wall time and memory.

    They take turns, so that other programs disturb all alike. Each build has a cache of its own, which a first run
    fills; --first empties it before each run instead.
    """

    image: str = ""
    """Image of a word; by default one is drawn."""
    base: str = ""
    """Checkout of another version, to compare with."""
    rounds: int = 5
    """Turns, of which medians are taken."""
    first: bool = False
    """Measure runs with an empty cache."""


class Cost(NamedTuple):
    """What a process took."""

    processor: float  # seconds, of user and system
    wall: float  # seconds
    memory: float  # MB at most


def run(command: Sequence[str], folder: Path, environment: dict[str, str]) -> Cost:
    """Run a process in a folder to its end. Raises ``CalledProcessError`` where it fails."""
    begin = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise subprocess.CalledProcessError(os.waitstatus_to_exitcode(status), command)
    return Cost(used.ru_utime + used.ru_stime, time.perf_counter() - begin, used.ru_maxrss / 1024)


def measure(arguments: StartArguments, scratch: Path) -> dict[str, Cost]:
    """Medians of each contender."""
    image = str(Path(arguments.image or scratch / "word.png").resolve())
    if not arguments.image:
        drawn = np.full((32, 100, 3), 255, np.uint8)
        cv2.putText(drawn, "start", (8, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (0, 0, 0), 2)
        cv2.imwrite(image, drawn)
    read = [sys.executable, "-m", "maerec_jax.predict", image]
    contenders = {"this build": (read, _HERE)}
    if arguments.base:
        contenders["base"] = (read, Path(arguments.base).resolve())
    contenders["rapidocr"] = ([sys.executable, "-c", _RAPIDOCR, image], _HERE)
    found: dict[str, list[Cost]] = {name: [] for name in contenders}
    for turn in range(arguments.rounds + (not arguments.first)):
        for name, (command, checkout) in contenders.items():
            cache = scratch / (f"{name} {turn}" if arguments.first else name)
            cost = run(command, checkout, os.environ | {"PYTHONPATH": str(checkout), "XDG_CACHE_HOME": str(cache)})
            if turn or arguments.first:
                found[name].append(cost)
    return {name: Cost(*map(median, zip(*costs, strict=True))) for name, costs in found.items()}


def main(arguments: StartArguments) -> int:
    """Measure and print; returns 0."""
    with tempfile.TemporaryDirectory() as scratch:
        found = measure(arguments, Path(scratch))
    table = Table("", "processor, s", "wall, s", "MB", "this build / it: processor", "wall", "MB")
    for name, cost in found.items():
        ratios = (f"{ours / its:.2f}" for ours, its in zip(found["this build"], cost, strict=True))
        table.add_row(name, f"{cost.processor:.2f}", f"{cost.wall:.2f}", f"{cost.memory:.0f}", *ratios)
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(StartArguments, main, "python scripts/benchmarks/start.py"))
