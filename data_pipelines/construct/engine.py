"""Where the calls of a step are made: in processes of this machine, or on a Ray cluster."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, Literal

from data_pipelines.errors import DataError, UserError
from data_pipelines.worker_processes import Workers

Engine = Literal["local", "ray"]
"""The name of an engine, as --engine takes it."""

Results = Callable[[Callable[..., Any], Iterable[tuple]], Iterator[Any]]
"""``results(function, calls)``: ``function(*call)`` for each of ``calls``, in their order; all of it picklable."""

_AHEAD = 4  # calls that wait for each processor of a cluster
_TRIES = 20  # of a call whose process or node dies


@contextmanager
def engine_results(engine: Engine, workers: int) -> Iterator[Results]:
    """Start an engine; ``workers`` is the number of processes of the local one, 0 for none.

    Ray is the cluster that ``RAY_ADDRESS`` names or that was started on this machine. Raises ``UserError`` where there
    is none, or Ray is not installed.
    """
    if engine == "local":
        with Workers(workers) as pool:
            yield pool.results
        return
    try:
        import ray
    except ImportError as error:
        raise UserError("--engine ray needs Ray: pip install -e '.[ray]' in the project's folder") from error
    try:
        ray.init("auto", log_to_driver=False, logging_level="error")
    except ConnectionError as error:
        raise UserError("--engine ray finds no cluster: start one (ray start --head), or set RAY_ADDRESS") from error
    try:
        yield _ray_results
    finally:
        ray.shutdown()


def _ray_results(function: Callable[..., Any], calls: Iterable[tuple]) -> Iterator[Any]:
    import ray

    # What a node was doing when it died is done again elsewhere.
    remote = ray.remote(max_retries=_TRIES - 1)(function)
    calls, ahead = iter(calls), _AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
    waiting = deque(remote.remote(*call) for call in islice(calls, ahead))
    while waiting:
        try:
            yield ray.get(waiting.popleft())
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error  # as the function raised it
        except ray.exceptions.RayError as error:
            problem = f"what did a part of the work died {_TRIES} times ({type(error).__name__}); Ray's logs tell why"
            raise DataError(problem) from error
        waiting += (remote.remote(*call) for call in islice(calls, 1))
