"""Encoders made for other images: their patches, position tables and pixel scales brought to ours.

What is changed are the patch projection and the position table; where nothing differs, both stay as they are, bit by
bit.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from maerec_jax.interop.pytorch_names import params_from_state_dict
from maerec_jax.models.mae import MAEConfig
from maerec_jax.models.vit import ViTConfig

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


def fit_encoder(params: Mapping[str, Any], source: ViTConfig, wanted: ViTConfig) -> tuple[dict[str, Any], list[str]]:
    """Bring an encoder's parameters from the images of one config to those of another of the same sizes.

    - Patches: the new projection of a patch is the old one of the patch resized to the old size (bilinear, smoothed
      where it shrinks). That is a linear map, and so a kernel of the new size.
    - Position table: resized by rows and columns (bicubic, smoothed where it shrinks); the class token keeps its row.
    - Pixels: mean and standard deviation become part of the projection. This changes nothing in what is computed.

    Returns:
      The parameters, and a line for each thing that was changed.
    """
    params, notes = dict(params), []
    kernel, bias = (np.asarray(params["patch_embed"][name]) for name in ("kernel", "bias"))
    if source.patch_size != wanted.patch_size:
        kernel = resize_projection(kernel, source.patch_size, wanted.patch_size)
        notes.append(
            f"patch projection: from {_by(source.patch_size)} to {_by(wanted.patch_size)} pixels; "
            "it projects each patch as if resized to the old size (bilinear)"
        )
    if (source.pixel_mean, source.pixel_std) != (wanted.pixel_mean, wanted.pixel_std):
        kernel, bias = rescale_pixels(kernel, bias, source, wanted)
        notes.append(
            f"patch projection: its pixels have mean {_numbers(wanted.pixel_mean)}, std {_numbers(wanted.pixel_std)}; "
            "this changes nothing in what is computed"
        )
    params["patch_embed"] = {"kernel": kernel, "bias": bias}
    if source.grid != wanted.grid:
        params["pos_embed"] = _resize_table(np.asarray(params["pos_embed"]), source.grid, wanted.grid)
        notes.append(f"position table: interpolated from {_by(source.grid)} to {_by(wanted.grid)} patches (bicubic)")
    return params, notes


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)


def _resizing(old: int, new: int) -> np.ndarray:
    """The matrix (old, new) that resizes ``new`` numbers in a line to ``old``; each row sums to 1."""
    return np.asarray(jax.image.resize(jnp.eye(new), (old, new), "linear"), np.float64)


def resize_projection(kernel: np.ndarray, size: tuple[int, int], new_size: tuple[int, int]) -> np.ndarray:
    """The projection of patches of another size, as ``fit_encoder`` says.

    Args:
      kernel: float32 (height * width * 3, dim), values of a patch in (row, column, channel) order.
      size: its patches' height and width.
      new_size: those wanted.

    Returns:
      float32 (new height * new width * 3, dim).
    """
    rows, columns = (_resizing(old, new) for old, new in zip(size, new_size, strict=True))
    patches = kernel.reshape(*size, 3, -1).astype(np.float64)
    made = np.einsum("ia,jb,ijcd->abcd", rows, columns, patches, optimize=True)
    return made.reshape(-1, kernel.shape[-1]).astype(np.float32)


def rescale_pixels(
    kernel: np.ndarray, bias: np.ndarray, source: ViTConfig, wanted: ViTConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias that make of pixels on the wanted scale what the old ones make of them on the source's."""
    (old_mean, old_std), (mean, std) = (
        (np.array(c.pixel_mean, np.float64), np.array(c.pixel_std, np.float64)) for c in (source, wanted)
    )
    patches = kernel.reshape(-1, 3, kernel.shape[-1]).astype(np.float64)  # (pixels, 3, dim)
    moved = bias + np.einsum("pcd,c->d", patches, (mean - old_mean) / old_std)
    scaled = patches * (std / old_std)[:, None]
    return scaled.reshape(kernel.shape).astype(np.float32), moved.astype(np.float32)


def _resize_table(table: np.ndarray, grid: tuple[int, int], new_grid: tuple[int, int]) -> np.ndarray:
    dim = table.shape[-1]
    patches = jax.image.resize(table[:, 1:].reshape(1, *grid, dim), (1, *new_grid, dim), "cubic")
    return np.concatenate([table[:, :1], np.asarray(patches).reshape(1, -1, dim)], axis=1)


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
