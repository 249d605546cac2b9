"""One training step: gradients over a whole batch, the optimizer, the moving average, and what happens to NaNs."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from data_pipelines.sources.records import OUTCOMES
from maerec_jax.config import AugmentationConfig, TrainConfig
from maerec_jax.distributed.sharding import batch_sharding, gather
from maerec_jax.training.augment import augment
from maerec_jax.training.optimizer import map_by_path
from maerec_jax.training.task import Task

Array = jax.Array


class TrainState(NamedTuple):
    """All that changes during training."""

    step: Array
    """int32: the number of steps taken."""
    params: Any
    """float32 parameters."""
    opt_state: Any
    """Optimizer moments."""
    ema: Any
    """Moving average of the parameters, or an empty dict where none is kept."""


class StepSettings(NamedTuple):
    """What a step depends on beside its task and optimizer: runs that have it in common share what is compiled."""

    accumulation: int
    """Parts that a batch is split into."""
    augmentation: AugmentationConfig
    """What is done to images."""
    ema_decay: float
    """Of the moving average; 0 for none."""
    seed: int
    """Of all that is drawn."""
    sources: int
    """Sources of training data, whose images are counted."""

    @classmethod
    def of(cls, config: TrainConfig) -> "StepSettings":
        """Those of a run."""
        data = config.data
        return cls(config.accumulation, data.augmentation, config.ema_decay, config.seed, len(data.train))


def initial_state(params: Any, optimizer: optax.GradientTransformation, averages: bool) -> TrainState:
    """The state before the first step, from float32 parameters, with their average or without. Not jitted."""
    ema = jax.tree.map(jnp.copy, params) if averages else {}
    return TrainState(jnp.int32(0), params, optimizer.init(params), ema)


@lru_cache(maxsize=8)
def completing(optimizer: optax.GradientTransformation, averages: bool) -> Callable[[Any], TrainState]:
    """``initial_state`` of parameters: always the same object, which JAX traces once."""
    return partial(initial_state, optimizer=optimizer, averages=averages)


def state_shapes(task: Task, optimizer: optax.GradientTransformation, config: TrainConfig) -> TrainState:
    """The shapes and dtypes of a run's state, as ``jax.ShapeDtypeStruct``; nothing is computed."""
    params = jax.eval_shape(task.init, jax.random.key(0))
    return jax.eval_shape(completing(optimizer, bool(config.ema_decay)), params)


def jit_train_step(
    task: Task, optimizer: optax.GradientTransformation, config: TrainConfig, shardings: Any
) -> Callable[[TrainState, dict[str, Array], Array], tuple[TrainState, dict[str, Array]]]:
    """The step as the loop runs it on a mesh: the state stays where it lies, and its memory is used again.

    Takes a state laid out by ``shardings`` (``state_shardings``), a batch laid out by ``batch_sharding``, and the step
    as a replicated int32 scalar.
    """
    leaves, structure = jax.tree.flatten(shardings)
    return _jitted(task, optimizer, StepSettings.of(config), tuple(leaves), structure)


@lru_cache(maxsize=8)
def _jitted(
    task: Task, optimizer: optax.GradientTransformation, settings: StepSettings, leaves: Sequence[Any], structure: Any
) -> Any:
    shardings = jax.tree.unflatten(structure, leaves)
    return jax.jit(
        make_train_step(task, optimizer, settings, partial(gather, shardings=shardings.params)),
        in_shardings=(shardings, batch_sharding(shardings.step.mesh), shardings.step),
        out_shardings=(shardings, shardings.step),
        donate_argnums=0,
    )


def loss_gradients(
    task: Task, params: Any, batch: dict[str, Array], key: Array, gather: Callable[[Any], Any] = lambda params: params
) -> tuple[Any, Array, dict[str, Array], Any]:
    """The gradient of the summed loss of a batch, or of a part of one.

    Returns:
      The gradients, with None in the place of those of frozen parameters, which are not computed; the weight to divide
      by; the sums of what is logged; and the new statistics.
    """
    frozen = map_by_path(task.config.frozen, params)

    def total(params: Any) -> tuple[Array, tuple[Array, dict[str, Array], Any]]:
        params = jax.tree.map(lambda p, f: jax.lax.stop_gradient(p) if f else p, gather(params), frozen)
        loss = task.loss(params, batch, key)
        return loss.total, (loss.weight, {"loss": loss.total, **loss.metrics}, loss.statistics)

    grads, (weight, sums, statistics) = jax.grad(total, has_aux=True)(params)
    return jax.tree.map(lambda g, f: None if f else g, grads, frozen), weight, sums, statistics


def _replaced(params: Any, statistics: Any) -> Any:
    """The parameters, with the new ones in the place of those that are statistics."""
    if not isinstance(statistics, Mapping):
        return params if statistics is None else statistics
    return {name: _replaced(value, statistics.get(name)) for name, value in params.items()}


def make_train_step(
    task: Task,
    optimizer: optax.GradientTransformation,
    settings: StepSettings,
    gather: Callable[[Any], Any] = lambda params: params,
) -> Callable[[TrainState, dict[str, Array], Array], tuple[TrainState, dict[str, Array]]]:
    """The update of one step: (state, batch, step) to (state, metrics). Not yet jitted.

    ``gather`` is applied to the parameters before the loss is computed with them.

    The gradient is that of the mean over the whole batch, however it is split for accumulation. A batch without a
    usable image changes nothing but counts. Where the loss, the gradient or the update is not finite the state stays as
    it was, and from then on, since its step falls behind: the run stops with the state before that step.
    """
    parts = settings.accumulation

    def split(x: Array) -> Array:
        # Every part takes rows from all over the batch, so that each device has its share of every part.
        return x.reshape(len(x) // parts, parts, *x.shape[1:]).swapaxes(0, 1)

    def train_step(state: TrainState, batch: dict[str, Array], step: Array) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(jax.random.key(settings.seed), step)
        augment_key, batch_key, loss_key = jax.random.split(key, 3)
        batch = task.prepare(augment(batch, augment_key, settings.augmentation), batch_key)
        if parts == 1:
            grads, weight, sums, statistics = loss_gradients(task, state.params, batch, loss_key, gather)
        else:
            keys = jax.random.split(loss_key, parts)
            run = partial(loss_gradients, task, state.params, gather=gather)
            zeros = jax.tree.map(
                lambda x: jnp.zeros(x.shape, x.dtype),
                jax.eval_shape(run, {name: x[: len(x) // parts] for name, x in batch.items()}, keys[0]),
            )
            (grads, weight, sums, statistics), _ = jax.lax.scan(
                lambda carry, part: (jax.tree.map(jnp.add, carry, run(*part)), None),
                zeros,
                (jax.tree.map(split, batch), keys),
            )
        used, weight = weight > 0, jnp.maximum(weight, 1.0)
        grads = jax.tree.map(lambda g: g / weight, grads)
        norm = optax.tree.norm(grads)
        metrics = {name: total / weight for name, total in sums.items()} | {"gradient_norm": norm}
        frozen = map_by_path(task.config.frozen, state.params)
        grads = jax.tree.map(lambda p, f, g: jnp.zeros_like(p) if f else g, state.params, frozen, grads)
        with jax.named_scope("optimizer"):
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
            moved = optax.tree.norm(updates)
            # What is frozen is passed on and not added to: to the last bit it is what others know by its checksum.
            params = jax.tree.map(lambda p, f, u: p if f else p + u, state.params, frozen, updates)
        params = _replaced(params, jax.tree.map(lambda s: s / parts, statistics))
        # The average follows quickly at first: what it starts from has no meaning.
        decay = jnp.minimum(settings.ema_decay, (1.0 + step) / (10.0 + step))
        ema = {}
        if state.ema:
            with jax.named_scope("average"):
                ema = jax.tree.map(lambda e, p, f: p if f else e * decay + p * (1 - decay), state.ema, params, frozen)
        metrics["update_norm"] = moved
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(norm) & jnp.isfinite(moved)
        good = (finite | ~used) & (state.step == step)
        new = TrainState(state.step + 1, params, opt_state, ema)
        moves = good & used
        # Whole numbers are counts, which schedules follow.
        state = jax.tree.map(
            lambda n, o: jnp.where(good if jnp.issubdtype(n.dtype, jnp.integer) else moves, n, o), new, state
        )
        metrics["good"] = good
        if "outcome" in batch:
            # Rows of all processes are counted here, so that each of them knows all: (sources, outcomes).
            counts = jnp.zeros((settings.sources, len(OUTCOMES)), jnp.int32)
            metrics["outcomes"] = counts.at[batch["source"], batch["outcome"]].add(1)
        return state, metrics

    return train_step
