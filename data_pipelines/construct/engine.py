"""Where the calls of a step are made: in processes of this machine, or on a Ray cluster."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any, Literal

from data_pipelines.errors import DataError, UserError
from data_pipelines.worker_processes import Workers

Engine = Literal["local", "ray"]
"""The name of an engine, as --engine takes it."""

Results = Callable[[Callable[..., Any], Iterable[tuple]], Iterator[Any]]
"""``results(function, calls)``: ``function(*call)`` for each of ``calls``, in their order; all of it picklable."""

_AHEAD = 4  # calls that wait for each one that is made at a time
_TRIES = 20  # of a call whose process or node dies


@contextmanager
def engine_results(engine: Engine, workers: int, takes_device: bool = False) -> Iterator[Results]:
    """Start an engine; ``workers`` is the number of processes of the local one, 0 for none.

    Ray is the cluster that ``RAY_ADDRESS`` names or that was started on this machine. A call has a core of it, or if it
    ``takes_device`` a GPU or TPU chip; where there are none, all cores of a node. Raises ``UserError`` where there is
    no cluster, or Ray is not installed.
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
        yield partial(_ray_results, *_share(takes_device))
    finally:
        ray.shutdown()


def _share(takes_device: bool) -> tuple[dict[str, Any], float]:
    """What a call needs of a cluster, as Ray's options, and how many calls are made at a time."""
    import ray

    found = ray.cluster_resources()
    if not takes_device:
        return {"num_cpus": 1}, found.get("CPU", 1)
    for device in ("GPU", "TPU"):
        if found.get(device):
            return {"num_gpus": 1} if device == "GPU" else {"resources": {device: 1}}, found[device]
    cores = [node["Resources"]["CPU"] for node in ray.nodes() if node["Alive"] and "CPU" in node["Resources"]]
    return {"num_cpus": min(cores, default=1)}, len(cores)


def _ray_results(
    options: dict[str, Any], at_a_time: float, function: Callable[..., Any], calls: Iterable[tuple]
) -> Iterator[Any]:
    import ray

    # What a node was doing when it died is done again elsewhere.
    remote = ray.remote(max_retries=_TRIES - 1, **options)(_call)
    calls = iter(calls)
    waiting = deque(remote.remote(function, *call) for call in islice(calls, _AHEAD * max(1, int(at_a_time))))
    while waiting:
        try:
            yield ray.get(waiting.popleft())
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error  # as the function raised it
        except ray.exceptions.RayError as error:
            problem = f"what did a part of the work died {_TRIES} times ({type(error).__name__}); Ray's logs tell why"
            raise DataError(problem) from error
        waiting += (remote.remote(function, *call) for call in islice(calls, 1))


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Ray takes functions, but no partial ones."""
    return function(*arguments)
