"""Reading word images from Python: ``Recognizer.load("runs/maerec_s").read(["word.jpg"])``."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import numpy as np

from data_pipelines.buckets import Shape, nearest_shape
from data_pipelines.decoding import DecodeError, decode_image
from data_pipelines.resizing import Interpolation, resize_image, turn_image
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
      shapes: image sizes to choose from by aspect ratio, instead of the model's one; as in training.
      turn: read images that are higher than wide also turned to the left and to the right, and take the reading with
        the highest confidence.
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
        shapes: tuple[Shape, ...] = (),
        turn: bool = False,
    ) -> None:
        self.config, self.batch_size, self.interpolation, self.turn = config, batch_size, interpolation, turn
        self.shapes = shapes or (config.encoder.image_size,)
        self._params = jax.device_put(params)
        model = MAERec(config, dtype)
        self._read = jax.jit(lambda params, image: greedy_read(model, params, normalize(image, config.encoder)))

    @classmethod
    def load(cls, path: str | Path, batch_size: int = 32, turn: bool | None = None) -> "Recognizer":
        """Load a fine-tuning workdir (its best checkpoint by validation, else its latest) or one of its checkpoints.

        Portrait images are turned if ``turn`` says so, by default if the model was trained so (``data.turn_vertical``).

        Raises:
          UserError: where there is none, or it is not a recogniser's.
        """
        from maerec_jax.training.loop import compute_dtype

        config, params, _ = load_params(path)
        if not isinstance(config.model, MAERecConfig):
            raise UserError(f"{path} holds a masked autoencoder, which cannot read: fine-tune it first (--init-from)")
        turn = config.data.turn_vertical if turn is None else turn
        dtype, data = compute_dtype(config.dtype), config.data
        return cls(config.model, params, data.interpolation, dtype, batch_size, data.buckets, turn)

    def read(self, images: Iterable[Image]) -> list[Word]:
        """Read images, each a path, the bytes of a file, or uint8 RGB pixels (height, width, 3).

        Raises:
          DecodeError: for an image that cannot be decoded; the message names its file.
          OSError: for a file that cannot be read.
        """
        if isinstance(images, str | Path | bytes):
            raise TypeError("read takes several images: put a single one into a list")
        return list(self.read_prepared(self.prepare(image) for image in images))

    def prepare(self, image: Image) -> list[np.ndarray]:
        """Load an image and resize it to a size of the model's, uint8 RGB.

        Where portrait images are turned, such an image comes upright, turned to the left and turned to the right.
        Raises as ``read`` does.
        """
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
        portrait = pixels.shape[0] > pixels.shape[1]
        ways = [turn_image(pixels, turns) for turns in ((0, 1, 3) if self.turn and portrait else (0,))]
        return [resize_image(way, *nearest_shape(way.shape[:2], self.shapes), self.interpolation) for way in ways]

    def read_prepared(self, images: Iterable[list[np.ndarray]]) -> Iterator[Word]:
        """Read what ``prepare`` returned, in order; a few batches are collected at a time."""
        images = iter(images)
        while chunk := list(islice(images, self.batch_size * len(self.shapes))):
            # Images of one size share a batch; (image, way) is where each comes from.
            groups: dict[Shape, list[tuple[int, int]]] = defaultdict(list)
            for number, ways in enumerate(chunk):
                for way, pixels in enumerate(ways):
                    groups[pixels.shape[:2]].append((number, way))
            words: dict[tuple[int, int], Word] = {}
            for places in groups.values():
                words |= zip(places, self._read_batches([chunk[number][way] for number, way in places]), strict=True)
            for number, ways in enumerate(chunk):
                yield max((words[number, way] for way in range(len(ways))), key=lambda word: word.confidence)

    def _read_batches(self, images: list[np.ndarray]) -> Iterator[Word]:
        """Read images of one size."""
        for start in range(0, len(images), self.batch_size):
            batch = np.stack(images[start : start + self.batch_size])
            padded = np.zeros((self.batch_size, *batch.shape[1:]), np.uint8)
            padded[: len(batch)] = batch
            reading = jax.device_get(self._read(self._params, padded))
            for tokens, probability in zip(reading.tokens_BT[: len(batch)], reading.probability_BT, strict=False):
                text, places = self.config.charset.decode(tokens)
                confidences = probability[places].astype(float)
                yield Word(text, float(confidences.mean()) if len(places) else 0.0, tuple(confidences.tolist()))
