"""What a program that reads with an exported model needs to know beside it, as JSON can hold it."""

from dataclasses import asdict
from typing import Any

from data_pipelines.charset import UNKNOWN_TEXT
from maerec_jax.config import TrainConfig
from maerec_jax.models.interface import RecogniserConfig


def shapes_of(config: TrainConfig) -> tuple[tuple[int, int], ...]:
    """Heights and widths of the images that a model reads."""
    return config.data.buckets or (config.model.image_size,)


def reading_facts(config: TrainConfig, step: int, weights: str) -> dict[str, Any]:
    """Characters, special classes, and how images are prepared; ``weights`` is their dtype, "float32" or "int8"."""
    model = config.model
    assert isinstance(model, RecogniserConfig)
    charset = model.charset
    return {
        "characters": charset.characters,
        "start_end": charset.start_end,
        "padding": charset.padding,
        "unknown": charset.unknown,
        "unknown_text": UNKNOWN_TEXT,
        "max_length": model.max_length,
        "channels": "RGB",
        "image_sizes": [list(shape) for shape in shapes_of(config)],
        "interpolation": config.data.interpolation,
        "turn_vertical": config.data.turn_vertical,
        "keep_ratio": None if model.keep_ratio is None else asdict(model.keep_ratio),
        # These two are for information: the exported models take pixels from 0 to 255.
        "pixel_mean": list(model.pixel_mean),
        "pixel_std": list(model.pixel_std),
        "weights": weights,
        "step": step,
    }
