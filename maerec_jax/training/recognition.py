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
from maerec_jax.models.lora import is_adapter
from maerec_jax.models.maerec import MAERec, MAERecConfig
from maerec_jax.models.vit import normalize
from maerec_jax.reading.pictures import readings_sheet
from maerec_jax.reading.reader import NOTHING, greedy_step, word_of
from maerec_jax.reading.scoring import Scores
from maerec_jax.training.task import Loss, Validation

Array = jax.Array

_SHOWN = 48  # readings of a validation


def token_loss(logits_BTV: Array, target_BT: Array, padding: int, smoothing: float = 0.0) -> tuple[Array, Array]:
    """Cross-entropy of each place, float32 (B, T), 0 at padding; and its weights (B, T), 1 where there is no padding.

    ``smoothing`` is the share of the target that is spread evenly over all classes.
    """
    weight_BT = (target_BT != padding).astype(jnp.float32)
    log_probability = jax.nn.log_softmax(logits_BTV.astype(jnp.float32))
    loss_BT = -jnp.take_along_axis(log_probability, target_BT[..., None], axis=-1)[..., 0]
    if smoothing:
        loss_BT = (1 - smoothing) * loss_BT - smoothing * log_probability.mean(axis=-1)
    return loss_BT * weight_BT, weight_BT


class Recognition:
    """Learn to write the text of a word image, one character after the other (arXiv 2307.08723, section 5)."""

    def __init__(self, config: MAERecConfig, dtype: Any, label_smoothing: float = 0.0) -> None:
        self.config = config
        self.encoder = config.encoder
        self.dtype = dtype
        self.label_smoothing = label_smoothing
        self.model: Any = MAERec(config, dtype)

    def init(self, key: Array) -> Any:
        """Fresh parameters."""
        image = jnp.zeros((1, *self.encoder.image_size, 3))
        return self.model.init(key, image, jnp.zeros((1, self.config.decoder.max_length), jnp.int32))["params"]

    def frozen(self, path: str) -> bool:
        """Everything is trained; beside adapters the encoder is a constant."""
        return self.encoder.lora_rank > 0 and path.startswith("encoder/") and not is_adapter(path)

    def prepare(self, batch: dict[str, Array], key: Array) -> dict[str, Array]:
        """Nothing is drawn for the whole batch."""
        del key
        return batch

    def loss(self, params: Any, batch: dict[str, Array], key: Array) -> Loss:
        """Cross-entropy summed over the characters (and ends) of the valid images; the weight is their number."""
        image_BHWC, tokens_BT = normalize(batch["image"], self.encoder), batch["tokens"]
        logits_BTV = self.model.apply(
            {"params": params}, image_BHWC, tokens_BT[:, :-1], deterministic=False, rngs={"dropout": key}
        )
        target_BT = tokens_BT[:, 1:]
        loss_BT, weight_BT = token_loss(logits_BTV, target_BT, self.config.charset.padding, self.label_smoothing)
        valid_B1 = batch["valid"][:, None].astype(jnp.float32)
        correct_BT = (logits_BTV.argmax(axis=-1) == target_BT) * weight_BT * valid_B1
        return Loss((loss_BT * valid_B1).sum(), (weight_BT * valid_B1).sum(), {"character_accuracy": correct_BT.sum()})

    def evaluation_step(self, params: Any, batch: dict[str, Array]) -> dict[str, Array]:
        """Greedy readings of a batch."""
        return greedy_step(self.model, params, batch)

    def confidence(self, made: dict[str, np.ndarray], row: int) -> float:
        """How sure the reading in row ``row`` of what ``evaluation_step`` returned is."""
        return word_of(made, row, self.config.charset).confidence

    def validate(self, results: Iterable[tuple[Batch, dict[str, np.ndarray]]], labels: Source) -> Validation:
        """Word accuracies over the batches, and a sheet of readings. One that could not be decoded is wrong."""
        scores, pictures = Scores(), []
        samples: list[dict[str, Any]] = []
        for batch, out in results:
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
        metrics = scores.summary()
        return Validation(metrics, metrics["word_accuracy"], readings_sheet(pictures, samples), samples)

    def _picture(self, source: Source, index: int, turns: int) -> np.ndarray:
        """An image as it was read, in the size of the model's images; black where it cannot be decoded."""
        height, width = self.encoder.image_size
        try:
            return resize_image(turn_image(pixels_of(source[index]), turns), height, width, "bilinear")
        except (DataError, DecodeError):
            return np.zeros((height, width, 3), np.uint8)
