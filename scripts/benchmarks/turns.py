"""Contenders that take turns, each in a process of its own, which sleeps while others run.

So each has its own threads and its own memory, and none slows another down by what it leaves running. One that fails is
named and left out.
"""

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from multiprocessing import get_context, parent_process
from statistics import median
from threading import Thread
from typing import Any

from rich.console import Console

os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # on GPUs each process takes the memory that it needs


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_contender: Any = None
"""In a contender's process: what it is."""


def _end_with_parent() -> None:
    if parent := parent_process():
        parent.join()
    os._exit(1)


def _make(kind: Callable[..., Any], arguments: tuple) -> None:
    global _contender
    Thread(target=_end_with_parent, daemon=True).start()
    _contender = kind(*arguments)


def _call(method: str, arguments: tuple) -> Any:
    return getattr(_contender, method)(*arguments)


class Contenders(AbstractContextManager["Contenders"]):
    """Contenders by their names, in the order in which they started, in a ``with`` block.

    Args:
      console: is told of those that fail.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._processes: dict[str, ProcessPoolExecutor] = {}

    def __exit__(self, *_: object) -> None:
        while self._processes:
            self._processes.popitem()[1].shutdown()

    @property
    def names(self) -> list[str]:
        """Those that have not failed."""
        return list(self._processes)

    def start(self, name: str, kind: Callable[..., Any], *arguments: Any) -> bool:
        """Start a process and make a contender there; returns whether that worked. ``kind`` is of a module."""
        self._processes[name] = ProcessPoolExecutor(1, get_context("spawn"))
        self._submit(name, _make, kind, arguments)
        return name in self._processes

    def ask(self, name: str, method: str, *arguments: Any) -> Any:
        """What a method of a contender returns; None where it fails."""
        return self._submit(name, _call, method, arguments)

    def _submit(self, name: str, *what: Any) -> Any:
        try:
            return self._processes[name].submit(*what).result()
        except Exception as error:
            told = f"{name}: left out: {type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
            self._console.print(told)
            self._processes.pop(name).shutdown()
            return None

    def take_turns(self, seconds: float, fewest: int, argument: Callable[[], Any]) -> dict[str, dict[int, float]]:
        """Let contenders ``run``, in each turn all with the same argument.

        Args:
          seconds: for which each runs.
          fewest: times that each runs, however long they take.
          argument: makes that of a turn.

        Returns:
          Seconds of each contender, the first of what its ``run`` returns, by turns; of those that did not fail.
        """
        found, turn = {name: dict[int, float]() for name in self.names}, 0
        while unfinished := [n for n in self.names if len(found[n]) < fewest or sum(found[n].values()) < seconds]:
            given = argument()
            for name in unfinished:
                if (made := self.ask(name, "run", given)) is not None:
                    found[name][turn] = made[0]
            turn += 1
        return {name: found[name] for name in self.names}


def ratio(
    these: dict[int, float], those: dict[int, float], middle: Callable[[list[float]], float] = median, less: float = 0.0
) -> float:
    """How many times as long one contender takes as another, of the turns that both ran in.

    Args:
      these: seconds of the one by turns.
      those: of the other.
      middle: the mean or the median.
      less: seconds that are taken off both.
    """
    shared = these.keys() & those.keys()
    one, other = (middle([times[turn] for turn in shared]) for times in (these, those))
    return (one - less) / (other - less)
