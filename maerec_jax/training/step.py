"""One training step: gradients over a whole batch, the optimizer, the moving average, and what happens to NaNs."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from maerec_jax.config import TrainConfig
from maerec_jax.training.augment import augment
from maerec_jax.training.optimizer import map_by_path
from maerec_jax.training.sharding import batch_sharding, gather, replicated, state_shardings
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


def initial_state(params: Any, optimizer: optax.GradientTransformation, config: TrainConfig) -> TrainState:
    """The state before the first step, from float32 parameters. Not jitted."""
    ema = jax.tree.map(jnp.copy, params) if config.ema_decay else {}
    return TrainState(jnp.int32(0), params, optimizer.init(params), ema)


def state_shapes(task: Task, optimizer: optax.GradientTransformation, config: TrainConfig) -> TrainState:
    """The shapes and dtypes of a run's state, as ``jax.ShapeDtypeStruct``; nothing is computed."""
    return jax.eval_shape(lambda key: initial_state(task.init(key), optimizer, config), jax.random.key(0))


def jit_train_step(
    task: Task, optimizer: optax.GradientTransformation, config: TrainConfig, mesh: Mesh
) -> Callable[[TrainState, dict[str, Array], Array], tuple[TrainState, dict[str, Array]]]:
    """The step as the loop runs it on a mesh: the state stays where it lies, and its memory is used again.

    Takes a state laid out by ``state_shardings``, a batch laid out by ``batch_sharding``, and the step as a replicated
    int32 scalar. Raises ``UserError`` where the model cannot be laid over the mesh.
    """
    shapes = state_shapes(task, optimizer, config)
    lies, everywhere = state_shardings(shapes, mesh), replicated(mesh)
    return jax.jit(
        make_train_step(task, optimizer, config, partial(gather, shardings=lies.params)),
        in_shardings=(lies, batch_sharding(mesh), everywhere),
        out_shardings=(lies, everywhere),
        donate_argnums=0,
    )


def make_train_step(
    task: Task,
    optimizer: optax.GradientTransformation,
    config: TrainConfig,
    gather: Callable[[Any], Any] = lambda params: params,
) -> Callable[[TrainState, dict[str, Array], Array], tuple[TrainState, dict[str, Array]]]:
    """The update of one step: (state, batch, step) to (state, metrics). Not yet jitted.

    ``gather`` is applied to the parameters before the loss is computed with them.

    The gradient is that of the mean over the whole batch, however it is split for accumulation. Where the loss or the
    gradient is not finite the state stays as it was, and from then on, since its step falls behind: the run stops with
    the state before that step.
    """
    parts = config.accumulation

    def split(x: Array) -> Array:
        # Every part takes rows from all over the batch, so that each device has its share of every part.
        return x.reshape(len(x) // parts, parts, *x.shape[1:]).swapaxes(0, 1)

    def gradients(params: Any, batch: dict[str, Array], key: Array) -> tuple[Any, Any, Any]:
        def total(params: Any) -> tuple[Array, tuple[Array, dict[str, Array]]]:
            loss = task.loss(gather(params), batch, key)
            return loss.total, (loss.weight, {"loss": loss.total, **loss.metrics})

        grads, (weight, sums) = jax.grad(total, has_aux=True)(params)
        return grads, weight, sums

    def train_step(state: TrainState, batch: dict[str, Array], step: Array) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(jax.random.key(config.seed), step)
        augment_key, batch_key, loss_key = jax.random.split(key, 3)
        batch = task.prepare(augment(batch, augment_key, config.data.augmentation), batch_key)
        if parts == 1:
            grads, weight, sums = gradients(state.params, batch, loss_key)
        else:
            keys = jax.random.split(loss_key, parts)
            run = partial(gradients, state.params)
            zeros = jax.tree.map(
                lambda x: jnp.zeros(x.shape, x.dtype),
                jax.eval_shape(run, {name: x[: len(x) // parts] for name, x in batch.items()}, keys[0]),
            )
            (grads, weight, sums), _ = jax.lax.scan(
                lambda carry, part: (jax.tree.map(jnp.add, carry, run(*part)), None),
                zeros,
                (jax.tree.map(split, batch), keys),
            )
        weight = jnp.maximum(weight, 1.0)
        grads = jax.tree.map(lambda g: g / weight, grads)
        frozen = map_by_path(task.frozen, grads)
        norm = optax.tree.norm(jax.tree.map(lambda g, f: jnp.zeros(()) if f else g, grads, frozen))
        metrics = {name: total / weight for name, total in sums.items()} | {"gradient_norm": norm}
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        moved = optax.tree.norm(updates)
        # The average follows quickly at first: what it starts from has no meaning.
        decay = jnp.minimum(config.ema_decay, (1.0 + step) / (10.0 + step))
        ema = jax.tree.map(lambda e, p: e * decay + p * (1 - decay), state.ema, params) if state.ema else {}
        good = jnp.isfinite(metrics["loss"]) & jnp.isfinite(norm) & jnp.isfinite(moved) & (state.step == step)
        new = TrainState(state.step + 1, params, opt_state, ema)
        state = jax.tree.map(partial(jnp.where, good), new, state)
        return state, metrics | {"good": good, "invalid": (~batch["valid"]).sum()}

    return train_step
