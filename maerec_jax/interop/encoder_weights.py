"""Vision Transformers of others as our encoders: their tensors, their tables' rows, the order of their channels."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from maerec_jax.models.mae import MAEConfig
from maerec_jax.models.vit import ViTConfig
from maerec_jax.weights.state_dicts import params_from_state_dict

_HEADS = r"(head|head_dist|fc_norm|pre_logits)\..*|dist_token"
"""What other Vision Transformers have on top of the encoder, or beside its class token (DeiT's distillation token)."""


def is_dropped(name: str) -> bool:
    """Whether a tensor of a Vision Transformer has no place in an encoder, and is not needed there."""
    return re.fullmatch(_HEADS, name) is not None


def table_with_class_row(table: np.ndarray, distilled: bool, patches: int) -> tuple[np.ndarray, str]:
    """A position table with one row before those of the patches, and what was done to it ("" for nothing).

    Args:
      table: float32 (1, rows, dim).
      distilled: whether the model has a distillation token, whose row is the second.
      patches: how many patches the table is known to be for, or 0.
    """
    rows = table.shape[1]
    if distilled:
        return np.delete(table, 1, axis=1), "without the row of the distillation token"
    square = round(rows**0.5) ** 2 == rows
    if rows == patches or (not patches and square):  # no class token has a row of its own
        return np.concatenate([np.zeros_like(table[:, :1]), table], axis=1), "with a class token's row of zeros"
    return table, ""


def params_of_encoder(state: Mapping[str, np.ndarray], encoder: ViTConfig) -> dict[str, Any]:
    """The parameters of an encoder from the state dict of a Vision Transformer alone.

    Raises ``ValueError`` as ``params_from_state_dict`` does.
    """
    smallest = MAEConfig(encoder=encoder, decoder_dim=4, decoder_depth=0, decoder_heads=1)
    size = encoder.n_patches
    decoder = {"mask_token": (1, 1, 4), "decoder_pos_embed": (1, 1 + size, 4), "decoder_embed.weight": (4, encoder.dim)}
    decoder |= {"decoder_embed.bias": (4,), "decoder_norm.weight": (4,), "decoder_norm.bias": (4,)}
    decoder |= {"decoder_pred.weight": (encoder.patch_values, 4), "decoder_pred.bias": (encoder.patch_values,)}
    zeros = {name: np.zeros(shape, np.float32) for name, shape in decoder.items()}
    return params_from_state_dict({**state, **zeros}, smallest)["encoder"]


def flip_channels(params: Mapping[str, Any], encoder: ViTConfig) -> dict[str, Any]:
    """A model that reads BGR as one that reads RGB, or the reverse; an autoencoder's predicted pixels, too."""
    size = (*encoder.patch_size, 3)
    vit = dict(params["encoder"])
    kernel = vit["patch_embed"]["kernel"]
    flipped = np.ascontiguousarray(kernel.reshape(*size, -1)[:, :, ::-1].reshape(kernel.shape))
    vit["patch_embed"] = {**vit["patch_embed"], "kernel": flipped}
    made = {**params, "encoder": vit}
    if "decoder_pred" in params:
        made["decoder_pred"] = {
            name: np.ascontiguousarray(value.reshape(*value.shape[:-1], *size)[..., ::-1].reshape(value.shape))
            for name, value in params["decoder_pred"].items()
        }
    return made


def for_words(source: ViTConfig, image_size: tuple[int, int], patch_size: tuple[int, int]) -> ViTConfig:
    """The encoder of the same sizes for images as the training configs have them."""
    pixels = ViTConfig()
    return replace(
        source,
        image_size=image_size,
        patch_size=patch_size,
        pixel_mean=pixels.pixel_mean,
        pixel_std=pixels.pixel_std,
    )
