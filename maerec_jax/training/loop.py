"""The training loop, one for both stages."""

import collections
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import jax
import numpy as np
from etils import epath

from data_pipelines.errors import UserError
from data_pipelines.pipeline import Batches, train_batches
from data_pipelines.shared_memory import remove_leftovers
from data_pipelines.sources.records import USED
from data_pipelines.unusable import InvalidImages
from maerec_jax.config import TrainConfig
from maerec_jax.costs.utilisation import Rates, peak
from maerec_jax.distributed.processes import meet
from maerec_jax.distributed.sharding import batch_part, put_batch, put_whole, replicated
from maerec_jax.training.data import make_decoder, source_names
from maerec_jax.training.data_workers import TunedBatches, cores
from maerec_jax.training.evaluation import Evaluator
from maerec_jax.training.profiling import Profile
from maerec_jax.training.run import Run
from maerec_jax.training.run_log import RunLog
from maerec_jax.training.step import jit_train_step
from maerec_jax.training.stopping import Patience, Stopped, StopRequests
from maerec_jax.training.stragglers import Stragglers
from maerec_jax.training.wall_time import WallTime
from maerec_jax.weights.checkpoint import Checkpoints

# The loop looks at a step's numbers this many steps later, so that the device never waits for it.
_LAG = 2


class NotFiniteError(UserError):
    """A loss or gradient that is not finite. The message names the step and where the state before it lies."""


def train(config: TrainConfig, changed_data: bool = False, extend: bool = False) -> dict[str, float]:
    """Run or resume a training run, and return the metrics of its last validation (none where nothing is validated).

    Args:
      config: the run.
      changed_data: go on with a run though its data has changed.
      extend: go on with a run of another length though its learning rate follows that.

    Raises:
      UserError: for a workdir of another config or other data, and other mistakes in the config.
      DataError: for data that cannot be used.
      NotFiniteError: for a loss or gradient that is not finite; the state before it is saved.
      Stopped: when it was asked to stop by a signal; the state is saved.
    """
    wall_time = WallTime()
    remove_leftovers()
    run = Run(config, changed_data, extend)
    workdir, first = epath.Path(config.workdir), jax.process_index() == 0
    with (
        StopRequests() as requests,
        Checkpoints(workdir, config.keep_last, config.keep_best, run.notes.append) as checkpoints,
    ):
        start = checkpoints.latest or 0
        with (
            RunLog(workdir, start, run.total_steps, first, wall_time) as log,
            _batches(run, start, log.alarm) as batches,
            _Training(run, requests, checkpoints, log, start, wall_time) as training,
            Profile(config.profile, workdir, start, log.alarm) as profile,
        ):
            wall_time.turn_to("stepping")
            training.finish_validation()
            if start >= run.total_steps:
                log.message(f"nothing left to do: step {start:,} is saved, and the run has {run.total_steps:,} steps")
            for done in range(start + 1, run.total_steps + 1):
                profile.begin(done)
                training.step(batches)
                stops = requests.reached()
                validates = run.is_validated(done) and not stops
                saves, traced = stops or validates or run.is_saved(done), profile.ends(done)
                training.look(up_to=done if saves or traced else done - _LAG)
                if traced:
                    profile.end()
                if saves:
                    training.save(training.validate() if validates else None)
                if stops:
                    training.finish_saving()
                    raise Stopped(done, run.total_steps, requests.signal)
            training.finish_saving()
    meet("the first has put its log in its place")
    return training.metrics


def _batches(run: Run, start: int, message: Callable[[str], None]) -> Batches | TunedBatches:
    """This process's part of the batches from step ``start`` on."""
    part, parts = batch_part(run.mesh)
    config = run.config

    def from_step(step: int, workers: int) -> Batches:
        return train_batches(
            run.sources,
            make_decoder(config),
            batch_size=config.batch_size,
            seed=config.seed,
            buckets=run.buckets,
            start_step=step,
            num_workers=workers,
            process_index=part,
            process_count=parts,
        )

    if config.data.workers == "auto":
        return TunedBatches(from_step, start, message, cores())
    return from_step(start, config.data.workers)


class _Training:
    """The state of a run, and what is done with it. As a context: however the run ends, it sums up its images."""

    def __init__(
        self,
        run: Run,
        requests: StopRequests,
        checkpoints: Checkpoints,
        log: RunLog,
        start: int,
        wall_time: WallTime,
    ) -> None:
        config, self._wall_time = run.config, wall_time
        self._run, self._requests, self._checkpoints, self._log, self._start = run, requests, checkpoints, log, start
        self._evaluator = None
        if run.held_out is not None:
            self._evaluator = Evaluator(config, run.task, run.held_out, run.mesh)
        # Before anything else keeps the devices busy, and only in the process that logs.
        devices_peak = peak(run.mesh, run.task.dtype.name) if log.active else 1.0
        for note in (*run.notes, run.described()):
            log.message(note)
        self._done = self._counted = start  # steps that are taken, and that have been looked at
        self._state = run.state(checkpoints, start, log.message)
        self._step = jit_train_step(run.task, run.optimizer, config, run.shardings)
        self._pending: collections.deque[tuple[int, dict[str, Any]]] = collections.deque()
        self._invalid = InvalidImages(run.sources, log.alarm, source_names(config.data.train), config.data.max_invalid)
        self._invalid.add_earlier(log.earlier_sources)
        self._told = start  # the step up to which the log tells what has become of records
        self._rates = Rates(config.batch_size, config.model.work, devices_peak)
        self._stragglers = Stragglers(log.message) if jax.process_count() > 1 else None
        self._compiled: set[tuple[int, ...]] = set()  # the shapes of images that there were
        self._patience = Patience(config.data.timeout, log.alarm)
        self.metrics: dict[str, float] = {}
        """Of the last validation."""

    def __enter__(self) -> "_Training":
        return self

    def __exit__(self, *_: object) -> None:
        with ExitStack() as at_the_end:
            at_the_end.callback(self._patience.close)
            self._tell_sources()
            for line in self._invalid.summary():
                self._log.message(line)
            self._log.spent(self._done)
            self._log.message(self._wall_time.told())

    def step(self, batches: Any) -> None:
        """Wait for a batch, and let the devices begin a step with it."""
        begun = time.perf_counter()
        with self._wall_time.during("waiting"), self._patience:
            batch = next(batches)
        if self._evaluator is not None and isinstance(batches, TunedBatches):
            self._evaluator.passes.workers = batches.workers
        shape = batch["image"].shape
        self._rates.count(time.perf_counter() - begun, shape[1:3])
        self._invalid.tell(batch)
        batch["source"] = self._invalid.parts_of(batch.pop("index"))
        rows, number = put_batch(batch, self._run.mesh), put_whole(np.int32(self._done), replicated(self._run.mesh))
        if self._stragglers is not None:
            self._stragglers.count(time.perf_counter() - begun)
        compiles = shape not in self._compiled
        self._compiled.add(shape)
        # Nothing may wait for the device, or move to it unnoticed, while it works.
        with (
            self._wall_time.during("compiling" if compiles else "stepping"),
            jax.profiler.StepTraceAnnotation("step", step_num=self._done + 1),
            jax.transfer_guard("disallow"),
        ):
            self._state, values = self._step(self._state, rows, number)
            if compiles:
                jax.block_until_ready(values)
        if compiles:
            self._rates.restart()  # compiling is not training
        self._done += 1
        if self._stragglers is not None and self._done % self._run.config.log_every == 0:
            values["own_seconds"] = self._stragglers.gather()
        self._pending.append((self._done, values))

    def look(self, up_to: int) -> None:
        """Look at the numbers of steps, of all up to one: nothing is saved before they are known to be finite."""
        while self._pending and self._pending[0][0] <= up_to:
            self._look_at(*self._pending.popleft())

    def _look_at(self, done: int, values: dict[str, Any]) -> None:
        run, log, every = self._run, self._log, self._run.config.log_every
        values = jax.device_get(values)
        self._counted, outcomes, own_P = done, values.pop("outcomes"), values.pop("own_seconds", None)
        numbers = {name: float(value) for name, value in values.items()}
        self._invalid.count(outcomes)
        good, update_norm = numbers.pop("good"), numbers.pop("update_norm")
        if not good:
            self._checkpoints.save(done - 1, self._state)
            self._checkpoints.wait()
            raise NotFiniteError(
                f"step {done}: loss {numbers['loss']}, gradient norm {numbers['gradient_norm']}, norm of the update "
                f"{update_norm}; the state before it is saved in {run.config.workdir}. Lower the learning rate or set "
                "optimizer.clip_norm, and start from it with --init-from"
            )
        self._checkpoints.check()
        log.advance(done)
        if done == 1 or done % every == 0 or done == run.total_steps:
            shown = {"learning_rate": float(run.schedule(done - 1))}
            rates = self._rates.read()
            if self._stragglers is not None and own_P is not None and rates:
                self._stragglers.judge(own_P, run.config.batch_size / rates["images_per_second"])
            shown |= rates | {"epoch": done / run.steps_per_epoch}
            if outcomes[:, USED].any():  # without an image there is no loss
                shown = {"loss": numbers.pop("loss")} | shown | numbers
            if self._invalid.found:
                shown["invalid_images"] = float(self._invalid.found)
                self._tell_sources()
            log.scalars(done, shown)
        if done == run.total_steps:
            self._invalid.require_used()

    def validate(self) -> float | None:
        """Validate the state, and return its score. Raises ``Stopped``, once it is saved, where the run is to stop."""

        def look_up() -> None:
            self._log.advance(self._done, validating=True)
            if self._requests.reached():
                raise Stopped(self._done, self._run.total_steps, self._requests.signal)

        assert self._evaluator is not None
        params = self._state.ema or self._state.params
        try:
            with self._wall_time.during("validating"):
                found = self._evaluator(params, self._log.message, look_up, self._patience)
                self._log.validation(self._done, found)
        except BaseException as error:
            # Where it failed for this process only, the others would not come to save with it.
            if isinstance(error, Stopped) or jax.process_count() == 1:
                self._keep()
                self._checkpoints.wait()
            raise
        self.metrics = found.metrics
        return found.score

    def finish_validation(self) -> None:
        """Validate the state that a run goes on from, if that was stopped, or failed, in the middle of it."""
        start = self._start
        if start and self._run.is_validated(start) and not self._checkpoints.is_scored(start):
            self._checkpoints.save(start, self._state, self.validate())

    def save(self, score: float | None) -> None:
        """Begin to save the state, whose log is in its place by then."""
        with self._wall_time.during("saving"):
            self._log.spent(self._done)
            self._tell_sources()  # so that a run which goes on from here counts on
            self._log.arrive()
            self._keep(score)
        self._rates.restart()  # nor are validating and saving

    def finish_saving(self) -> None:
        """Wait until what is being saved is on disk."""
        with self._wall_time.during("saving"):
            self._checkpoints.wait()

    def _tell_sources(self) -> None:
        if self._counted > self._told:
            self._told = self._counted
            self._log.sources(self._counted, self._invalid.by_source())

    def _keep(self, score: float | None = None) -> None:
        if self._invalid.used:  # otherwise the state is the one that it began with
            self._checkpoints.save(self._done, self._state, score)
