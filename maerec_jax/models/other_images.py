"""Encoders made for other images: patches, position tables and pixel scales brought to those of another config."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.errors import UserError
from maerec_jax.models.position import resize_table
from maerec_jax.models.vit import ViTConfig


def fit_encoder(params: Mapping[str, Any], source: ViTConfig, wanted: ViTConfig) -> tuple[dict[str, Any], list[str]]:
    """Bring an encoder's parameters from the images of one config to those of another of the same sizes.

    - Patches: the new projection of a patch is the old one of the patch resized to the old size (bilinear, smoothed
      where it shrinks). That is a linear map, and so a kernel of the new size. Of a stem's map it is the same.
    - Position table: resized by rows and columns (bicubic, smoothed where it shrinks); the class token keeps its row.
    - Pixels: mean and standard deviation become part of the first layer. This changes nothing in what is computed. A
      stem's convolutions take no other mean: around images they see zeros, which are that mean.

    Returns the parameters, and a line for each thing that was changed. What does not differ stays as it is, bit by bit.
    Raises ``UserError`` for another mean of a stem.
    """
    params, notes = dict(params), []
    if source.patch_size != wanted.patch_size:
        kernel = np.asarray(params["patch_embed"]["kernel"])
        kernel = resize_projection(kernel, source.projected[:2], wanted.projected[:2])
        params["patch_embed"] = {**params["patch_embed"], "kernel": kernel}
        notes.append(
            f"patch projection: from {_by(source.patch_size)} to {_by(wanted.patch_size)} pixels; "
            "it projects each patch as if resized to the old size (bilinear)"
        )
    if (source.pixel_mean, source.pixel_std) != (wanted.pixel_mean, wanted.pixel_std):
        if source.stem == "patches":
            first, params["patch_embed"] = "patch projection", _rescaled(params["patch_embed"], source, wanted)
        elif source.pixel_mean == wanted.pixel_mean:
            stem, first = params["stem"], "first convolution"
            params["stem"] = {**stem, "conv1": _rescaled(stem["conv1"], source, wanted)}
        else:
            old, new = _numbers(source.pixel_mean), _numbers(wanted.pixel_mean)
            raise UserError(
                f"an encoder whose stem is convolutions keeps its pixel_mean, which is {old}, not {new}: "
                f"give --model.encoder.pixel-mean {old}"
            )
        notes.append(
            f"{first}: its pixels have mean {_numbers(wanted.pixel_mean)}, std {_numbers(wanted.pixel_std)}; "
            "this changes nothing in what is computed"
        )
    if source.grid != wanted.grid:
        table = resize_table(jnp.asarray(params["pos_embed"]), source.grid, wanted.grid, "cubic")
        params["pos_embed"] = np.asarray(table)
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

    From a float32 kernel (height * width * channels, dim), values of a patch in (row, column, channel) order, to one of
    (new height * new width * channels, dim).
    """
    rows, columns = (_resizing(old, new) for old, new in zip(size, new_size, strict=True))
    patches = kernel.reshape(*size, -1, kernel.shape[-1]).astype(np.float64)
    made = np.einsum("ia,jb,ijcd->abcd", rows, columns, patches, optimize=True)
    return made.reshape(-1, kernel.shape[-1]).astype(np.float32)


def _rescaled(layer: Mapping[str, Any], source: ViTConfig, wanted: ViTConfig) -> dict[str, np.ndarray]:
    kernel, bias = rescale_pixels(np.asarray(layer["kernel"]), np.asarray(layer["bias"]), source, wanted)
    return {"kernel": kernel, "bias": bias}


def rescale_pixels(
    kernel: np.ndarray, bias: np.ndarray, source: ViTConfig, wanted: ViTConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias that make of pixels on the wanted scale what the old ones make of them on the source's.

    Of a kernel (..., 3, outputs) for R, G and B, or with such axes joined: (pixels * 3, outputs).
    """
    (old_mean, old_std), (mean, std) = (
        (np.array(c.pixel_mean, np.float64), np.array(c.pixel_std, np.float64)) for c in (source, wanted)
    )
    patches = kernel.reshape(-1, 3, kernel.shape[-1]).astype(np.float64)  # (pixels, 3, dim)
    moved = bias + np.einsum("pcd,c->d", patches, (mean - old_mean) / old_std)
    scaled = patches * (std / old_std)[:, None]
    return scaled.reshape(kernel.shape).astype(np.float32), moved.astype(np.float32)
