"""A recogniser as StableHLO programs with their weights in one file, to be read with by JAX alone.

The file is a zip archive. ``about.json`` holds ``reading_facts``; ``programs/32x128`` the program for images of that
height and width (there are several for a model with buckets), as ``jax.export`` writes it; and ``weights.npz`` the
weights, which are a program's first argument: a dict of arrays. They are no constants of the program, so that it is
compiled as fast as any, and that several programs share them. ``scripts/read_exported.py`` shows how it is read with.
"""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from data_pipelines.errors import UserError
from maerec_jax.config import TrainConfig
from maerec_jax.interop.reading_facts import reading_facts, shapes_of
from maerec_jax.models.int8 import quantize
from maerec_jax.models.interface import RecogniserConfig, normalize
from maerec_jax.weights.files import written_whole

PLATFORMS = ("cpu", "cuda", "tpu")
"""What the programs are lowered for."""


def write_stablehlo(
    path: Path, config: TrainConfig, params: Any, step: int, int8: bool = False, dtype: str = "float32"
) -> None:
    """Write a recogniser.

    A program takes the weights and images, uint8 RGB (B, H, W, 3) for any B from 1 on, and gives ``tokens`` int32 and
    ``probabilities`` float32, each (B, places), as in ``models.interface.Reading``. Of a model that keeps the aspect
    ratio it also takes how many columns of each image are picture, int32 (B). With ``int8`` the weights have 8
    bits (``models.int8``); ``dtype`` is that of the computation.
    """
    model, params = config.model.merged(params)
    assert isinstance(model, RecogniserConfig)
    if int8 and not model.has_int8:
        raise UserError(f"a model of kind {model.kind!r} has no 8-bit weights: leave out --int8")
    weights = flatten_dict(jax.device_get(quantize(params)) if int8 else params, sep="/")
    with written_whole(path) as fresh, zipfile.ZipFile(fresh, "w") as archive:
        facts = reading_facts(config, step, "int8" if int8 else "float32") | {"platforms": PLATFORMS, "dtype": dtype}
        archive.writestr("about.json", json.dumps(facts, indent=2))
        for height, width in shapes_of(config):
            program = reading_program(model, weights, (height, width), dtype)
            archive.writestr(f"programs/{height}x{width}", bytes(program.serialize()))
        packed = io.BytesIO()
        arrays: dict[str, Any] = {name: np.asarray(value) for name, value in weights.items()}
        np.savez(packed, **arrays)
        archive.writestr("weights.npz", packed.getbuffer())


def reading_program(
    model: RecogniserConfig, weights: dict[str, jax.Array], shape: tuple[int, int], dtype: str = "float32"
) -> jax.export.Exported:
    """Greedy reading of images of a shape, lowered for ``PLATFORMS``; see ``write_stablehlo``."""

    def read(weights: dict[str, jax.Array], image: jax.Array, *width: jax.Array) -> dict[str, jax.Array]:
        told = dict(zip(("width_B",), width, strict=False))
        reading = model.read(unflatten_dict(weights, sep="/"), normalize(image, model), jnp.dtype(dtype), **told)
        return {"tokens": reading.tokens_BT, "probabilities": reading.probability_BT}

    (batch,) = jax.export.symbolic_shape("batch")
    kinds = {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in weights.items()}
    inputs = [jax.ShapeDtypeStruct((batch, *shape, 3), jnp.uint8)]
    if model.keep_ratio is not None:
        inputs.append(jax.ShapeDtypeStruct((batch,), jnp.int32))
    return jax.export.export(jax.jit(read), platforms=PLATFORMS)(kinds, *inputs)
