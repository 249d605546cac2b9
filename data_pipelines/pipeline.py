"""The one grain assembly: from sources to batches, in training order or in file order.

Batch k is a function of k alone (``data_pipelines.order``): to resume at step k is to start there.
"""

import errno
import gc
import os
import pickle
import shutil
import signal
import sys
import weakref
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import grain
import numpy as np
from absl import flags

from data_pipelines.errors import DataError, RecordError
from data_pipelines.images.batch_decoder import BatchDecoder
from data_pipelines.images.buckets import Buckets, Shape
from data_pipelines.order import Stream, share_out
from data_pipelines.shared_memory import Parcel, full_shared_memory, name_semaphores, parcel_folders
from data_pipelines.sources.combining import Sources
from data_pipelines.sources.records import Batch, Record, Source, read_records
from data_pipelines.tracing import events_folder, traced, write_events
from data_pipelines.worker_processes import set_up_worker

_BUFFERED = 2  # batches that each worker, or the reading thread, prepares ahead
_ENDLESS = 2**48  # steps

Indices = Sequence[int] | np.ndarray


class Batches(Iterator[Batch], AbstractContextManager["Batches"]):
    """An iterator over batches. ``close`` ends its worker processes; leaving a ``with`` block closes it too."""

    def __init__(self, batches: grain.IterDataset, folders: Sequence[str] = ()) -> None:
        """``folders`` are those in which batches come as a ``Parcel``, from worker processes."""
        # Held in a list that ``close`` empties, so that grain's iterators are gone before the interpreter takes its
        # modules apart: they complain otherwise. The finalizer closes what a crashing program leaves open.
        self._iterator = [iter(batches)]
        self._finalizer = weakref.finalize(self, _close, self._iterator, folders)

    def __next__(self) -> Batch:
        """The next batch. Raises ``DataError`` as the source raised it, from whichever process.

        Other errors come with the traceback of the process that they were raised in. A worker that was killed, or that
        there is no room for, is a ``DataError``.
        """
        if not self._iterator:
            raise StopIteration
        try:
            batch = next(self._iterator[0])
            return batch.unpack() if isinstance(batch, Parcel) else batch
        except DataError as error:
            message = str(error)
        except OSError as error:
            if error.errno != errno.ENOSPC or error.filename is not None:
                raise
            message = full_shared_memory()
        except RuntimeError as error:
            if "terminated unexpectedly" not in str(error):  # grain's words for a worker that is gone
                raise
            killed, reason = str(error).split(". ")[0], "probably out of memory; use fewer data.workers"
            if killed.endswith(f" {-signal.SIGBUS}"):
                reason = f"a file was cut while it was read, or {full_shared_memory()}"
            message = f"{killed}: {reason}"
        self.close()
        # Without the notes and frames that grain adds on the way: the one line says all.
        raise DataError(message)

    def close(self) -> None:
        """End the worker processes. May be called again; a closed iterator has no more batches."""
        self._finalizer()

    def __exit__(self, *_: object) -> None:
        self.close()


def _close(iterator: list[grain.DatasetIterator], folders: Sequence[str]) -> None:
    if iterator:
        iterator.pop().close()
        if folders:  # of worker processes
            # grain leaves their semaphores in cycles, which Python 3.13 cannot remove while it makes new ones.
            gc.collect()
    _remove(folders)


def _remove(folders: Sequence[str]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def train_batches(
    sources: Sources,
    decoder: BatchDecoder,
    *,
    batch_size: int,
    seed: int,
    buckets: Buckets | None = None,
    start_step: int = 0,
    num_workers: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Batches:
    """Endless shuffled batches; the first is that of step ``start_step``.

    Without weights, every record comes once an epoch, in an order that depends on the seed and the epoch, across the
    borders of sources and of batches. With weights (``Sources.proportions``), every source is shuffled and repeated on
    its own and they alternate in those shares, in every batch alike.

    With ``buckets`` all records of a batch are of the same bucket, which gives the size of its images. Buckets
    alternate in the shares that they have of the records, in the same way on every process; a source keeps its share.

    ``batch_size`` is that of all processes together: process p gets part p of the rows of each batch, so that the parts
    put together in the order of processes are the batch that one process would get. Step, seed and place in the batch
    also fix the random numbers of augmentation.

    Raises ``ValueError`` where ``batch_size`` is not a multiple of ``process_count``, and ``DataError`` where there are
    no records or weights do not fit.
    """
    local_size = _local_size(batch_size, process_index, process_count)
    kinds = _step_kinds(sources, seed, buckets, (decoder.height, decoder.width))
    read = partial(_read_step, sources, decoder, local_size, kinds, seed, (process_index, process_count))
    return _iterate(grain.MapDataset.range(start_step, _ENDLESS).map(read), num_workers)


def evaluation_batches(
    source: Source,
    decoder: BatchDecoder,
    *,
    batch_size: int,
    buckets: Buckets | None = None,
    num_workers: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Batches:
    """All records once, without augmentation, in order; with ``buckets`` one bucket after the other.

    The last batch (of each bucket) is filled up with rows that are not valid and have index -1. Processes get their
    parts as in ``train_batches``, the same number of batches each. Raises ``ValueError`` as ``train_batches`` does.
    """
    local_size = _local_size(batch_size, process_index, process_count)
    groups: list[tuple[Shape, Indices]] = [((decoder.height, decoder.width), range(len(source)))]
    if buckets is not None:
        groups = [(shape, np.flatnonzero(buckets.numbers == i)) for i, shape in enumerate(buckets.shapes)]
    spans = [
        (shape, indices[start : start + local_size])
        for shape, indices in groups
        for start in range(0, -(-len(indices) // batch_size) * batch_size, local_size)
    ]
    batches = grain.MapDataset.source(spans)[process_index::process_count]
    return _iterate(batches.map(partial(_read_span, source, decoder, local_size)), num_workers)


def _local_size(batch_size: int, process_index: int, process_count: int) -> int:
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(f"batch size {batch_size} is not a multiple of the {process_count} processes")
    if not 0 <= process_index < process_count:
        raise ValueError(f"process {process_index} of {process_count}")
    return batch_size // process_count


class _StepKind(NamedTuple):
    """A kind of training steps: the size of their images, their share of all steps, and their records."""

    shape: Shape
    share: float
    stream: Stream


def _step_kinds(sources: Sources, seed: int, buckets: Buckets | None, shape: Shape) -> list[_StepKind]:
    """A kind for each bucket, in which each source has a part, or all together where none has a weight."""
    proportions = sources.proportions or [1.0]
    borders = sources.starts if sources.proportions else (0, len(sources))
    kinds = []
    for bucket, bucket_shape in enumerate((shape,) if buckets is None else buckets.shapes):
        parts: list[range | np.ndarray] = []
        weights = []
        for proportion, (start, end) in zip(proportions, pairwise(borders), strict=True):
            part: range | np.ndarray = range(start, end)
            if buckets is not None:
                part = (start + np.flatnonzero(buckets.numbers[start:end] == bucket)).astype(np.uint32)
            if len(part):
                parts.append(part)
                weights.append(proportion * len(part) / (end - start))
        if parts:
            stream = Stream(tuple(parts), tuple(w / sum(weights) for w in weights), (seed, bucket))
            kinds.append(_StepKind(bucket_shape, sum(weights), stream))
    if not kinds:
        raise DataError("there are no records to train on")
    return kinds


def _read_step(
    sources: Sources,
    decoder: BatchDecoder,
    batch_size: int,
    kinds: list[_StepKind],
    seed: int,
    process: tuple[int, int],
    step: int,
) -> Batch:
    """Find, read and decode the records of a training step for process ``(index, count)``. Runs in the workers."""
    (number,), (before,) = share_out(np.array([step]), [kind.share for kind in kinds])
    # The number of images before this process's part of this step: in its stream, and in all.
    first, first_of_all = ((steps * process[1] + process[0]) * batch_size for steps in (int(before), step))
    indices = kinds[number].stream.at(first + np.arange(batch_size))
    return _read_span(sources, decoder, batch_size, (kinds[number].shape, indices), (seed, first_of_all))


def _read_span(
    source: Source,
    decoder: BatchDecoder,
    batch_size: int,
    span: tuple[Shape, Indices],
    random_key: tuple[int, int] | None = None,
) -> Batch:
    """Read and decode a batch: the size of its images, and its records. Runs in the workers."""
    (height, width), indices = span
    numbers = np.asarray(indices).tolist()
    try:
        with traced("read"):
            try:
                records: Sequence[Record | RecordError] = read_records(source, numbers)
            except RecordError:  # of one of them, or of a few
                records = [_read(source, number) for number in numbers]
        decode = replace(decoder, height=height, width=width)
        with traced("decode"):
            return decode(list(zip(numbers, records, strict=True)), batch_size, random_key)
    except Exception as error:
        # A worker sends its exception through a queue that would lose one that cannot be pickled, and wait forever.
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # whatever the error's own class raises
            raise RuntimeError(f"{type(error).__name__}: {error}") from None
        raise


def _read(source: Source, index: int) -> Record | RecordError:
    """A record, or why it cannot be read."""
    try:
        return source[index]
    except RecordError as error:
        return error


def _iterate(batches: grain.MapDataset, num_workers: int) -> Batches:
    folders: tuple[str, ...] = ()
    if num_workers:
        name_semaphores()
        folders = parcel_folders()
        batches = batches.map(partial(_hand_over, folders))
    # One reading thread: more are slower, as they wait for each other. It reads ahead while the step runs.
    dataset = batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=_BUFFERED))
    if num_workers:
        # grain reads its debug flags, which absl refuses before a command line has been parsed.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        options = grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=_BUFFERED)
        dataset = dataset.mp_prefetch(options, worker_init_fn=partial(_start_worker, folders, events_folder()))
    return Batches(dataset, folders)


def _hand_over(folders: Sequence[str], batch: Batch) -> Parcel:
    with traced("hand over"):
        return Parcel.pack(batch, folders)


def _start_worker(folders: Sequence[str], events: Path, _index: int, _count: int) -> None:
    """Prepare a worker process before it loads any data. grain spawns workers: nothing is inherited from the parent."""
    # grain imports JAX, and the main module, which is loaded again here, may use it: not on an accelerator.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ["JAX_PLATFORMS"] = "cpu"
    jax: Any = sys.modules.get("jax")
    if jax is not None:
        jax.config.update("jax_platforms", "cpu")
    # Schedulers send it to all processes of a run: the main process saves, and closes its workers.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    write_events(events)
    set_up_worker(partial(_remove, folders))
