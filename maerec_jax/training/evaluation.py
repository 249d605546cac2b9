"""Validation: one pass over labelled data, or over images to be reconstructed."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import jax

from data_pipelines.sources.records import Source
from data_pipelines.unusable import InvalidImages
from maerec_jax.config import TrainConfig
from maerec_jax.distributed.sharding import state_shardings, whole_on_fsdp
from maerec_jax.reading.passes import Passes, Results
from maerec_jax.training.data import make_decoder
from maerec_jax.training.task import Task, Validation


class Evaluator:
    """Runs a task's evaluation over a source; compiled once for each image size and used for every pass.

    Args:
      config: the run: batch size, worker processes, and how images are prepared. Where it turns vertical words, images
        that are higher than wide are also read turned, and of the readings the surest is taken.
      task: what is evaluated.
      source: the data.
      mesh: devices; parameters lie on them in any way, or are NumPy arrays that every process has.
    """

    def __init__(self, config: TrainConfig, task: Task, source: Source, mesh: jax.sharding.Mesh) -> None:
        self._task, self._source, self._mesh, data = task, source, mesh, config.data
        confidence = task.confidence if data.turn_vertical else None
        step, decoder = task.evaluation_step, make_decoder(config)
        self._passes = Passes(step, source, decoder, config.batch_size, data.workers, mesh, data.buckets, confidence)

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
        params = jax.device_put(params, whole_on_fsdp(state_shardings(params, self._mesh, self._task.config.sharding)))
        invalid = InvalidImages(self._source, message)
        results = _watched(self._passes(params, waiting=waiting), invalid, on_step)
        found = self._task.validate(results, self._source)
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
