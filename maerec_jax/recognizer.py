"""Reading word images from Python: ``Recognizer.load("runs/maerec_s").read(["word.jpg"])``."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import numpy as np

from data_pipelines.decoding import DecodeError, Interpolation, decode_image, resize_image
from maerec_jax.config import UserError
from maerec_jax.models.maerec import MAERec, MAERecConfig, greedy_read
from maerec_jax.models.vit import normalize
from maerec_jax.training.checkpoint import load_params

Image = str | Path | bytes | np.ndarray


@dataclass(frozen=True)
class Word:
    """What was read in an image."""

    text: str
    """The text."""
    confidence: float
    """Mean of the character confidences, 0 to 1; 0 where nothing was read."""
    character_confidences: tuple[float, ...]
    """The model's probability of each character, given those before it; "<UKN>" counts as one character."""


class Recognizer:
    """A recogniser with its weights, ready to read.

    Args:
      config: the model's sizes and charset.
      params: its parameters.
      interpolation: how images are resized; as in training.
      dtype: dtype of the computation.
      batch_size: images are read in batches of this size, the last one filled up, so that one shape is compiled.
    """

    def __init__(
        self,
        config: MAERecConfig,
        params: Any,
        interpolation: Interpolation = "bilinear",
        dtype: Any = np.float32,
        batch_size: int = 32,
    ) -> None:
        self.config, self.batch_size, self.interpolation = config, batch_size, interpolation
        self._params = jax.device_put(params)
        model = MAERec(config, dtype)
        self._read = jax.jit(lambda params, image: greedy_read(model, params, normalize(image, config.encoder)))

    @classmethod
    def load(cls, path: str | Path, batch_size: int = 32) -> "Recognizer":
        """Load a fine-tuning workdir (its best checkpoint by validation, else its latest) or one of its checkpoints.

        Raises:
          UserError: where there is none, or it is not a recogniser's.
        """
        from maerec_jax.training.loop import compute_dtype

        config, params, _ = load_params(path)
        if not isinstance(config.model, MAERecConfig):
            raise UserError(f"{path} holds a masked autoencoder, which cannot read: fine-tune it first (--init-from)")
        return cls(config.model, params, config.data.interpolation, compute_dtype(config.dtype), batch_size)

    def read(self, images: Iterable[Image]) -> list[Word]:
        """Read images, each a path, the bytes of a file, or uint8 RGB pixels (height, width, 3).

        Raises:
          DecodeError: for an image that cannot be decoded; the message names its file.
          OSError: for a file that cannot be read.
        """
        if isinstance(images, str | Path | bytes):
            raise TypeError("read takes several images: put a single one into a list")
        return list(self.read_resized(self.prepare(image) for image in images))

    def prepare(self, image: Image) -> np.ndarray:
        """Load and resize an image to the model's size, uint8 RGB. Raises as ``read`` does."""
        if isinstance(image, str | Path):
            path = Path(image)
            try:
                pixels = decode_image(path.read_bytes())
            except DecodeError as error:
                raise DecodeError(f"{path}: {error}") from error
        else:
            pixels = decode_image(image) if isinstance(image, bytes) else np.asarray(image)
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
            raise DecodeError(f"an image array must be uint8 RGB (height, width, 3), not {pixels.dtype} {pixels.shape}")
        return resize_image(pixels, *self.config.encoder.image_size, self.interpolation)

    def read_resized(self, images: Iterable[np.ndarray]) -> Iterator[Word]:
        """Read what ``prepare`` returned, batch after batch."""
        images = iter(images)
        while batch := list(islice(images, self.batch_size)):
            padded = np.zeros((self.batch_size, *batch[0].shape), np.uint8)
            padded[: len(batch)] = batch
            reading = jax.device_get(self._read(self._params, padded))
            for tokens, probability in zip(reading.tokens_BT[: len(batch)], reading.probability_BT, strict=False):
                text, places = self.config.charset.decode(tokens)
                confidences = probability[places].astype(float)
                yield Word(text, float(confidences.mean()) if len(places) else 0.0, tuple(confidences.tolist()))
