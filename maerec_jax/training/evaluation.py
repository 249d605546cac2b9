"""One pass over labelled data, or over images to be reconstructed."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from data_pipelines.batch_decoder import BatchDecoder
from data_pipelines.buckets import Buckets, Shape, image_sizes
from data_pipelines.combining import Subset
from data_pipelines.pipeline import evaluation_batches
from data_pipelines.records import Batch, Source
from maerec_jax.config import TrainConfig
from maerec_jax.training.data import InvalidImages, make_decoder
from maerec_jax.training.recognition import Recognition
from maerec_jax.training.sharding import (
    batch_sharding,
    fetch,
    put_whole,
    replicated,
    row_shards,
    state_shardings,
    whole_on_fsdp,
)
from maerec_jax.training.task import Task, Validation

Results = Iterator[tuple[Batch, dict[str, np.ndarray]]]


class Evaluator:
    """Runs a task's evaluation over a source; compiled once for each image size and used for every pass.

    Args:
      task: what is evaluated.
      source: the data.
      decoder: makes batches of it.
      batch_size: images a step, over all devices.
      workers: worker processes that read.
      mesh: devices; parameters lie on them in any way, or are NumPy arrays that every process has.
      shapes: image sizes to choose from for each image (see ``data_pipelines.buckets``), instead of the decoder's one.
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
        self.task, self.source, self.decoder, self.mesh = task, source, decoder, mesh
        parts = row_shards(mesh)
        self.batch_size = -(-min(batch_size, len(source)) // parts) * parts
        self.workers, self.turn = workers, turn
        self._waiting: AbstractContextManager = nullcontext()
        self._sizes_N2 = image_sizes(source) if shapes else None
        self._shapes = shapes
        self._step = jax.jit(task.evaluation_step, out_shardings=replicated(mesh))

    @classmethod
    def of_run(
        cls, config: TrainConfig, task: Task, source: Source, batch_size: int, workers: int, mesh: jax.sharding.Mesh
    ) -> "Evaluator":
        """An evaluator that prepares images as a run's config says."""
        turn = config.data.turn_vertical and isinstance(task, Recognition)
        return cls(task, source, make_decoder(config), batch_size, workers, mesh, config.data.buckets, turn)

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
        self._waiting = waiting or nullcontext()
        # Otherwise reading would gather divided parameters anew for each character.
        params = jax.device_put(params, whole_on_fsdp(state_shardings(params, self.mesh)))
        invalid = InvalidImages(self.source, message)
        results = self._pass(params, self.source, self.decoder, self._sizes_N2, invalid)
        if self.turn:
            results = self._surest(params, results)
        found = self.task.validate(_told(results, on_step), self.source)
        return found._replace(
            metrics=found.metrics | ({"invalid_images": float(invalid.found)} if invalid.found else {})
        )

    def _pass(
        self,
        params: Any,
        source: Source,
        decoder: BatchDecoder,
        sizes_N2: np.ndarray | None,
        invalid: InvalidImages | None,
    ) -> Results:
        """Batches of all records of ``source`` and what the step makes of them."""
        buckets = None if sizes_N2 is None else Buckets.assign(sizes_N2, self._shapes)
        with evaluation_batches(
            source, decoder, batch_size=self.batch_size, buckets=buckets, num_workers=self.workers
        ) as batches:
            while True:
                with self._waiting:
                    batch = next(batches, None)
                if batch is None:
                    return
                if invalid is not None:
                    invalid.tell(batch)
                    invalid.count(invalid.outcomes_of(batch))
                # Every process reads all rows, for the summary, and puts those on its devices that belong there.
                seen = {name: batch[name] for name in ("image", "valid")}
                yield batch, fetch(self._step(params, put_whole(seen, batch_sharding(self.mesh))))

    def _surest(self, params: Any, results: Results) -> Results:
        """``results``, where a portrait image comes last and with the surest of its three readings."""
        assert isinstance(self.task, Recognition)
        # Of each portrait image the surest reading so far: a few kilobytes, and one image in twenty or fewer.
        best: dict[int, tuple[float, dict[str, np.ndarray]]] = {}

        def consider(index: int, out: dict[str, np.ndarray], row: int) -> None:
            _, confidence = self.task.text_and_confidence(out, row)  # type: ignore[attr-defined]
            if index not in best or confidence > best[index][0]:
                best[index] = confidence, {name: value[row].copy() for name, value in out.items()}

        for batch, out in results:
            for row in np.flatnonzero(batch["portrait"]).tolist():
                consider(int(batch["index"][row]), out, row)
            yield batch | {"index": np.where(batch["portrait"], -1, batch["index"])}, out
        if not best:
            return
        portraits = np.array(sorted(best))
        turned = Subset(self.source, portraits)
        sizes_N2 = None if self._sizes_N2 is None else self._sizes_N2[portraits][:, ::-1]
        left, right = (replace(self.decoder, turns=turns) for turns in (1, 3))
        for batch, out in self._pass(params, turned, left, sizes_N2, None):
            for row in np.flatnonzero(batch["valid"]).tolist():
                consider(int(portraits[batch["index"][row]]), out, row)
        for batch, out in self._pass(params, turned, right, sizes_N2, None):
            out = {name: value.copy() for name, value in out.items()}
            batch["index"] = np.where(batch["index"] >= 0, portraits[batch["index"]], -1)
            for row in np.flatnonzero(batch["valid"]).tolist():
                index = int(batch["index"][row])
                consider(index, out, row)
                for name, value in best.pop(index)[1].items():
                    out[name][row] = value
            yield batch, out


def _told(results: Results, on_step: Callable[[int], None] | None) -> Results:
    """``results``, telling how many images each batch has."""
    for batch, out in results:
        yield batch, out
        if on_step is not None:
            on_step(int((batch["index"] >= 0).sum()))
