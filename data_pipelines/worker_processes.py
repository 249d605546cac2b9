"""Worker processes: how work is dealt out to them, how they end, and what they do not print."""

import errno
import itertools
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from multiprocessing import parent_process
from typing import Any, TypeVar

from data_pipelines.errors import DataError
from data_pipelines.shared_memory import full_shared_memory, name_semaphores

Result = TypeVar("Result")

CHUNK = 512
"""Records that a worker goes through before it reports."""

_AHEAD = 4  # calls that wait for each worker
_task: Callable[[int, int], Any]


def set_up_worker(orphaned: Callable[[], object] = lambda: None) -> None:
    """Call this first in a worker process: it then ignores Ctrl-C, exits when its parent process does, and is quiet.

    Only Python writes to its standard error. libjpeg and libpng print a line for every damaged image, which names no
    file and runs into the progress bar; the main process names and counts them. ``orphaned`` is called where the
    parent process was killed.
    """
    # Ctrl-C reaches all processes of a terminal; the main process decides, and closes its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Killed main processes cannot close their workers: these go by themselves.
    threading.Thread(target=_exit_with_parent, args=(orphaned,), daemon=True).start()
    sys.stderr.flush()
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    with open(os.devnull, "w") as silence:
        os.dup2(silence.fileno(), 2)


def _exit_with_parent(orphaned: Callable[[], object]) -> None:
    if parent := parent_process():
        parent.join()
        orphaned()
        os._exit(1)


def spans(count: int, size: int) -> Iterator[tuple[int, int]]:
    """``(start, stop)`` for each ``size`` of ``count`` records; the last may be shorter."""
    return ((start, min(start + size, count)) for start in range(0, count, size))


class Workers(AbstractContextManager["Workers"]):
    """A number of processes that functions are called in, in a ``with`` block; with 0, they are called in this one.

    Every process gets ``task`` once, for ``in_chunks``.
    """

    def __init__(self, number: int, task: Callable[[int, int], Any] | None = None) -> None:
        self.number = number
        self._pool = None
        if number:
            # Forking would share open LMDBs and the threads of progress bars.
            context = multiprocessing.get_context("spawn")
            name_semaphores()
            try:
                self._pool = ProcessPoolExecutor(number, context, initializer=_start, initargs=(task,))
            except OSError as error:
                raise DataError(full_shared_memory()) if error.errno == errno.ENOSPC else error from error
            # What is blocked here is so in processes that are started: from their first moment on they ignore Ctrl-C.
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            for _ in range(number):
                self._pool.submit(os.getpid)  # starts one process each
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # After an error what the processes do is not waited for.
        if self._pool is not None:
            self._pool.shutdown(wait=kind is None, cancel_futures=True)

    def results(
        self, function: Callable[..., Result], calls: Iterable[tuple], place: Callable[[int], str] | None = None
    ) -> Iterator[Result]:
        """``function(*call)`` for each of ``calls``, in their order; few of them are under way at any time.

        Function, calls and results must be picklable. What the function raises is raised here, and ``DataError`` where
        a process was killed; ``place`` tells where the calls from a given one on are, for its message.
        """
        if self._pool is None:
            yield from itertools.starmap(function, calls)
            return
        calls, done = iter(calls), 0
        waiting = deque(self._pool.submit(function, *call) for call in itertools.islice(calls, _AHEAD * self.number))
        try:
            while waiting:
                yield waiting.popleft().result()
                done += 1
                waiting += (self._pool.submit(function, *call) for call in itertools.islice(calls, 1))
        except BrokenProcessPool as error:
            where = f" at {place(done)} or soon after it" if place else ""
            problem = f"a worker process was killed{where}, probably out of memory: use fewer --workers"
            raise DataError(problem) from error
        finally:
            for future in waiting:
                future.cancel()


def in_chunks(task: Callable[[int, int], Result], count: int, workers: int) -> Iterator[Result]:
    """``task(start, stop)`` for each chunk of ``count`` records, in order, in ``workers`` processes of its own.

    The task must be picklable: each process gets it once. With 0 workers it runs here. Chunks do not depend on the
    number of workers. What a task raises is raised here, and ``DataError`` where a process was killed.
    """
    with Workers(workers, task=task) as pool:
        yield from pool.results(_run_task if workers else task, spans(count, CHUNK))


def _start(task: Callable[[int, int], Any] | None) -> None:
    global _task
    if task is not None:
        _task = task
    set_up_worker()


def _run_task(start: int, stop: int) -> Any:
    return _task(start, stop)
