"""Passes over data on the devices of a mesh: a step for each batch, every record once, by any number of processes."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import lru_cache
from typing import Any

import jax
import numpy as np

from data_pipelines.images.batch_decoder import BatchDecoder
from data_pipelines.images.buckets import Buckets, Shape, image_sizes
from data_pipelines.pipeline import evaluation_batches
from data_pipelines.sources.combining import Subset
from data_pipelines.sources.records import Batch, Source
from maerec_jax.distributed.batch_sizes import batch_ladder
from maerec_jax.distributed.sharding import batch_part, fetch, put_batch, replicated, row_shards

Outputs = dict[str, np.ndarray]
"""What a step has made of a batch; arrays with a row for each image, and others."""

Results = Iterator[tuple[Batch, Outputs]]
"""Batches of all processes together, without their images, and what the step has made of them."""

_TOLD = ("index", "valid", "outcome", "size")


def _told(told: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return told


@lru_cache(maxsize=8)
def _jitted(function: Callable[..., Any], mesh: jax.sharding.Mesh) -> Callable[..., Any]:
    """The function under jit, every device with all of the result; what was asked for before is not compiled again."""
    return jax.jit(function, out_shardings=replicated(mesh))


class Passes:
    """Runs a step over all records of a source, or over some; compiled once for each image size.

    Args:
      step: what is done with parameters and each batch, under jit. It gets ``image``, ``valid``, ``width`` where aspect
        ratios are kept, and the ``columns``.
      source, decoder: the data, and what makes batches of them.
      batch_size: images a step, over all devices of the ``mesh``. Every process reads its part of the rows.
      workers: worker processes that read.
      shapes: image sizes to choose from for each image (``data_pipelines.images.buckets``), not the decoder's one.
      confidence: how sure row i of the outputs is. With it, images that are higher than wide are also turned to the
        left and to the right, and of the three outputs the surest is taken. They come last then. ``turns`` in the
        outputs says how often an image was turned by 90 degrees against the clock.
      columns: further arrays for the step, a row for each image, from a batch.
    """

    def __init__(
        self,
        step: Callable[[Any, dict[str, jax.Array]], dict[str, jax.Array]],
        source: Source,
        decoder: BatchDecoder,
        batch_size: int,
        workers: int,
        mesh: jax.sharding.Mesh,
        shapes: tuple[Shape, ...] = (),
        confidence: Callable[[Outputs, int], float] | None = None,
        columns: Callable[[Batch], Outputs] | None = None,
    ) -> None:
        self.source, self.decoder, self.mesh = source, decoder, mesh
        sizes = batch_ladder(batch_size, row_shards(mesh))
        self.batch_size = next((size for size in sizes if size >= len(source)), sizes[-1])
        self.workers, self.shapes = workers, shapes
        self._sizes_N2 = image_sizes(source) if shapes else None
        self._confidence, self._columns = confidence, columns
        self._step = _jitted(step, mesh)
        # A program of its own: on CPUs a step that communicates in a loop may do so at the same time as what does not
        # depend on the loop, in another order in each process, and then all wait for each other.
        self._gather = _jitted(_told, mesh)

    def __call__(
        self, params: Any, records: np.ndarray | None = None, waiting: AbstractContextManager | None = None
    ) -> Results:
        """Go over the data, or those ``records``; ``waiting`` is entered for as long as a batch is waited for.

        Yields:
          ``index`` (-1 in rows without a record), ``valid``, ``outcome`` and ``size`` of a batch, and the outputs. The
          same in every process.
        """
        waiting = waiting or nullcontext()
        records = np.arange(len(self.source)) if records is None else records
        results = self._pass(params, records, 0, waiting)
        return results if self._confidence is None else self._surest(params, results, waiting)

    def _pass(self, params: Any, records: np.ndarray, turns: int, waiting: AbstractContextManager) -> Results:
        buckets = None
        if self._sizes_N2 is not None:
            sizes_N2 = self._sizes_N2[records]
            buckets = Buckets.assign(sizes_N2[:, ::-1] if turns % 2 else sizes_N2, self.shapes)
        part, parts = batch_part(self.mesh)
        pending = None
        with evaluation_batches(
            Subset(self.source, records),
            replace(self.decoder, turns=turns),
            batch_size=self.batch_size,
            buckets=buckets,
            num_workers=self.workers,
            process_index=part,
            process_count=parts,
        ) as batches:
            while True:
                with waiting:
                    batch = next(batches, None)
                if batch is not None:
                    index = np.where(batch["index"] >= 0, records[batch["index"]], -1).astype(np.int32)
                    columns = {} if self._columns is None else self._columns(batch | {"index": index})
                    columns |= {"width": batch["width"]} if "width" in batch else {}
                    batch = {name: batch[name] for name in ("image", *_TOLD)} | {"index": index} | columns
                    rows = put_batch(batch, self.mesh)
                    told_rows = {name: rows.pop(name) for name in _TOLD}
                    results = self._gather(told_rows), self._step(params, rows | {"valid": told_rows["valid"]})
                # The devices have the next batch before anybody looks at what they made of this one.
                if pending is not None:
                    told, made = fetch(pending)
                    yield told, made | {"turns": np.full(len(told["index"]), turns, np.int32)}
                if batch is None:
                    return
                pending = results

    def _surest(self, params: Any, results: Results, waiting: AbstractContextManager) -> Results:
        """``results``, where a portrait image comes last and with the surest of its three outputs."""
        # Of each portrait image the surest outputs so far: some kilobytes, and one image in twenty or fewer.
        best: dict[int, tuple[float, Outputs]] = {}

        def consider(told: Batch, made: Outputs, row: int) -> None:
            assert self._confidence is not None
            index, confidence = int(told["index"][row]), self._confidence(made, row)
            if index not in best or confidence > best[index][0]:
                best[index] = confidence, {name: value[row].copy() for name, value in made.items()}

        for told, made in results:
            portrait = told["valid"] & (told["size"][:, 0] > told["size"][:, 1])
            for row in np.flatnonzero(portrait).tolist():
                consider(told, made, row)
            yield told | {"index": np.where(portrait, -1, told["index"])}, made
        portraits = np.array(sorted(best), int)
        for turns in (1, 3) if best else ():
            for told, made in self._pass(params, portraits, turns, waiting):
                for row in np.flatnonzero(told["valid"]).tolist():
                    consider(told, made, row)
                if turns == 3:
                    made = {name: value.copy() for name, value in made.items()}
                    for row in np.flatnonzero(told["index"] >= 0).tolist():
                        for name, value in best.pop(int(told["index"][row]))[1].items():
                            made[name][row] = value
                    yield told | {"valid": told["index"] >= 0}, made
