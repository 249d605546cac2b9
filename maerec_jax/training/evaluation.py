"""One pass over labelled data, or over images to be reconstructed."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from data_pipelines.pipeline import BatchDecoder, evaluation_batches
from data_pipelines.records import Batch, Source
from maerec_jax.training.data import InvalidImages
from maerec_jax.training.sharding import fetch, put_batch, replicated
from maerec_jax.training.task import Task, Validation


class Evaluator:
    """Runs a task's evaluation over a source; compiled once and used for every pass.

    Args:
      task: what is evaluated.
      source: the data, read in order.
      decoder: makes batches of it.
      batch_size: images a step, over all devices.
      workers: worker processes that read.
      mesh: devices.
    """

    def __init__(
        self, task: Task, source: Source, decoder: BatchDecoder, batch_size: int, workers: int, mesh: jax.sharding.Mesh
    ) -> None:
        self.task, self.source, self.decoder, self.mesh = task, source, decoder, mesh
        devices = jax.device_count()
        self.batch_size = -(-min(batch_size, len(source)) // devices) * devices
        self.workers = workers
        self._step = jax.jit(task.evaluation_step, out_shardings=replicated(mesh))

    def __len__(self) -> int:
        """Number of steps of a pass."""
        return -(-len(self.source) // self.batch_size)

    def __call__(
        self, params: Any, message: Callable[[str], None], on_step: Callable[[int], None] | None = None
    ) -> Validation:
        """Evaluate parameters.

        Args:
          params: the parameters.
          message: prints a line; images that cannot be used are named by it, and counted as ``invalid_images``.
          on_step: is told after each step how many images it did.
        """
        invalid = InvalidImages(self.source, message)
        found = self.task.validate(self._results(params, invalid, on_step), self.source)
        return found._replace(
            metrics=found.metrics | ({"invalid_images": float(invalid.found)} if invalid.found else {})
        )

    def _results(
        self, params: Any, invalid: InvalidImages, on_step: Callable[[int], None] | None
    ) -> Iterator[tuple[Batch, dict[str, np.ndarray]]]:
        # Every process reads all rows, of which it puts its own on its devices: it needs the others for the summary.
        rows = self.batch_size // jax.process_count()
        mine = slice(jax.process_index() * rows, (jax.process_index() + 1) * rows)
        with evaluation_batches(
            self.source, self.decoder, batch_size=self.batch_size, num_workers=self.workers
        ) as batches:
            for batch in batches:
                invalid.tell(batch)
                invalid.count(invalid.outcomes_of(batch))
                local = {name: batch[name][mine] for name in ("image", "valid")}
                yield batch, fetch(self._step(params, put_batch(local, self.mesh)))
                if on_step is not None:
                    on_step(int((batch["index"] >= 0).sum()))
