"""Vision Transformers of others as our encoders: their tensors, their tables' rows, the order of their channels."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from maerec_jax.models.interface import ModelConfig

DROPPED = r"(head|head_dist|fc_norm|pre_logits)\..*|dist_token"
"""What other Vision Transformers have on top of the encoder, or beside its class token (DeiT's distillation token)."""


def table_with_class_row(table: np.ndarray, distilled: bool, patches: int) -> tuple[np.ndarray, str]:
    """A position table with one row before those of the patches, and what was done to it ("" for nothing).

    It is float32 (1, rows, dim). The second row of ``distilled`` models is that of another token. ``patches`` is how
    many it is known to be for, or 0.
    """
    rows = table.shape[1]
    if distilled:
        return np.delete(table, 1, axis=1), "without the row of the distillation token"
    square = round(rows**0.5) ** 2 == rows
    if rows == patches or (not patches and square):  # no class token has a row of its own
        return np.concatenate([np.zeros_like(table[:, :1]), table], axis=1), "with a class token's row of zeros"
    return table, ""


def flip_channels(params: Mapping[str, Any], model: ModelConfig) -> dict[str, Any]:
    """A model that reads BGR as one that reads RGB, or the reverse; an autoencoder's predicted pixels, too."""
    flat = flatten_dict(params, sep="/")
    flipped = {path: _flipped(flat[path], axis) for path, axis in model.pixel_axes.items()}
    return unflatten_dict(flat | flipped, sep="/")


def _flipped(values: np.ndarray, axis: int) -> np.ndarray:
    """Values of which an axis holds pixels, R, G and B or B, G and R of each, with the other order."""
    order = np.arange(values.shape[axis]).reshape(-1, 3)[:, ::-1].ravel()
    return np.take(values, order, axis)
