"""Checkpoints and exported files as functions from images to tokens, to be compared and measured with each other."""

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Outputs = tuple[np.ndarray, np.ndarray]
Read = Callable[[np.ndarray], Outputs]
"""uint8 RGB images (B, H, W, 3) to tokens, int (B, T), and their probabilities, float32 (B, T)."""


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def open_reader(path: str) -> Read:
    """What reads with a file that ``maerec_jax.export`` wrote, or with a checkpoint as ``Recognizer`` does."""
    if path.endswith(".onnx"):
        return _onnx(path)
    return _stablehlo(path) if path.endswith(".stablehlo") else _checkpoint(path)


def _onnx(path: str) -> Read:
    import onnxruntime

    from data_pipelines.errors import UserError

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores()
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise UserError(f"{path}: onnxruntime cannot use it ({str(error).splitlines()[0]})") from error
    return lambda image_BHWC: tuple(session.run(["tokens", "probabilities"], {"image": image_BHWC}))


def _stablehlo(path: str) -> Read:
    import jax
    import jax.export

    with zipfile.ZipFile(path) as archive:
        weights = jax.device_put(dict(np.load(io.BytesIO(archive.read("weights.npz")))))
        programs = {
            tuple(shape): jax.jit(jax.export.deserialize(bytearray(archive.read("programs/{}x{}".format(*shape)))).call)
            for shape in json.loads(archive.read("about.json"))["image_sizes"]
        }

    def read(image_BHWC: np.ndarray) -> Outputs:
        made = jax.device_get(programs[image_BHWC.shape[1:3]](weights, image_BHWC))
        return made["tokens"], made["probabilities"]

    return read


def _checkpoint(path: str) -> Read:
    import jax

    from maerec_jax.distributed.host_memory import keep_freed_memory, run_steps_in_this_thread
    from maerec_jax.reading.reader import greedy_step
    from maerec_jax.weights.finding import load_recognizer

    run_steps_in_this_thread()
    if jax.default_backend() == "cpu":
        keep_freed_memory()
    config, params, _ = load_recognizer(path)
    return jax_reader(config.model, params, greedy_step)


def jax_reader(model: Any, params: Any, step: Callable[..., Any]) -> Read:
    """A compiled ``reading.greedy_step``."""
    import jax

    from maerec_jax.models.maerec import MAERec

    recogniser, params = MAERec(model), jax.device_put(params)
    run = jax.jit(lambda params, image: step(recogniser, params, {"image": image}))

    def read(image_BHWC: np.ndarray) -> Outputs:
        made = jax.device_get(run(params, image_BHWC))
        return made["tokens_BKT"][:, 0], made["probability_BKT"][:, 0]

    return read


def size_of(path: str) -> str:
    """How large a file is, in megabytes."""
    return f"{Path(path).stat().st_size / 1e6:.1f} MB"
