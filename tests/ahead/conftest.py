"""A step that was never compiled, for what is made of the numbers of one."""

from dataclasses import replace

import pytest

from maerec_jax.ahead.collectives import Collective
from maerec_jax.ahead.compilation import Compiled, Memory
from maerec_jax.ahead.report import Report
from maerec_jax.config import TrainConfig
from maerec_jax.costs.chips import parse_topology
from maerec_jax.models.mae import MAEConfig

MIB = 2.0**20
VERSIONS = {"jax": "0.10.2", "jaxlib": "0.10.2", "libtpu": "0.0.42"}


def make_compiled(images=64, megabytes_an_image=100.0, hbm=2.0**34, **changes):
    """A step of that many images on a device, which needs 500 MiB and as much as told for each image."""
    temporaries = images * megabytes_an_image * MIB
    total = 500 * MIB + temporaries
    fits = total < hbm
    memory = Memory(150 * MIB, 300 * MIB, 0.0, 1 * MIB, 9 * MIB, temporaries, 0.0, 40 * MIB, total)
    if not fits:
        memory = replace(memory, padding=None, temporaries=None, outputs=None, program=None)
    values = {
        "fits": fits,
        "memory": memory,
        "flops": 5e10 * images if fits else None,
        "traffic": 1.2e9 * images if fits else None,
        "fusions": 100 if fits else 0,
        "cycles": 2_000_000 * images if fits else 0,
        "collectives": (Collective("all-reduce", "f32", 8, 2, 180e6),) if fits else (),
        "image_size": (32, 128),
        "seconds": 100.0,
        "versions": VERSIONS,
    }
    return Compiled(**{**values, **changes})


@pytest.fixture
def report():
    topology = parse_topology("v5e:2x4")
    return Report("configs/x.py", TrainConfig(model=MAEConfig.small(), batch_size=512), topology, make_compiled())
