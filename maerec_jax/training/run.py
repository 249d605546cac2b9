"""A run before its first step: its mesh, task, data, schedule and optimizer, and the state that it begins with."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import jax
import numpy as np
import optax
from etils import epath

from data_pipelines.errors import UserError
from data_pipelines.sources.combining import Sources
from maerec_jax.config import TrainConfig, compute_dtype, to_json
from maerec_jax.distributed.host_memory import keep_freed_memory
from maerec_jax.distributed.processes import agree, as_first, meet
from maerec_jax.distributed.sharding import (
    batch_part,
    describe,
    laid_out,
    make_mesh,
    put_whole,
    row_shards,
    state_bytes,
    state_shardings,
)
from maerec_jax.models.interface import ModelConfig, RecogniserConfig
from maerec_jax.models.mae import AutoencoderConfig
from maerec_jax.training.changed_data import check_data, held_by
from maerec_jax.training.data import make_buckets, open_training, open_validation
from maerec_jax.training.optimizer import learning_rate_schedule, make_optimizer, map_by_path
from maerec_jax.training.pretraining import Pretraining
from maerec_jax.training.profiling import check_profile
from maerec_jax.training.recognition import Recognition
from maerec_jax.training.starting import LoadedRun, load_start, loaded_params
from maerec_jax.training.step import TrainState, completing, state_shapes
from maerec_jax.training.task import Task
from maerec_jax.weights.checkpoint import Checkpoints, claim_workdir, saved_steps


def make_task(config: TrainConfig) -> Task:
    """The stage that a config's model belongs to. Runs of the same model share it, and what JAX has compiled of it."""
    return _task(config.model, config.dtype, config.label_smoothing)


@lru_cache(maxsize=8)
def _task(model: ModelConfig, dtype: str, smoothing: float) -> Task:
    if isinstance(model, AutoencoderConfig):
        return Pretraining(model, compute_dtype(dtype))
    assert isinstance(model, RecogniserConfig)
    return Recognition(model, compute_dtype(dtype), smoothing)


def check_batch_size(config: TrainConfig, mesh: jax.sharding.Mesh) -> None:
    """Raise ``UserError`` where a batch cannot be divided between the devices."""
    if config.batch_size % (row_shards(mesh) * config.accumulation):
        devices = f"{row_shards(mesh)} devices (data x fsdp) x accumulation {config.accumulation}"
        raise UserError(f"batch_size {config.batch_size} is not a multiple of {devices}")


def fresh_state(
    config: TrainConfig,
    task: Task,
    optimizer: optax.GradientTransformation,
    shardings: TrainState,
    replace_params: Callable[[Any], Any] | None = None,
) -> TrainState:
    """The state of a new run. No device ever holds more of it than its part.

    ``replace_params`` is given the fresh parameters; what it returns takes their place, with NumPy arrays for those
    that every process has loaded.
    """
    params = jax.jit(task.init, out_shardings=shardings.params)(jax.random.key(config.seed))
    if replace_params is not None:
        params = jax.tree.map(
            lambda x, sharding: x if isinstance(x, jax.Array) else put_whole(x, sharding),
            replace_params(params),
            shardings.params,
        )
    complete = completing(optimizer, bool(config.ema_decay))
    return jax.jit(complete, out_shardings=shardings, donate_argnums=0)(params)


class Run:
    """What the loop needs to know of a run, the same from its first step to its last.

    Opens its data, and makes or checks its workdir. All processes do so together.

    Raises:
      UserError: for a workdir of another config, and other mistakes in the config.
      DataError: for data that cannot be used.
    """

    def __init__(self, config: TrainConfig, changed_data: bool = False, extend: bool = False) -> None:
        """``changed_data`` allows for other data, and ``extend`` for another length, than the run had so far."""
        if not config.data.train:
            raise UserError("the config names no training data: data.train is empty")
        self.config, self.mesh = config, make_mesh(config.mesh)
        check_batch_size(config, self.mesh)
        batch_part(self.mesh)  # raises where processes would share a part of their rows
        notes: list[str] = []
        self.notes = notes
        """What was found out before the log is open."""
        dtype = config.dtype
        if self.mesh.devices.flat[0].platform == "cpu":
            keep_freed_memory()
            if dtype == "bfloat16":
                notes.append("dtype bfloat16: CPUs cannot train in it, so this computes in float32")
                dtype = "float32"
        self.task = make_task(replace(config, dtype=dtype))
        # Raises before anything is read or written.
        self._shardings_of(jax.eval_shape(self.task.init, jax.random.key(0)))

        self.sources = open_training(config, lambda text: notes.append(f"training data: {text}"))
        self.held_out = open_validation(config, self.sources, lambda text: notes.append(f"validation data: {text}"))
        self.buckets = make_buckets(config, self.sources, notes.append)
        validation = self.held_out if isinstance(self.held_out, Sources) else None
        held = held_by(config, self.sources, validation)
        meet("all have opened their data")
        agree(
            {
                "config": to_json(replace(config, data=replace(config.data, root="", workers=0, timeout=0.0))),
                "number of training images": len(self.sources),
                "number of validation images": 0 if self.held_out is None else len(self.held_out),
                "names and labels of images": held,
                "images of each bucket": [] if self.buckets is None else np.bincount(self.buckets.numbers).tolist(),
            }
        )
        self.steps_per_epoch = self.sources.epoch / config.batch_size
        """Steps that see as many images as there are; beside such, drawn ones do not count."""
        self.total_steps = config.steps or math.ceil(config.epochs * self.steps_per_epoch)
        check_profile(config.profile, self.total_steps)
        # Read before the workdir is made, so that a mistyped name leaves none behind.
        self._loaded: LoadedRun | None = None  # what a new run starts from, until its state is made
        workdir, first = epath.Path(config.workdir), jax.process_index() == 0
        resumes = bool(as_first(bool(saved_steps(workdir))))
        if not resumes:
            self._loaded = load_start(config)
        notes += claim_workdir(config, first, extend)
        notes += check_data(workdir, held, resumes, changed_data, first)

        self.schedule = learning_rate_schedule(
            config.optimizer, config.batch_size, self.steps_per_epoch, self.total_steps
        )
        if self.schedule.warmup_steps >= self.total_steps:
            notes.append(
                f"warning: a warm-up of {self.schedule.warmup_steps:,.0f} steps in a run of {self.total_steps:,}: "
                "its learning rate stays below the peak (optimizer.warmup_epochs, optimizer.warmup_steps)"
            )
        model = self.task.config
        self.optimizer = make_optimizer(config.optimizer, self.schedule, model.layers, model.frozen)
        self.shapes = state_shapes(self.task, self.optimizer, config)
        self.shardings = self._shardings_of(self.shapes)

    def _shardings_of(self, shapes: Any) -> Any:
        return state_shardings(shapes, self.mesh, self.config.model.sharding)

    def is_validated(self, done: int) -> bool:
        """Whether the state after ``done`` steps is validated."""
        every = self.config.validate_every or max(1, round(self.steps_per_epoch))
        return self.held_out is not None and (done % every == 0 or done == self.total_steps)

    def is_saved(self, done: int) -> bool:
        """Whether the state after ``done`` steps is saved, validated or not."""
        return done % self.config.checkpoint_every == 0 or done == self.total_steps

    def described(self) -> str:
        """The run in a line."""
        sizes = jax.tree.map(lambda x: x.size, self.shapes.params)
        trained = jax.tree.map(lambda size, f: 0 if f else size, sizes, map_by_path(self.task.config.frozen, sizes))
        drawn = sum(len(source) for source in self.sources.sources if getattr(source, "drawn", False))
        own = len(self.sources) - drawn
        both = bool(own and drawn)
        images = f"{own:,} own and {drawn:,} drawn" if both else f"{len(self.sources):,}"
        return (
            f"{images} training images, {self.steps_per_epoch:,.1f} steps an epoch{' of own ones' * both}, "
            f"{self.total_steps:,} steps; {sum(jax.tree.leaves(sizes)):,} parameters, "
            f"{sum(jax.tree.leaves(trained)):,} of them trained, in {self.task.dtype} on {describe(self.mesh)}: "
            f"{state_bytes(self.shapes, self.shardings) / 2**20:,.1f} MiB of state a device"
        )

    def state(self, checkpoints: Checkpoints, start: int, message: Callable[[str], None]) -> TrainState:
        """The state after ``start`` steps: restored, or that of a new run."""
        config, loaded, self._loaded = self.config, self._loaded, None
        if start:
            given = {"--init-from": config.init_from, "--init-encoder-from": config.init_encoder_from}
            unused = "".join(f"; {flag} {path} is ignored" for flag, path in given.items() if path)
            state = checkpoints.restore(start, laid_out(self.shapes, self.shardings))
            message(f"resumed {config.workdir} at step {start}{unused}")
            return state
        replace_params = None if loaded is None else partial(loaded_params, config, loaded, message=message)
        return fresh_state(config, self.task, self.optimizer, self.shardings, replace_params)
