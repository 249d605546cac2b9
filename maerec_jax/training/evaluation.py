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
        workers = 0 if data.workers == "auto" else data.workers
        self.passes = Passes(step, source, decoder, config.batch_size, workers, mesh, data.buckets, confidence)
        """Whose ``workers`` may change, which ``data.workers`` auto finds out while it trains."""

    def __call__(
        self,
        params: Any,
        message: Callable[[str], None],
        after_batch: Callable[[], None] = lambda: None,
        waiting: AbstractContextManager | None = None,
    ) -> Validation:
        """Evaluate parameters.

        Images that cannot be used are named by ``message``, which prints a line, and counted as ``invalid_images``.
        ``waiting`` is entered for as long as a batch is waited for.
        """
        # Otherwise reading would gather divided parameters anew for each character.
        params = jax.device_put(params, whole_on_fsdp(state_shardings(params, self._mesh, self._task.config.sharding)))
        invalid = InvalidImages(self._source, message)

        def watched() -> Results:
            for told, made in self.passes(params, waiting=waiting):
                invalid.tell(told)
                invalid.count(invalid.outcomes_of(told))
                yield told, made
                after_batch()

        found = self._task.validate(watched(), self._source)
        if found.score is None:
            message("validation: none of its images could be used, so it has no score")
        if invalid.found:
            found.metrics["invalid_images"] = float(invalid.found)
        return found
