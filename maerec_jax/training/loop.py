"""The training loop, one for both stages."""

import collections
import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
from etils import epath

from data_pipelines.errors import UserError
from data_pipelines.pipeline import train_batches
from maerec_jax.config import TrainConfig, compute_dtype, to_json
from maerec_jax.costs.utilisation import Rates, peak
from maerec_jax.distributed.cluster import agree, as_first, meet
from maerec_jax.distributed.host_memory import keep_freed_memory
from maerec_jax.distributed.sharding import (
    batch_part,
    describe,
    laid_out,
    make_mesh,
    put_batch,
    put_whole,
    replicated,
    row_shards,
    state_bytes,
    state_shardings,
)
from maerec_jax.models.mae import AutoencoderConfig
from maerec_jax.training.data import (
    InvalidImages,
    make_buckets,
    make_decoder,
    open_sources,
    open_validation,
    source_names,
)
from maerec_jax.training.evaluation import Evaluator
from maerec_jax.training.optimizer import learning_rate_schedule, make_optimizer, map_by_path
from maerec_jax.training.pretraining import Pretraining
from maerec_jax.training.recognition import Recognition
from maerec_jax.training.run_log import RunLog
from maerec_jax.training.starting import check_start, load_start, loaded_params
from maerec_jax.training.step import TrainState, initial_state, jit_train_step, state_shapes
from maerec_jax.training.stopping import Patience, Stopped, StopRequests
from maerec_jax.training.task import Task, Validation
from maerec_jax.weights.checkpoint import Checkpoints, claim_workdir, saved_steps

# The loop looks at a step's numbers this many steps later, so that the device never waits for it.
_LAG = 2


class NotFiniteError(UserError):
    """A loss or gradient that is not finite. The message names the step and where the state before it lies."""


def make_task(config: TrainConfig) -> Task:
    """The stage that a config's model belongs to."""
    dtype = compute_dtype(config.dtype)
    if isinstance(config.model, AutoencoderConfig):
        return Pretraining(config.model, dtype)
    return Recognition(config.model, dtype, config.label_smoothing)


def fresh_state(
    config: TrainConfig,
    task: Task,
    optimizer: optax.GradientTransformation,
    shardings: TrainState,
    replace_params: Callable[[Any], Any] | None = None,
) -> TrainState:
    """The state of a new run. No device ever holds more of it than its part.

    Args:
      config: the run.
      task: its stage.
      optimizer: its optimizer.
      shardings: where the state lies.
      replace_params: is given the fresh parameters; what it returns takes their place, with NumPy arrays for those that
        every process has loaded.
    """
    params = jax.jit(task.init, out_shardings=shardings.params)(jax.random.key(config.seed))
    if replace_params is not None:
        params = jax.tree.map(
            lambda x, sharding: x if isinstance(x, jax.Array) else put_whole(x, sharding),
            replace_params(params),
            shardings.params,
        )
    complete = partial(initial_state, optimizer=optimizer, config=config)
    return jax.jit(complete, out_shardings=shardings, donate_argnums=0)(params)


def train(config: TrainConfig) -> dict[str, float]:
    """Run or resume a training run, and return the metrics of its last validation (none where nothing is validated).

    Raises:
      UserError: for a workdir of another config, and other mistakes in the config.
      DataError: for data that cannot be used.
      NotFiniteError: for a loss or gradient that is not finite; the state before it is saved.
      Stopped: when it was asked to stop by a signal; the state is saved.
    """
    workdir, first = epath.Path(config.workdir), jax.process_index() == 0
    if not config.data.train:
        raise UserError("the config names no training data: data.train is empty")
    mesh = make_mesh(config.mesh)
    if config.batch_size % (row_shards(mesh) * config.accumulation):
        devices = f"{row_shards(mesh)} devices (data x fsdp) x accumulation {config.accumulation}"
        raise UserError(f"batch_size {config.batch_size} is no multiple of {devices}")
    part, parts = batch_part(mesh)
    task = make_task(config)
    if mesh.devices.flat[0].platform == "cpu":
        keep_freed_memory()
    state_shardings(jax.eval_shape(task.init, jax.random.key(0)), mesh)  # raises before anything is read or written

    notes: list[str] = []  # what is found out before the log is open
    sources = open_sources(
        config, config.data.train, lambda text: notes.append(f"training data: {text}"), config.data.exclude
    )
    held_out = open_validation(config, sources, lambda text: notes.append(f"validation data: {text}"))
    buckets = make_buckets(config, sources, notes.append)
    meet("all have opened their data")
    agree(
        {
            "config": to_json(replace(config, data=replace(config.data, root="", workers=0, timeout=0.0))),
            "number of training images": len(sources),
            "number of validation images": 0 if held_out is None else len(held_out),
            "images of each bucket": [] if buckets is None else np.bincount(buckets.numbers).tolist(),
        }
    )
    # Read before the workdir is made, so that a mistyped name leaves none behind.
    resumes = bool(as_first(bool(saved_steps(workdir))))
    if not resumes:
        check_start(config)
    loaded_run = None if resumes else load_start(config)
    claim_workdir(config, write=first)

    decoder = make_decoder(config)
    steps_per_epoch = len(sources) / config.batch_size
    total_steps = config.steps or math.ceil(config.epochs * steps_per_epoch)
    validate_every = config.validate_every or max(1, round(steps_per_epoch))
    schedule = learning_rate_schedule(config.optimizer, config.batch_size, steps_per_epoch, total_steps)
    if schedule.warmup_steps >= total_steps:
        notes.append(
            f"warning: a warm-up of {schedule.warmup_steps:,.0f} steps in a run of {total_steps:,}: "
            "its learning rate stays below the peak (optimizer.warmup_epochs, optimizer.warmup_steps)"
        )
    optimizer = make_optimizer(config.optimizer, schedule, task.encoder.depth, task.frozen)
    shapes = state_shapes(task, optimizer, config)
    shardings = state_shardings(shapes, mesh)
    step_fn = jit_train_step(task, optimizer, config, mesh)
    evaluator = (
        None
        if held_out is None
        else Evaluator.of_run(config, task, held_out, config.batch_size, config.data.workers, mesh)
    )
    metrics: dict[str, float] = {}
    # Before anything else keeps the devices busy, and only in the process that logs.
    devices_peak = peak(mesh, task.dtype.name) if first else 1.0

    with (
        StopRequests() as requests,
        Checkpoints(workdir, config.keep_last, config.keep_best, notes.append) as checkpoints,
    ):
        start = checkpoints.latest or 0
        with (
            RunLog(workdir, start, total_steps, first) as log,
            train_batches(
                sources,
                decoder,
                batch_size=config.batch_size,
                seed=config.seed,
                buckets=buckets,
                start_step=start,
                num_workers=config.data.workers,
                process_index=part,
                process_count=parts,
            ) as batches,
            ExitStack() as at_the_end,
        ):
            for note in notes:
                log.message(note)
            sizes = jax.tree.map(lambda x: x.size, shapes.params)
            trained = jax.tree.map(lambda size, f: 0 if f else size, sizes, map_by_path(task.frozen, sizes))
            log.message(
                f"{len(sources):,} training images, {steps_per_epoch:,.1f} steps an epoch, {total_steps:,} steps; "
                f"{sum(jax.tree.leaves(sizes)):,} parameters, {sum(jax.tree.leaves(trained)):,} of them trained, "
                f"in {task.dtype} "
                f"on {describe(mesh)}: {state_bytes(shapes, shardings) / 2**20:,.1f} MiB of state a device"
            )
            if start:
                state = checkpoints.restore(start, laid_out(shapes, shardings))
                given = {"--init-from": config.init_from, "--init-encoder-from": config.init_encoder_from}
                unused = "".join(f"; {flag} {path} is not used" for flag, path in given.items() if path)
                log.message(f"resumed {workdir} at step {start}{unused}")
            else:
                loaded = None if loaded_run is None else partial(loaded_params, config, loaded_run, message=log.message)
                state = fresh_state(config, task, optimizer, shardings, loaded)
                del loaded
            del loaded_run
            invalid = InvalidImages(sources, log.alarm, source_names(config.data.train), config.data.max_invalid)
            counted = start  # the number of steps whose outcomes are counted
            pending: collections.deque = collections.deque()
            everywhere = replicated(mesh)
            rates = Rates(config.batch_size, config.model, devices_peak)
            patience = Patience(config.data.timeout, log.alarm)
            at_the_end.callback(patience.close)

            def look_at(done: int, values: dict[str, Any]) -> None:
                """Log the numbers of a step, ``done`` being the number of steps taken after it."""
                nonlocal counted
                values = jax.device_get(values)
                counted, outcomes = done, values.pop("outcomes")
                numbers = {name: float(value) for name, value in values.items()}
                invalid.count(outcomes)
                if not numbers.pop("good"):
                    checkpoints.save(done - 1, state)
                    checkpoints.wait()
                    raise NotFiniteError(
                        f"step {done}: loss {numbers['loss']}, gradient norm {numbers['gradient_norm']}; the state "
                        f"before it is saved in {workdir}. Lower the learning rate or set optimizer.clip_norm, "
                        "and start from it with --init-from"
                    )
                log.advance(done)
                if done == 1 or done % config.log_every == 0 or done == total_steps:
                    shown = {"loss": numbers.pop("loss"), "learning_rate": float(schedule(done - 1))}
                    shown |= rates.read() | {"epoch": done / steps_per_epoch} | numbers
                    if invalid.found:
                        shown["invalid_images"] = float(invalid.found)
                        if done < total_steps:
                            log.sources(done, invalid.by_source())
                    log.scalars(done, shown)

            @at_the_end.callback
            def sum_up() -> None:
                """However the run ends."""
                if counted > start:
                    log.sources(counted, invalid.by_source())
                for line in invalid.summary():
                    log.message(line)

            def is_validated(done: int) -> bool:
                return evaluator is not None and (done % validate_every == 0 or done == total_steps)

            def validate(done: int) -> Validation:
                """Validate the state after ``done`` steps. Raises ``Stopped`` where the run is to stop meanwhile."""

                def look_up(_: int) -> None:
                    if requests.reached():
                        raise Stopped(done, total_steps, requests.signal)

                assert evaluator is not None
                found = evaluator(state.ema or state.params, log.message, look_up, patience)
                log.validation(done, found)
                return found

            if start and is_validated(start) and not checkpoints.is_scored(start):
                # It was stopped, or failed, in the middle of it.
                found = validate(start)
                metrics = found.metrics
                checkpoints.save(start, state, found.score)
            for step in range(start, total_steps):
                waited = time.perf_counter()
                with patience:
                    batch = next(batches)
                rates.count(time.perf_counter() - waited, batch["image"].shape[1:3])
                invalid.tell(batch)
                batch["source"] = invalid.parts_of(batch.pop("index"))
                # Nothing may wait for the device, or move to it unnoticed, while it works.
                with jax.transfer_guard("disallow"):
                    state, values = step_fn(state, put_batch(batch, mesh), put_whole(np.int32(step), everywhere))
                done = step + 1
                pending.append((done, values))
                stops = requests.reached()
                validated = is_validated(done) and not stops
                saved = stops or validated or done % config.checkpoint_every == 0 or done == total_steps
                if step == start:
                    jax.block_until_ready(values)
                    rates.restart()  # compiling is not training
                # Nothing is saved before its numbers are known to be finite.
                while len(pending) > (0 if saved else _LAG):
                    look_at(*pending.popleft())
                if not saved:
                    continue
                score = None
                if validated:
                    try:
                        found = validate(done)
                    except BaseException as error:
                        # Where it failed for this process only, the others would not come to save with it.
                        if isinstance(error, Stopped) or jax.process_count() == 1:
                            checkpoints.save(done, state)
                            checkpoints.wait()
                        raise
                    metrics, score = found.metrics, found.score
                log.arrive()
                checkpoints.save(done, state, score)
                if stops:
                    checkpoints.wait()
                    raise Stopped(done, total_steps, requests.signal)
                rates.restart()  # nor are validating and saving
    meet("the first has put its log in its place")
    return metrics
