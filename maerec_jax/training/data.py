"""Training and validation data as a config describes them, and the count of images that cannot be used."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from data_pipelines.augmentation import NO_AUGMENTATION
from data_pipelines.buckets import Buckets, image_sizes, turned_sizes
from data_pipelines.combining import Sources, SourceSpec, Subset, drop_unknown_characters
from data_pipelines.decoding import DecodeError, decode_image
from data_pipelines.overlaps.list_file import leave_out, read_list
from data_pipelines.pipeline import BatchDecoder
from data_pipelines.records import Batch, DataError, Source
from maerec_jax.config import TrainConfig
from maerec_jax.models.mae import MAEConfig
from maerec_jax.models.maerec import MAERecConfig

_LOOKED_AT = 256


def open_sources(
    config: TrainConfig, specs: tuple[SourceSpec, ...], message: Callable[[str], None], exclude: Sequence[str] = ()
) -> Sources:
    """Open sources under the data root; for a recogniser, without the labels that it cannot write or with them.

    ``exclude`` names lists of records to leave out; it is for training data only. What is left out is told through
    ``message``. Raises ``DataError`` for a source or list that cannot be used.
    """
    sources = Sources.open(specs, Path(config.data.root), config.data.mixing)
    if isinstance(config.model, MAERecConfig):
        for source in sources.sources:
            if source.text(0) is None:
                raise DataError(
                    f"{source.name(0)} has no label, and a recogniser needs labels: choose labelled sources"
                )
        characters, action = config.model.charset.characters, config.data.unknown_characters
        longest = config.model.decoder.max_length - 2  # beside the start and the end
        kept, report = drop_unknown_characters(sources, characters, action, longest)
        if report.unknown or report.empty or report.cut:
            message(str(report))
        assert isinstance(kept, Sources)
        sources = kept
    # Last, so that all labels could be looked at in one piece.
    return _without(sources, Path(config.data.root), exclude, message)


def _without(sources: Sources, root: Path, lists: Sequence[str], message: Callable[[str], None]) -> Sources:
    """The sources without the records that the lists name."""
    if not lists:
        return sources
    names = {overlap.train for name in lists for overlap in read_list(root / name)}
    sources, count, unknown = leave_out(sources, names)
    message(f"{count:,} records left out by {', '.join(lists)}")
    if unknown:
        message(f"{len(unknown):,} of {len(names):,} excluded names are in no training source, {min(unknown)} for one")
    return sources


def open_validation(config: TrainConfig, sources: Sources, message: Callable[[str], None]) -> Source | None:
    """The validation data, if there is any.

    Pre-training without any looks at some of its training images instead, for the pictures' sake.
    """
    if config.data.validation:
        return open_sources(config, config.data.validation, message)
    if isinstance(config.model, MAEConfig):
        indices = np.unique(np.linspace(0, len(sources) - 1, _LOOKED_AT).astype(np.int64))
        message(f"none given, so reconstructions are of {len(indices)} training images")
        return Subset(sources, indices)
    return None


def make_decoder(config: TrainConfig) -> BatchDecoder:
    """What turns records into batches for this config's model."""
    data, (height, width) = config.data, config.model.encoder.image_size
    tokenize = None
    if isinstance(config.model, MAERecConfig):
        tokenize = partial(config.model.charset.encode, length=config.model.decoder.max_length)
    augmentation = None if data.augmentation == NO_AUGMENTATION else data.augmentation
    return BatchDecoder(height, width, data.interpolation, tokenize, augmentation, data.turn_vertical)


def make_buckets(config: TrainConfig, source: Source, message: Callable[[str], None]) -> Buckets | None:
    """The aspect-ratio buckets of the training records, or None where the config has none."""
    if not config.data.buckets:
        return None
    start = time.perf_counter()
    sizes = image_sizes(source)
    if config.data.turn_vertical:
        sizes = turned_sizes(source, sizes)
    buckets = Buckets.assign(sizes, config.data.buckets)
    counts = np.bincount(buckets.numbers, minlength=len(buckets.shapes))
    shares = ", ".join(
        f"{height}x{width} {count / len(source):.1%}"
        for (height, width), count in zip(buckets.shapes, counts, strict=True)
    )
    message(f"buckets: {shares} (sizes of {len(source):,} images in {time.perf_counter() - start:.1f} s)")
    return buckets


class InvalidImages:
    """Counts images that could not be decoded, names the first ones, and stops a run that has too many of them.

    Args:
      source: where the images come from.
      message: prints a line.
      batch_size: images a step, over all processes.
      limit: the largest share of the images so far that may be unusable; looked at from the hundredth unusable one.
    """

    def __init__(self, source: Source, message: Callable[[str], None], batch_size: int = 0, limit: float = 1.0) -> None:
        self.source, self.message, self.batch_size, self.limit = source, message, batch_size, limit
        self.seen = self.found = self._told = 0

    def tell(self, batch: Batch) -> None:
        """Name those of a batch (of this process's part of it, where there are several)."""
        for index in batch["index"][~batch["valid"] & (batch["index"] >= 0)].tolist():
            self._told += 1
            if self._told <= 10:
                self.message(f"masked out: {self.source.name(index)}: {self._reason(index)}")
            elif self._told == 11:
                self.message("masked out: more of them, counted as invalid_images")

    def count(self, invalid: int) -> None:
        """Count those of a step, over all processes. Raises ``DataError`` when they are too many."""
        self.seen += self.batch_size
        self.found += invalid
        if self.found >= 100 and self.found > self.limit * self.seen:
            raise DataError(
                f"{self.found} of {self.seen} images cannot be decoded, more than data.max_invalid {self.limit:.0%}"
            )

    def _reason(self, index: int) -> str:
        image = self.source[index].image
        try:
            decode_image(image if isinstance(image, bytes) else b"")
        except DecodeError as error:
            return str(error)
        return "could not be resized or distorted"
