"""What the training loop asks of a stage: pre-training and recognition each implement this."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from data_pipelines.sources.records import Batch, Source
from maerec_jax.models.interface import Loss, ModelConfig


class Validation(NamedTuple):
    """What a pass over the validation data found."""

    metrics: dict[str, float]
    """Logged under their names. Where no image could be used, how many there are and nothing else."""
    score: float | None
    """Higher is better: decides which checkpoints are kept as best. None where no image could be used."""
    picture: np.ndarray | None
    """uint8 RGB (height, width, 3) for the log."""
    samples: list[dict[str, Any]]
    """A few readings: ``name``, ``text``, ``reading``, ``confidence``."""


class Task(Protocol):
    """A stage of training: what is initialised, what is minimised, what is shown."""

    @property
    def config(self) -> ModelConfig:
        """The model: its parameters, which of them are constants, and how they lie on a mesh."""

    dtype: Any
    """Dtype of the computation."""
    init: Any
    """``config.init``: always the same object, which JAX traces once."""

    def __hash__(self) -> int:
        """What is compiled of it is kept by."""

    def prepare(self, batch: dict[str, jax.Array], key: jax.Array) -> dict[str, jax.Array]:
        """Add what is drawn for the whole batch, before it is split for gradient accumulation."""

    def loss(self, params: Any, batch: dict[str, jax.Array], key: jax.Array) -> Loss:
        """The loss of a batch as it comes out of ``prepare``."""

    def evaluation_step(self, params: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """What ``validate`` needs of a batch, computed on the device."""

    @property
    def confidence(self) -> Callable[[dict[str, np.ndarray], int], float] | None:
        """How sure a row of what ``evaluation_step`` made is; None where turned images are not tried."""

    def validate(self, results: Iterable[tuple[Batch, dict[str, np.ndarray]]], labels: Source) -> Validation:
        """Summarise batches and what ``evaluation_step`` made of them; ``labels`` tells names and texts by index."""
