"""Fine-tuning: the recogniser's loss, its validation and its sample readings."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.images.decoding import DecodeError, pixels_of
from data_pipelines.images.resizing import resize_image, turn_image
from data_pipelines.sources.records import Batch, Source
from maerec_jax.models.interface import Loss, RecogniserConfig, normalize, widths
from maerec_jax.reading.pictures import readings_sheet
from maerec_jax.reading.scoring import Scores
from maerec_jax.reading.word import NOTHING, greedy_step, word_of
from maerec_jax.training.task import Validation

Array = jax.Array

_SHOWN = 48  # readings of a validation


class Recognition:
    """Learn to write the text of a word image, one character after the other (arXiv 2307.08723, section 5)."""

    def __init__(self, config: RecogniserConfig, dtype: Any, label_smoothing: float = 0.0) -> None:
        self.config, self.dtype, self.init, self.label_smoothing = config, dtype, config.init, label_smoothing

    def prepare(self, batch: dict[str, Array], key: Array) -> dict[str, Array]:
        """Nothing is drawn for the whole batch."""
        del key
        return batch

    def loss(self, params: Any, batch: dict[str, Array], key: Array) -> Loss:
        """The model's loss of the valid images."""
        image_BHWC, valid_B = normalize(batch["image"], self.config), batch["valid"].astype(jnp.float32)
        loss: Any = self.config.loss  # which takes widths where there are any
        told = (batch["tokens"], valid_B, key, self.label_smoothing, self.dtype)
        return loss(params, image_BHWC, *told, **widths(batch))

    def evaluation_step(self, params: Any, batch: dict[str, Array]) -> dict[str, Array]:
        """Greedy readings of a batch."""
        return greedy_step(self.config, params, batch, self.dtype)

    def confidence(self, made: dict[str, np.ndarray], row: int) -> float:
        """How likely the reading in row ``row`` of what ``evaluation_step`` returned is."""
        return word_of(made, row, self.config.charset).probability

    def validate(self, results: Iterable[tuple[Batch, dict[str, np.ndarray]]], labels: Source) -> Validation:
        """Word accuracies over the batches, and a sheet of readings. An image that could not be decoded is misread."""
        scores, pictures, used = Scores(), [], False
        samples: list[dict[str, Any]] = []
        for batch, out in results:
            used |= bool(batch["valid"].any())
            for i, index in enumerate(batch["index"].tolist()):
                if index < 0:
                    continue
                word = word_of(out, i, self.config.charset) if batch["valid"][i] else NOTHING
                truth = labels.text(index) or ""
                scores.add(word.text if batch["valid"][i] else None, truth)
                if len(samples) < _SHOWN:
                    name = labels.name(index)
                    samples.append({"name": name, "text": truth, "reading": word.text, "confidence": word.confidence})
                    pictures.append(self._picture(labels, index, word.turns))
        metrics, sheet = scores.summary(), readings_sheet(pictures, samples)
        if not used:
            return Validation({"words": metrics["words"]}, None, sheet, samples)
        # Where no capitals can be written, WA would tell how many of the labels have none.
        characters = self.config.charset.characters
        score = metrics["word_accuracy_ignore_case" if characters == characters.lower() else "word_accuracy"]
        return Validation(metrics, score, sheet, samples)

    def _picture(self, source: Source, index: int, turns: int) -> np.ndarray:
        """An image as it was read, in the size of the model's images; black where it cannot be decoded."""
        height, width = self.config.image_size
        try:
            return resize_image(turn_image(pixels_of(source[index]), turns), height, width, "bilinear")
        except (DataError, DecodeError):
            return np.zeros((height, width, 3), np.uint8)
