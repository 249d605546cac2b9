"""Validation: one pass over labelled data, or over images to be reconstructed."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import jax

from data_pipelines.images.batch_decoder import BatchDecoder
from data_pipelines.images.buckets import Shape
from data_pipelines.sources.records import Source
from maerec_jax.config import TrainConfig
from maerec_jax.distributed.sharding import state_shardings, whole_on_fsdp
from maerec_jax.reading.passes import Passes, Results
from maerec_jax.training.data import InvalidImages, make_decoder
from maerec_jax.training.recognition import Recognition
from maerec_jax.training.task import Task, Validation


class Evaluator:
    """Runs a task's evaluation over a source; compiled once for each image size and used for every pass.

    Args:
      task: what is evaluated.
      source, decoder, batch_size, workers, shapes: those of ``Passes``.
      mesh: devices; parameters lie on them in any way, or are NumPy arrays that every process has.
      turn: read images that are higher than wide also turned to the left and to the right, and take the reading that
        the recogniser is surest of.
    """

    def __init__(
        self,
        task: Task,
        source: Source,
        decoder: BatchDecoder,
        batch_size: int,
        workers: int,
        mesh: jax.sharding.Mesh,
        shapes: tuple[Shape, ...] = (),
        turn: bool = False,
    ) -> None:
        self.task, self.source, self.mesh = task, source, mesh
        confidence = task.confidence if turn and isinstance(task, Recognition) else None
        step = task.evaluation_step
        self._passes = Passes(step, source, decoder, batch_size, workers, mesh, shapes, confidence)

    @classmethod
    def of_run(
        cls, config: TrainConfig, task: Task, source: Source, batch_size: int, workers: int, mesh: jax.sharding.Mesh
    ) -> "Evaluator":
        """An evaluator that prepares images as a run's config says."""
        data = config.data
        return cls(task, source, make_decoder(config), batch_size, workers, mesh, data.buckets, data.turn_vertical)

    def __call__(
        self,
        params: Any,
        message: Callable[[str], None],
        on_step: Callable[[int], None] | None = None,
        waiting: AbstractContextManager | None = None,
    ) -> Validation:
        """Evaluate parameters.

        Args:
          params: the parameters.
          message: prints a line; images that cannot be used are named by it, and counted as ``invalid_images``.
          on_step: is told after each step how many images it did.
          waiting: is entered for as long as a batch is waited for.
        """
        # Otherwise reading would gather divided parameters anew for each character.
        params = jax.device_put(params, whole_on_fsdp(state_shardings(params, self.mesh)))
        invalid = InvalidImages(self.source, message)
        results = _watched(self._passes(params, waiting=waiting), invalid, on_step)
        found = self.task.validate(results, self.source)
        return found._replace(
            metrics=found.metrics | ({"invalid_images": float(invalid.found)} if invalid.found else {})
        )


def _watched(results: Results, invalid: InvalidImages, on_step: Callable[[int], None] | None) -> Results:
    """``results``, counting the images that cannot be used, and telling how many images each batch has."""
    for told, made in results:
        invalid.tell(told)
        invalid.count(invalid.outcomes_of(told))
        yield told, made
        if on_step is not None:
            on_step(int((told["index"] >= 0).sum()))
