"""Models as PyTorch state dicts in files, with the reference's keys and shapes. This module needs PyTorch."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from maerec_jax.config import TrainConfig, UserError
from maerec_jax.interop.pytorch_names import state_dict_from_params
from maerec_jax.models.mae import MAEConfig
from maerec_jax.models.maerec import MAERecConfig
from maerec_jax.models.vit import ViTConfig

RELEASED_MEAN = (123.675, 116.28, 103.53)
RELEASED_STD = (58.395, 57.12, 57.375)
"""The constants of the released recognisers, for the B, G and R of a pixel in this order."""


def write_pytorch(path: Path, config: TrainConfig, params: Any, released: bool = False) -> None:
    """Write a masked autoencoder or a recogniser by ``torch.save``: a plain state dict.

    Args:
      path: the file.
      config: the run that the weights come from.
      params: its parameters.
      released: write what the reference's code takes as it is: a recogniser for BGR pixels and the constants of the
        released ones (``for_released_pixels``); an autoencoder inside of a dict, as its "model".

    Raises:
      UserError: where the reference has no such model, or the file cannot be written.
    """
    model = config.model
    if not isinstance(model, MAEConfig | MAERecConfig):
        raise UserError(f"a model of the kind {model.kind} cannot be exported: the reference has none")
    if released and isinstance(model, MAERecConfig):
        params = for_released_pixels(params, model.encoder)
    state: dict[str, Any] = tensors_of(params, model)
    if released and isinstance(model, MAEConfig):
        half = (127.5,) * 3
        if (model.encoder.pixel_mean, model.encoder.pixel_std) != (half, half):
            raise UserError("the reference's autoencoders see pixels from -1 to 1: this one has other constants")
        state = {"model": state}
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")  # beside it and renamed: no half of a file is left behind
    torch.save(state, fresh)
    fresh.replace(path)


def tensors_of(params: Any, config: MAEConfig | MAERecConfig) -> dict[str, torch.Tensor]:
    """``state_dict_from_params`` as tensors, each with its own memory."""
    return {key: torch.from_numpy(np.array(value)) for key, value in state_dict_from_params(params, config).items()}


def for_released_pixels(params: Any, encoder: ViTConfig) -> Any:
    """Parameters that make of BGR pixels with the released constants what ``params`` make of RGB pixels with theirs.

    Both scales are affine in each channel, and so is the patch embedding, through which every pixel goes: its kernel
    and bias take up the difference. Nothing else changes, and features agree but for rounding. Where the constants of
    the model are the released ones already, its numbers stay the same to the bit.
    """
    embed = params["encoder"]["patch_embed"]
    kernel = np.asarray(embed["kernel"], np.float64).reshape(-1, 3, encoder.dim)[:, ::-1]
    # z = (x - mean) / std is what the kernel was trained on, and z = y * scale + shift that of released pixels y.
    mean, std = (np.array(values, np.float64)[::-1] for values in (encoder.pixel_mean, encoder.pixel_std))
    scale = np.array(RELEASED_STD) / std
    shift = (np.array(RELEASED_MEAN) - mean) / std
    bias = embed["bias"] + (kernel * shift[:, None]).sum(axis=(0, 1))
    kernel = (kernel * scale[:, None]).reshape(-1, encoder.dim)
    changed = {"kernel": kernel.astype(np.float32), "bias": np.asarray(bias, np.float32)}
    return {**params, "encoder": {**params["encoder"], "patch_embed": changed}}
