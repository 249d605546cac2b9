"""AdamW or Muon, with the published schedules, decay masks and layer-wise learning rates."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from maerec_jax.config import OptimizerConfig


@dataclass(frozen=True)
class Schedule:
    """The learning rate as a function of the step, counted from 0.

    "cosine" is MAE's schedule (arXiv 2111.06377, appendix A.1): linear from 0 over the warm-up, then half a cosine.
    "one_cycle" is the two-phase cosine of the stronger published fine-tuning recipe. "steps" divides by ten at times.
    """

    config: OptimizerConfig
    """Its settings."""
    peak: float
    """The highest learning rate."""
    warmup_steps: float
    """Steps until it is reached."""
    total_steps: int
    """Steps of the run."""
    steps_per_epoch: float = 0.0
    """Steps of an epoch, for the schedule "steps"."""

    def __call__(self, step: jax.Array | int) -> jax.Array:
        """The learning rate of a step, float32 scalar."""
        if self.config.schedule == "one_cycle":
            turn, last = max(self.warmup_steps - 1, 0.0), self.total_steps - 1.0
            up = _cosine(step, self.peak / 25, self.peak, 0.0, turn)
            return jnp.where(step < turn, up, _cosine(step, self.peak, self.peak / 25e4, turn, last))
        after: jax.Array | float = self.peak
        if self.config.schedule == "cosine":
            after = _cosine(step, self.peak, self.config.final_learning_rate, self.warmup_steps, self.total_steps)
        for epoch in self.config.step_epochs:
            after = jnp.where(step < epoch * self.steps_per_epoch, after, after * 0.1)
        return jnp.where(step < self.warmup_steps, self.peak * step / max(self.warmup_steps, 1e-9), after)


def _cosine(step: jax.Array | int, start: float, end: float, first: float, last: float) -> jax.Array:
    """Half a cosine from ``start`` at step ``first`` to ``end`` at step ``last``."""
    fraction = jnp.clip((step - first) / max(last - first, 1e-9), 0.0, 1.0)
    return end + (start - end) * 0.5 * (1 + jnp.cos(jnp.pi * fraction))


def learning_rate_schedule(
    config: OptimizerConfig, batch_size: int, steps_per_epoch: float, total_steps: int
) -> Schedule:
    """The schedule of a run: its peak scaled to the batch size, its warm-up in steps."""
    peak = config.learning_rate * (batch_size / config.reference_batch if config.reference_batch else 1.0)
    warmup = config.warmup_steps or config.warmup_epochs * steps_per_epoch
    # What it does not depend on is left out: schedules that give the same are the same.
    ends = config.schedule in ("cosine", "one_cycle")
    return Schedule(config, peak, warmup, total_steps * ends, steps_per_epoch * bool(config.step_epochs))


def is_vector(path: str) -> bool:
    """Whether a parameter is a bias or a norm's scale, by its path; these are not decayed by default."""
    return path.endswith(("bias", "scale"))


def encoder_layer(path: str, depth: int) -> int:
    """The layer a parameter belongs to: 0 for embeddings, 1 to ``depth`` for blocks, depth + 1 for all after them."""
    if match := re.match(r"encoder/blocks_(\d+)/", path):
        return int(match[1]) + 1
    embeddings = ("encoder/cls_token", "encoder/pos_embed", "encoder/patch_embed/", "encoder/stem/")
    return 0 if path.startswith(embeddings) else depth + 1


def map_by_path(function: Callable[[str], Any], tree: Any) -> Any:
    """A tree of the same structure with ``function(path)`` at each leaf, paths being joined by "/"."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: function(jax.tree_util.keystr(path, simple=True, separator="/")), tree
    )


_MATRICES: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = (
    (r"blocks_\d+/q?kv", (0,), (2, 3)),  # width, 3 or 2, heads, head width
    (r"blocks_\d+/q|attention/(query|key|value)", (0,), (1, 2)),
    (r"blocks_\d+/proj|attention/out", (0, 1), (2,)),
    (r"(blocks|layers)_\d+/fc[12]|linear|keys|query|(rows|columns)\d", (0,), (1,)),
    (r"(lstm|gru)\d*/(input|hidden)", (0,), (1,)),
    (r"conv\w*", (0, 1, 2), (3,)),  # rows, columns, channels, channels
)
_PIXEL_CHANNELS = 3


def muon_axes(path: str, shape: tuple[int, ...]) -> contrib.MuonDimensionNumbers | None:
    """Which axes of a parameter are the inputs and the outputs of a matrix that Muon updates; None for Adam's.

    Queries, keys and values that share an array are a matrix each; the gates of a recurrent cell are one. First and
    last layers, embeddings, depthwise filters and the thin matrices of adapters are Adam's.
    """
    for pattern, inputs, outputs in _MATRICES:
        if re.search(rf"(^|_|/)({pattern})[/_]kernel$", path):
            if len(inputs) == 3 and shape[2] <= _PIXEL_CHANNELS:
                return None
            return contrib.MuonDimensionNumbers(inputs, outputs)
    return None


def _moments(config: OptimizerConfig) -> optax.GradientTransformation:
    """From gradients to updates that are still to be scaled by the learning rate."""
    if config.algorithm == "adamw":
        return optax.scale_by_adam(*config.betas, eps=config.epsilon)
    return contrib.muon(
        -1.0,  # it turns signs, as the learning rate does once more
        eps=config.epsilon,
        adam_b1=config.betas[0],
        adam_b2=config.betas[1],
        consistent_rms=0.2,  # that of AdamW's updates
        muon_weight_dimension_numbers=lambda params: jax.tree_util.tree_map_with_path(
            lambda path, leaf: muon_axes(jax.tree_util.keystr(path, simple=True, separator="/"), leaf.shape), params
        ),
    )


@lru_cache(maxsize=8)
def make_optimizer(
    config: OptimizerConfig, schedule: Callable[[Any], Any], depth: int, frozen: Callable[[str], bool]
) -> optax.GradientTransformation:
    """The optimizer of a parameter tree: for the same arguments the same object, which JAX traces once.

    Args:
      config: settings.
      schedule: learning rate by step.
      depth: number of encoder blocks, for the layer-wise decay.
      frozen: tells by its path whether a parameter stays as it is; it gets no optimizer state.
    """
    steps = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    steps.append(_moments(config))
    decayed = lambda params: map_by_path(lambda p: config.decay_vectors or not is_vector(p), params)  # noqa: E731
    steps.append(optax.add_decayed_weights(config.weight_decay, decayed))
    if config.layer_decay != 1.0:

        def slow_down(updates: Any, _: Any = None) -> Any:
            scales = map_by_path(lambda p: config.layer_decay ** (depth + 1 - encoder_layer(p, depth)), updates)
            # A masked tree holds markers in the place of frozen parameters, which map_by_path passes over as nodes.
            return jax.tree.map(lambda u, s: u * s, updates, scales)

        steps.append(optax.stateless(slow_down))
    steps.append(optax.scale_by_learning_rate(schedule))
    trainable = lambda params: map_by_path(lambda p: not frozen(p), params)  # noqa: E731
    still = lambda params: map_by_path(frozen, params)  # noqa: E731
    return optax.chain(optax.masked(optax.chain(*steps), trainable), optax.masked(optax.set_to_zero(), still))
