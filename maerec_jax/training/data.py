"""Training and validation data as a config describes them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from data_pipelines.images.augmentation import NO_AUGMENTATION
from data_pipelines.images.batch_decoder import BatchDecoder
from data_pipelines.images.buckets import Buckets, image_sizes, turned_sizes
from data_pipelines.opening import Labels, open_sources
from data_pipelines.sources.combining import Sources, SourceSpec, Subset
from data_pipelines.sources.records import Source
from maerec_jax.config import TrainConfig
from maerec_jax.models.interface import RecogniserConfig

_LOOKED_AT = 256


def needed_labels(config: TrainConfig) -> Labels | None:
    """What a run's model needs of labels; None for one that is not trained on any."""
    model = config.model
    if not isinstance(model, RecogniserConfig):
        return None
    return Labels(model.charset.written, model.max_length - 2, config.data.unknown_characters)  # without start, end


def open_training(config: TrainConfig, message: Callable[[str], None]) -> Sources:
    """The training data. Raises ``DataError`` for what cannot be used; ``message`` is told what is left out."""
    data = config.data
    return open_sources(data.train, Path(data.root), message, needed_labels(config), data.mixing, data.exclude)


def open_validation(config: TrainConfig, sources: Sources, message: Callable[[str], None]) -> Source | None:
    """The validation data, if there is any.

    Pre-training without any looks at some of its training images instead, for the pictures' sake.
    """
    data, labels = config.data, needed_labels(config)
    if data.validation:
        labels = labels and replace(labels, cut=False)
        return open_sources(data.validation, Path(data.root), message, labels, data.mixing)
    if labels is None:
        indices = np.unique(np.linspace(0, len(sources) - 1, _LOOKED_AT).astype(np.int64))
        message(f"none given, so reconstructions are of {len(indices)} training images")
        return Subset(sources, indices)
    return None


def make_decoder(config: TrainConfig) -> BatchDecoder:
    """What turns records into batches for this config's model."""
    data, model, tokenize = config.data, config.model, None
    if isinstance(model, RecogniserConfig):
        tokenize = partial(model.charset.encode, length=model.max_length)
    augmentation = None if data.augmentation == NO_AUGMENTATION else data.augmentation
    return BatchDecoder(
        *model.image_size,
        data.interpolation,
        tokenize,
        augmentation,
        data.turn_vertical,
        keep_ratio=model.keep_ratio,
    )


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


def source_names(specs: Sequence[SourceSpec], field: str = "data.train") -> list[str]:
    """What messages call the sources of a field of the config: their place there, and their path or kind."""
    return [
        f"{field}.{number} ({getattr(spec, 'path', '') or getattr(spec, 'kind', type(spec).__name__)})"
        for number, spec in enumerate(specs)
    ]
