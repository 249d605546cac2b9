"""Working through millions of records in chunks, in several processes, with results in order and bounded memory."""

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from data_pipelines.records import DataError
from data_pipelines.worker_processes import follow_parent

Result = TypeVar("Result")

_CHUNK = 512
_task: Callable[[int, int], Any]


def in_chunks(task: Callable[[int, int], Result], count: int, workers: int) -> Iterator[Result]:
    """``task(start, stop)`` for each chunk of ``count`` records, in order.

    The task must be picklable: each of ``workers`` processes gets it once. With 0 workers it runs here. Chunks do not
    depend on the number of workers. What a task raises is raised here, and ``DataError`` where a worker was killed.
    """
    chunks = [(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]
    if not workers:
        yield from (task(*chunk) for chunk in chunks)
        return
    context = multiprocessing.get_context("spawn")  # forking would share open LMDBs
    with ProcessPoolExecutor(workers, context, initializer=_start, initargs=(task,)) as pool:
        waiting: deque[Future] = deque()
        try:
            for chunk in chunks:
                waiting.append(pool.submit(_run, *chunk))
                if len(waiting) > 3 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            problem = "a worker process was killed, perhaps for want of memory: use fewer --workers"
            raise DataError(problem) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _start(task: Callable[[int, int], Any]) -> None:
    global _task
    _task = task
    follow_parent()


def _run(start: int, stop: int) -> Any:
    return _task(start, stop)
