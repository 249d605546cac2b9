"""What the training loop asks of a stage: pre-training and recognition each implement this."""

from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from data_pipelines.sources.records import Batch, Source
from maerec_jax.models.vit import ViTConfig


class Loss(NamedTuple):
    """A loss as a sum and the weight to divide it by, so that parts of a batch add up to the mean over the whole."""

    total: jax.Array
    """float32 scalar: the sum of what is averaged."""
    weight: jax.Array
    """float32 scalar: how many were summed (images, or characters)."""
    metrics: dict[str, jax.Array]
    """Other sums over the same things, logged divided by the same weight."""


class Validation(NamedTuple):
    """What a pass over the validation data found."""

    metrics: dict[str, float]
    """Logged under their names."""
    score: float
    """Higher is better: decides which checkpoints are kept as best."""
    picture: np.ndarray | None
    """uint8 RGB (height, width, 3) for the log."""
    samples: list[dict[str, Any]]
    """A few readings: ``name``, ``text``, ``reading``, ``confidence``."""


class Task(Protocol):
    """A stage of training: what is initialised, what is minimised, what is shown."""

    encoder: ViTConfig
    """The image encoder's sizes."""
    dtype: Any
    """Dtype of the computation."""

    def init(self, key: jax.Array) -> Any:
        """Fresh parameters, float32."""
        ...

    def frozen(self, path: str) -> bool:
        """Whether the parameter at a path is a constant."""
        ...

    def prepare(self, batch: dict[str, jax.Array], key: jax.Array) -> dict[str, jax.Array]:
        """Add what is drawn for the whole batch, before it is split for gradient accumulation."""
        ...

    def loss(self, params: Any, batch: dict[str, jax.Array], key: jax.Array) -> Loss:
        """The loss of a batch as it comes out of ``prepare``."""
        ...

    def evaluation_step(self, params: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """What ``validate`` needs of a batch, computed on the device."""
        ...

    def validate(self, results: Iterable[tuple[Batch, dict[str, np.ndarray]]], labels: Source) -> Validation:
        """Summarise batches and what ``evaluation_step`` made of them; ``labels`` tells names and texts by index."""
        ...
