"""Training and validation data as a config describes them, and the count of images that cannot be used."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from data_pipelines.combining import Sources, SourceSpec, drop_unknown_characters
from data_pipelines.decoding import DecodeError, decode_image
from data_pipelines.pipeline import BatchDecoder
from data_pipelines.records import Batch, DataError
from maerec_jax.config import NO_AUGMENTATION, TrainConfig
from maerec_jax.models.maerec import MAERecConfig


def open_sources(config: TrainConfig, specs: tuple[SourceSpec, ...], message: Callable[[str], None]) -> Sources:
    """Open sources under the data root; for a recogniser, without the labels that it cannot write or with them.

    What is left out is told through ``message``. Raises ``DataError`` for a source that cannot be used.
    """
    sources = Sources.open(specs, Path(config.data.root))
    if isinstance(config.model, MAERecConfig):
        characters, action = config.model.charset.characters, config.data.unknown_characters
        kept, report = drop_unknown_characters(sources, characters, action)
        if report.unknown or report.empty:
            message(str(report))
        assert isinstance(kept, Sources)
        return kept
    return sources


def make_decoder(config: TrainConfig) -> BatchDecoder:
    """What turns records into batches for this config's model."""
    data, (height, width) = config.data, config.model.encoder.image_size
    tokenize = None
    if isinstance(config.model, MAERecConfig):
        tokenize = partial(config.model.charset.encode, length=config.model.decoder.max_length)
    augment = None if data.augmentation == NO_AUGMENTATION else data.augmentation
    return BatchDecoder(height, width, data.interpolation, tokenize, augment, data.augment_before_resize)


class InvalidImages:
    """Counts images that could not be decoded, shows the first ones by name, and stops a run that has too many."""

    def __init__(self, sources: Sources, limit: float, message: Callable[[str], None]) -> None:
        self.sources, self.limit, self.message = sources, limit, message
        self.seen = self.count = 0

    def check(self, batch: Batch) -> None:
        """Count those of a batch. Raises ``DataError`` when more than the limit of all images so far are unusable."""
        self.seen += len(batch["valid"])
        for index in batch["index"][~batch["valid"]].tolist():
            self.count += 1
            if self.count <= 10:
                self.message(f"masked out: {self.sources.name(index)}: {self._reason(index)}")
            elif self.count == 11:
                self.message("masked out: more of them, counted as invalid_images in the log")
        if self.count >= 100 and self.count > self.limit * self.seen:
            raise DataError(
                f"{self.count} of {self.seen} images cannot be decoded, more than data.max_invalid {self.limit:.0%}"
            )

    def _reason(self, index: int) -> str:
        image = self.sources[index].image
        try:
            decode_image(image if isinstance(image, bytes) else b"")
        except DecodeError as error:
            return str(error)
        return "could not be decoded at first, but can now"
