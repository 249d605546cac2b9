"""The one grain assembly: from sources to batches, in training order or in file order.

Batches are made at grain's map level, so batch k is a function of k alone: it is the same for any number of worker
processes, and to resume at step k is to start at index k. There is no iterator state to save.
"""

import logging
import os
import pickle
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import grain
import numpy as np
from absl import flags

from data_pipelines.combining import Sources
from data_pipelines.decoding import MAX_PIXELS, DecodeError, Interpolation, decode_image, resize_image
from data_pipelines.records import (
    MISSING,
    UNREADABLE,
    USED,
    Batch,
    DataError,
    MissingError,
    Record,
    RecordError,
    Source,
)
from data_pipelines.worker_processes import follow_parent, mute_libraries

_BUFFERED = 2  # batches that each worker, or the reading thread, prepares ahead
_MAX_SHUFFLED = 2**32 - 1  # grain shuffles 32-bit indices

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BatchDecoder:
    """Makes a batch of records: decodes, resizes, augments and tokenizes. Picklable if its functions are."""

    height: int = 32
    """Height of the images in a batch."""
    width: int = 128
    """Width of the images in a batch."""
    interpolation: Interpolation = "bilinear"
    """How images are resized: bilinear for the recogniser, bicubic for pre-training."""
    tokenize: Callable[[str], np.ndarray] | None = None
    """From a label to int32 ``(length,)``; None where labels are not read."""
    augment: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None
    """From uint8 RGB ``(h, w, 3)`` to the same of any size; in training only."""
    augment_before_resize: bool = True
    """Whether images are augmented at their own size (the reference resizes first)."""
    max_pixels: int = MAX_PIXELS
    """Images with more pixels are not decoded."""

    def __call__(
        self,
        records: Sequence[tuple[int, Record | RecordError]],
        batch_size: int,
        random_key: tuple[int, int] | None = None,
    ) -> Batch:
        """Decode records, given with their indices, to a batch of ``batch_size``.

        A record that could not be read, given as its error, or whose image cannot be decoded becomes a row of zeros
        that is not valid but keeps its index, and the former has no label. Rows after the last record are zeros too,
        with index -1. ``random_key`` is a seed and the place of the first record in the
        training stream: record j is augmented by a generator of (seed, place + j). Without it nothing is augmented.

        Raises ``DataError`` for a record without a label where labels are read.
        """
        images = np.zeros((batch_size, self.height, self.width, 3), np.uint8)
        valid = np.zeros(batch_size, bool)
        outcome = np.full(batch_size, USED, np.uint8)
        index = np.full(batch_size, -1, np.int64)
        for row, (record_index, record) in enumerate(records):
            index[row] = record_index
            if isinstance(record, RecordError):
                outcome[row] = MISSING if isinstance(record, MissingError) else UNREADABLE
                continue
            generator = None
            if random_key is not None and self.augment is not None:
                seed, place = random_key
                generator = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, place + row]))
            try:
                image = record.image
                if isinstance(image, bytes):
                    image = decode_image(image, self.max_pixels)
                images[row] = self._fit(image, generator)
            # OpenCV refuses to warp images with a side of over 32,767 pixels, for example.
            except (DecodeError, cv2.error) as error:
                _log.debug("record %d: %s", record_index, error)
                outcome[row] = UNREADABLE
                continue
            valid[row] = True
        batch = {"image": images, "valid": valid, "outcome": outcome, "index": index}
        if self.tokenize is not None:
            texts = [self._label(record_index, record) for record_index, record in records]
            texts += [""] * (batch_size - len(texts))
            batch["tokens"] = np.stack([self.tokenize(text) for text in texts]).astype(np.int32, copy=False)
        return batch

    def _fit(self, image: np.ndarray, generator: np.random.Generator | None) -> np.ndarray:
        if generator is not None and self.augment is not None and self.augment_before_resize:
            image = self.augment(image, generator)
        image = resize_image(image, self.height, self.width, self.interpolation)
        if generator is not None and self.augment is not None and not self.augment_before_resize:
            image = self.augment(image, generator)
        return image

    @staticmethod
    def _label(index: int, record: Record | RecordError) -> str:
        if isinstance(record, RecordError):
            return ""
        if record.text is None:
            raise DataError(f"record {index} has no label, and this task reads labels; choose labelled sources")
        return record.text


class Batches(Iterator[Batch]):
    """An iterator over batches. ``close`` ends its worker processes; leaving a ``with`` block closes it too."""

    def __init__(self, batches: grain.IterDataset) -> None:
        # Held in a list that ``close`` empties, so that grain's iterators are gone before the interpreter takes its
        # modules apart: they complain otherwise. The finalizer closes what a crashing program leaves open.
        self._iterator = [iter(batches)]
        self._finalizer = weakref.finalize(self, _close, self._iterator)

    def __next__(self) -> Batch:
        """The next batch. Raises ``DataError`` as the source raised it, from whichever process."""
        if not self._iterator:
            raise StopIteration
        try:
            batch = next(self._iterator[0])
        except DataError as error:
            message = str(error)
        else:
            # Workers hand over shared memory, which must be given back before the program ends: copying 10 MB is cheap.
            return {name: np.array(value) for name, value in batch.items()}
        self.close()
        # Without the notes and frames that grain adds on the way: the one line says all.
        raise DataError(message)

    def close(self) -> None:
        """End the worker processes. May be called again; a closed iterator has no more batches."""
        self._finalizer()

    def __enter__(self) -> "Batches":
        """The iterator itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the iterator."""
        self.close()


def _close(iterator: list[grain.DatasetIterator]) -> None:
    if iterator:
        iterator.pop().close()


def train_batches(
    sources: Sources,
    decoder: BatchDecoder,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    num_workers: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Batches:
    """Endless shuffled batches; the first is that of step ``start_step``.

    Without weights, every record comes once an epoch, in an order that depends on the seed and the epoch, across the
    borders of sources and of batches. With weights (``Sources.proportions``), every source is shuffled and repeated on
    its own and they alternate in those shares, in every batch alike.

    ``batch_size`` is that of all processes together: process p gets part p of the rows of each batch, so that the parts
    put together in the order of processes are the batch that one process would get. Step, seed and place in the batch
    also fix the random numbers of augmentation.

    Raises ``ValueError`` where ``batch_size`` is not a multiple of ``process_count``, ``DataError`` where there are too
    many records to shuffle or weights do not fit.
    """
    local_size = _local_size(batch_size, process_index, process_count)
    proportions = sources.proportions
    if proportions is None:
        spans = [(0, len(sources))]
    else:
        spans = list(zip(sources.starts[:-1], sources.starts[1:], strict=True))
    streams = []
    for number, (start, end) in enumerate(spans):
        if not 0 < end - start <= _MAX_SHUFFLED:
            raise DataError(f"{end - start:,} records cannot be shuffled; give from 1 to {_MAX_SHUFFLED:,}")
        # Seeds are spread out first: grain adds the epoch to the seed, and seeds 0 and 1 should share no order.
        spread_seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        streams.append(grain.MapDataset.range(start, end).shuffle(seed=spread_seed).repeat())
    stream = streams[0] if proportions is None else grain.MapDataset.mix(streams, proportions)
    # Consecutive batches of the local size make up a batch. Records are not dealt out one by one: a mixture alternates
    # regularly, and one process could get all rendered words.
    batches = stream.batch(local_size, drop_remainder=True, batch_fn=list)
    batches = batches.map_with_index(_Reader(sources, decoder, local_size, seed))
    batches = batches[process_index::process_count][start_step:]
    return _iterate(batches, num_workers)


def evaluation_batches(
    source: Source,
    decoder: BatchDecoder,
    *,
    batch_size: int,
    num_workers: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Batches:
    """All records once, in order and without augmentation, in ``ceil(len(source) / batch_size)`` batches.

    The last batch is filled up with rows that are not valid and have index -1. Processes get their parts as in
    ``train_batches``, the same number of batches each. Raises ``ValueError`` as ``train_batches`` does.
    """
    local_size = _local_size(batch_size, process_index, process_count)
    steps = -(-len(source) // batch_size)
    batches = grain.MapDataset.range(steps * process_count).map(_Span(local_size, len(source)))
    batches = batches.map_with_index(_Reader(source, decoder, local_size, None))
    return _iterate(batches[process_index::process_count], num_workers)


def _local_size(batch_size: int, process_index: int, process_count: int) -> int:
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(f"batch size {batch_size} is not a multiple of the {process_count} processes")
    if not 0 <= process_index < process_count:
        raise ValueError(f"process {process_index} of {process_count}")
    return batch_size // process_count


@dataclass(frozen=True)
class _Span:
    """The indices of the records in batch ``number`` of a source in order."""

    batch_size: int
    end: int

    def __call__(self, number: int) -> range:
        start = number * self.batch_size
        return range(min(start, self.end), min(start + self.batch_size, self.end))


@dataclass(frozen=True)
class _Reader:
    """Reads and decodes the records of a batch. Runs in the workers."""

    source: Source
    decoder: BatchDecoder
    batch_size: int
    seed: int | None

    def __call__(self, number: int, indices: Sequence[int]) -> Batch:
        try:
            records = [(index, self._read(index)) for index in indices]
            random_key = None if self.seed is None else (self.seed, number * self.batch_size)
            return self.decoder(records, self.batch_size, random_key)
        except Exception as error:
            # A worker sends its exception through a queue that would lose one that cannot be pickled, and wait forever.
            try:
                pickle.loads(pickle.dumps(error))
            except Exception:
                raise RuntimeError(f"{type(error).__name__}: {error}") from None
            raise

    def _read(self, index: int) -> Record | RecordError:
        try:
            return self.source[index]
        except RecordError as error:
            return error


def _iterate(batches: grain.MapDataset, num_workers: int) -> Batches:
    # One reading thread: more are slower, as they wait for each other. It reads ahead while the step runs.
    dataset = batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=_BUFFERED))
    if num_workers:
        # grain reads its debug flags, which absl refuses before a command line has been parsed.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        options = grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=_BUFFERED)
        dataset = dataset.mp_prefetch(options, worker_init_fn=_start_worker)
    return Batches(dataset)


def _start_worker(_index: int, _count: int) -> None:
    """Prepare a worker process before it loads any data. grain spawns workers: nothing is inherited from the parent."""
    # grain imports JAX, and the main module, which is loaded again here, may use it: not on an accelerator.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ["JAX_PLATFORMS"] = "cpu"
    jax: Any = sys.modules.get("jax")
    if jax is not None:
        jax.config.update("jax_platforms", "cpu")
    follow_parent()
    mute_libraries()
