"""The recognisers that are measured: one that was trained, or one of random weights, which costs the same."""

from typing import Literal

import jax

from maerec_jax.config import TrainConfig
from maerec_jax.models.maerec import MAERecConfig
from maerec_jax.weights.finding import load_recognizer

Size = Literal["s", "b", "tiny"]


def recognizer(checkpoint: str, size: Size) -> tuple[TrainConfig, dict]:
    """The run and the parameters of a checkpoint, or else of a fresh model of a size."""
    if checkpoint:
        return load_recognizer(checkpoint)[:2]
    model = {"s": MAERecConfig.small, "b": MAERecConfig.base, "tiny": MAERecConfig.tiny}[size]()
    return TrainConfig(model=model), jax.device_get(jax.jit(model.init)(jax.random.key(0)))
