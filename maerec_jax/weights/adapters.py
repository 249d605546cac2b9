"""What a fine-tuning with LoRA has learnt in a file of its own: for those who have the encoder that it started from.

The file holds the adapters and the text decoder, which is trained in full and which the adapters are worth nothing
without (docs/lora.md).
"""

import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict

from data_pipelines.errors import UserError
from maerec_jax.config import TrainConfig
from maerec_jax.models.interface import RecogniserConfig
from maerec_jax.models.lora import encoder_without_adapters
from maerec_jax.models.names.maerec import FROZEN_BY_LORA
from maerec_jax.weights.files import BASE, read_weights, write_weights
from maerec_jax.weights.state_dicts import name_table, params_from_state_dict, state_dict_from_params


def encoder_checksum(params: Mapping[str, Any]) -> str:
    """What tells a model's encoder from all others: the CRC-32 of its weights but for adapters, as 8 hex digits."""
    crc = 0
    for path, value in sorted(flatten_dict(encoder_without_adapters(params["encoder"]), sep="/").items()):
        array = np.ascontiguousarray(value, np.dtype("<f4"))
        crc = zlib.crc32(array.data, zlib.crc32(f"{path} {array.shape}".encode(), crc))
    return f"{crc:08x}"


def save_adapters(path: str | Path, config: TrainConfig, params: Mapping[str, Any], step: int) -> None:
    """Write adapters and text decoder of a run, as it was trained, to one file, ending in ``.safetensors``.

    Its tensors have the names and shapes of the reference's PyTorch state dicts, those of adapters once. The metadata
    tells the encoder that they belong to.

    Raises ``UserError`` for a model that has no adapters, for another ending, or where the file cannot be written.
    """
    model = config.model
    if model.encoder is None or not model.encoder.lora_rank:
        raise UserError(f"{path}: no adapters to write: the run has model.encoder.lora_rank 0")
    tensors = state_dict_from_params(params, model, aliases=False)
    left_out = (FROZEN_BY_LORA, *name_table(model).constants)
    tensors = {key: x for key, x in tensors.items() if not key.startswith(left_out)}
    base = {"encoder": encoder_checksum(params), "name": epath.Path(config.init_encoder_from or config.init_from).name}
    write_weights(Path(path), config, step, tensors, **{BASE: base})


def attach_adapters(base: tuple[TrainConfig, Any, int], path: str | Path) -> tuple[TrainConfig, Any, int]:
    """Put what ``save_adapters`` wrote beside the encoder that it belongs to, and merge it into that.

    Args:
      base: a run with that encoder, of any kind: its config, parameters and step.
      path: the file.

    Returns:
      The file's run, as far as reading needs it and with ``lora_rank`` 0; its parameters; and its step.

    Raises:
      UserError: where the file cannot be read or holds no adapters, or the encoder is another.
    """
    config, step, tensors, about = read_weights(Path(path))
    if not isinstance(about.get(BASE), dict) or not isinstance(config.model, RecogniserConfig):
        raise UserError(f"{path} holds a whole model, not adapters: give it as --checkpoint")
    if base[0].model.encoder is None:
        raise UserError(f"{path}: adapters belong to a Vision Transformer, and the checkpoint has none")
    found, wanted = encoder_checksum(base[1]), about[BASE].get("encoder")
    if found != wanted:
        name = f' of "{about[BASE]["name"]}"' if about[BASE].get("name") else ""
        raise UserError(
            f"{path}: its adapters belong to the encoder{name} with checksum {wanted}, and that of the checkpoint has "
            f"{found}: give the run, and the very step, that they were trained from"
        )
    try:
        encoder = {"encoder": encoder_without_adapters(base[1]["encoder"])}
        params = params_from_state_dict(state_dict_from_params(encoder, config.model) | tensors, config.model)
    except ValueError as error:
        raise UserError(f"{path}: its metadata and tensors do not fit: {error}") from error
    model, params = config.model.merged(params)
    return replace(config, model=model), params, step
