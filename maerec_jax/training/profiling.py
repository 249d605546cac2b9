"""A trace of some steps: what devices and threads did when, for xprof, TensorBoard and Perfetto (docs/profiling.md)."""

import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import jax
from etils import epath

from data_pipelines.errors import UserError
from data_pipelines.storage import publish, staging
from data_pipelines.tracing import Event, begin_events, end_events
from maerec_jax.config import ProfileConfig

_FOLDER = "tensorboard/plugins/profile"  # in the workdir, where TensorBoard looks for traces
_WORKERS = 10_000  # what Perfetto is told for their process; JAX's own numbers are below


def check_profile(config: ProfileConfig, total: int) -> None:
    """Raise ``UserError`` for steps or processes that a run of ``total`` steps does not have."""
    if config.span.stop > total + 1:
        raise UserError(f"profile.steps {config.steps}: the run has {total:,} steps")
    if not set(config.processes) <= set(range(jax.process_count())):
        told = ", ".join(map(str, config.processes))
        raise UserError(f"profile.processes {told}: the run has {jax.process_count()}, counted from 0")


class Profile:
    """Traces the steps that a config asks for. As a context: a run that ends among them keeps its trace.

    Args:
      config: which steps, and in which processes.
      workdir: the run's folder. All processes write to one folder in it, which xprof shows as those of one run.
      start: the steps that are done already.
      message: prints a line.
    """

    def __init__(self, config: ProfileConfig, workdir: epath.Path, start: int, message: Callable[[str], None]) -> None:
        self._steps = config.span[max(0, start + 1 - config.span.start) :]
        if config.steps and not self._steps:
            message(f"profile.steps {config.steps} are done already: nothing is traced")
        if jax.process_index() not in config.processes:
            self._steps = range(0)
        self._workdir, self._message, self._running = workdir, message, ExitStack()

    def __enter__(self) -> "Profile":
        """Nothing yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Write what was traced, if that is not done."""
        self._running.close()

    def begin(self, step: int) -> None:
        """Begin to trace, where this is the first of the steps."""
        if step not in self._steps[:1]:
            return
        place = self._workdir / _FOLDER / f"steps_{self._steps[0]}_to_{self._steps[-1]}"
        place.mkdir(parents=True, exist_ok=True)
        folder = self._running.enter_context(staging(place))
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # the calls of Python functions, so many that the step would take longer
        jax.profiler.start_trace(folder, profiler_options=options)
        begin_events()
        self._running.callback(self._write, folder, place)

    def ends(self, step: int) -> bool:
        """Whether this is the last of the steps: ``end`` comes next, when the devices are done with it."""
        return step in self._steps[-1:]

    def end(self) -> None:
        """Write the trace."""
        self._running.close()

    def _write(self, folder: Path, place: epath.Path) -> None:
        events = end_events()
        jax.profiler.stop_trace()
        kinds = ".xplane.pb", ".trace.json.gz"
        planes, timeline = (next(folder.rglob(f"*{kind}")) for kind in kinds)  # named after the machine
        if events:
            _add_workers(timeline, _begun(planes), events)
        for file, kind in zip((planes, timeline), kinds, strict=True):
            publish(file, place / f"process_{jax.process_index()}{kind}")  # a machine may have several
        self._message(f"traced steps {self._steps[0]} to {self._steps[-1]}: {place}")


def _begun(planes: Path) -> int:
    """When a trace begins, in nanoseconds since 1970."""
    plane = jax.profiler.ProfileData.from_file(str(planes)).find_plane_with_name("Task Environment")
    return dict(plane.stats)["profile_start_time"]


def _add_workers(timeline: Path, begun: int, events: Mapping[int, Sequence[Event]]) -> None:
    """Add what worker processes did to a trace in the form of Chrome's, in which JAX's profiler cannot put it."""
    with gzip.open(timeline, "rt") as file:
        trace = json.load(file)
    names = [("process_name", 0, "data workers")]
    names += [("thread_name", pid, "worker") for pid in events]
    trace["traceEvents"] += [
        {"ph": "M", "pid": _WORKERS, "tid": tid, "name": kind, "args": {"name": name}} for kind, tid, name in names
    ]
    trace["traceEvents"] += [
        {"ph": "X", "pid": _WORKERS, "tid": pid, "name": name, "ts": (begin - begun) / 1e3, "dur": (end - begin) / 1e3}
        for pid, lines in events.items()
        for begin, end, name in lines
    ]
    with gzip.open(timeline, "wt") as file:
        json.dump(trace, file)
