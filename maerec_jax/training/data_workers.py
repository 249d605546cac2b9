"""``data.workers auto``: as many worker processes as it takes, so that steps do not wait for their batches."""

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from data_pipelines.pipeline import Batches
from data_pipelines.sources.records import Batch

_TRIES = 4  # numbers that are tried
_WINDOW = 5.0  # seconds, at least, over which waiting is measured
_FEWEST = 8  # batches in that time, at least
_AHEAD = 5  # batches that are not measured: the first compiles, and the next were read meanwhile
_WAIT = 0.02  # of the time is what steps may wait
_MARGIN = 1.2  # as many readers as would just do


def cores() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class TunedBatches(Iterator[Batch], AbstractContextManager["TunedBatches"]):
    """Batches, read by a thread at first, and by as many worker processes as the first minute or so shows to be needed.

    They are the same whoever reads them: batch k depends on k alone.

    Args:
      open_batches: makes the batches from a step on, with a number of worker processes.
      start: the first step.
      message: prints a line.
      most: how many workers there may be.
      clock: tells seconds.
    """

    def __init__(
        self,
        open_batches: Callable[[int, int], Batches],
        start: int,
        message: Callable[[str], None],
        most: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._open, self._step, self._message, self._most, self._clock = open_batches, start, message, most, clock
        self.workers = 0
        """How many there are now."""
        self._batches, self._tries = open_batches(start, 0), _TRIES
        self._measure()

    def _measure(self) -> None:
        """Begin to measure."""
        self._count, self._waited, self._since = -_AHEAD, 0.0, 0.0

    def __next__(self) -> Batch:
        """The next batch; now and then from more workers than the one before."""
        begun = self._clock()
        if self._tries and self._count >= _FEWEST and begun - self._since >= _WINDOW:
            self._tune(begun)
            begun = self._clock()
        if self._count == 0:
            self._since, self._waited = begun, 0.0
        batch = next(self._batches)
        self._waited += self._clock() - begun
        self._count += 1
        self._step += 1
        return batch

    def _tune(self, now: float) -> None:
        """Open the batches anew with more workers, where steps have waited."""
        share = self._waited / (now - self._since)
        readers = f"{self.workers} workers" if self.workers else "a thread"
        told = f"data.workers auto: with {readers} steps wait {share:.0%} of their time"
        self._tries -= 1
        if share < _WAIT or self.workers == self._most:
            self._tries = 0
            self._message(f"{told}: it stays at that{'' if share < _WAIT else ', there are no more cores'}")
            return
        # Readers kept at it all of the time, and were as many times too slow as steps could be faster.
        needed = math.ceil(_MARGIN * max(self.workers, 1) / max(1 - share, 1 / self._most))
        self.workers = min(max(needed, self.workers + 1), self._most)
        self._message(f"{told}: now {self.workers}")
        self._batches.close()
        self._batches = self._open(self._step, self.workers)
        self._measure()

    def __exit__(self, *_: object) -> None:
        """End the workers."""
        self._batches.close()
