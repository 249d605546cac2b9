"""Weights of DBNet++ by a formula: those that the reference numbers in tests/fixtures/dbnetpp were computed with."""

import json
import zlib

import numpy as np

from maerec_jax.models.names.table import COUNTS
from tests.conftest import FIXTURES


def reference():
    """The arrays that the original code computed, by name."""
    with np.load(FIXTURES / "dbnetpp" / "reference.npz") as file:
        return dict(file)


def formula_weights():
    """The state dict of the published detector, float32, with its int64 counters."""
    shapes = json.loads((FIXTURES / "dbnetpp" / "state_dict.json").read_text())
    return {key: _tensor(key, tuple(shape)) for key, shape in shapes.items()}


def _tensor(key, shape):
    if key.endswith(COUNTS):
        return np.array(7, np.int64)
    normal = np.random.Generator(np.random.PCG64(zlib.crc32(f"tiny/{key}".encode()))).standard_normal(shape)
    if key.endswith("running_var"):
        made = np.exp(0.3 * normal)
    elif len(shape) > 1:
        made = normal / np.sqrt(np.prod(shape[1:]))
    else:
        made = 1 + 0.2 * normal if key.endswith("weight") else 0.1 * normal
    return made.astype(np.float32)
