"""Models as PyTorch state dicts in files, with the reference's keys and shapes. This module needs PyTorch."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_pipelines.errors import UserError
from maerec_jax.config import TrainConfig
from maerec_jax.interop.encoder_weights import flip_channels
from maerec_jax.interop.model_of_shapes import HALF, IMAGENET
from maerec_jax.interop.reading_facts import reading_facts
from maerec_jax.models.interface import ModelConfig, RecogniserConfig
from maerec_jax.models.other_images import rescale_pixels
from maerec_jax.models.vit import ViTConfig
from maerec_jax.weights.files import ABOUT, about_weights, written_whole
from maerec_jax.weights.state_dicts import state_dict_from_params


def write_pytorch(path: Path, config: TrainConfig, params: Any, step: int, released: bool = False) -> None:
    """Write a masked autoencoder or a recogniser by ``torch.save``: its "state_dict", and what it is in "meta".

    With ``released`` it is what the reference's code takes as it is: a recogniser for BGR pixels and the constants of
    the released ones (``for_released_pixels``); an autoencoder as the "model", where its fine-tuning looks for it.

    Raises ``UserError`` where PyTorch has no such model, no such stem, or other constants for it, or the file cannot be
    written.
    """
    model: Any = config.model
    name, color = "state_dict", "rgb"
    if released and model.encoder is not None and model.encoder.stem != "patches":
        raise UserError(f"the original code has no stem of {model.encoder.stem}: leave out --released")
    if released and model.encoder is None:
        if not model.pixel_axes:
            raise UserError(f"a model of kind {model.kind!r} has no released form: leave out --released")
        params, color = flip_channels(params, model), "bgr"
    elif released and isinstance(config.model, RecogniserConfig):
        encoder, color = replace(model.encoder, pixel_mean=IMAGENET[0][::-1], pixel_std=IMAGENET[1][::-1]), "bgr"
        params = for_released_pixels(params, model, encoder)
        config = replace(config, model=replace(model, encoder=encoder))
    elif released:
        name = "model"
        if (model.pixel_mean, model.pixel_std) != HALF:
            raise UserError("the reference's autoencoders see pixels from -1 to 1: this one has other constants")
    more: dict[str, Any] = {"color": color}
    if isinstance(model, RecogniserConfig):  # which PyTorch has for one size alone
        more["reading"] = reading_facts(config, step, "float32") | {"image_sizes": [model.image_size]}
    saved = {name: tensors_of(params, config.model), "meta": {ABOUT: about_weights(config, step, **more)}}
    with written_whole(path) as fresh, fresh.open("wb") as file:  # what fails in a file of Python's is an OSError
        torch.save(saved, file)


def write_pytorch_detector(path: Path, state: Mapping[str, np.ndarray]) -> None:
    """Write the state dict of a detector as it was published, by ``torch.save``.

    Raises ``UserError`` where the file cannot be written.
    """
    tensors = {key: torch.from_numpy(np.array(value)) for key, value in state.items()}
    with written_whole(path) as fresh, fresh.open("wb") as file:
        torch.save({"state_dict": tensors}, file)


def tensors_of(params: Any, model: ModelConfig) -> dict[str, torch.Tensor]:
    """``state_dict_from_params`` as tensors, each with its own memory."""
    return {key: torch.from_numpy(np.array(value)) for key, value in state_dict_from_params(params, model).items()}


def for_released_pixels(params: Any, model: RecogniserConfig, released: ViTConfig) -> Any:
    """Parameters that make of BGR pixels with the released constants what ``params`` make of RGB pixels with theirs.

    Both scales are affine in each channel, and so is the patch embedding, through which every pixel goes: its kernel
    and bias take up the difference. Nothing else changes, and features agree but for rounding. Where the constants of
    the model are the released ones already, its numbers stay the same to the bit.
    """
    vit = params["encoder"]
    kernel, bias = (np.asarray(vit["patch_embed"][name], np.float32) for name in ("kernel", "bias"))
    kernel, bias = rescale_pixels(kernel, bias, model.encoder, released)
    return flip_channels({**params, "encoder": {**vit, "patch_embed": {"kernel": kernel, "bias": bias}}}, model)
