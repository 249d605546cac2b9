"""What tests of importing share."""

from pathlib import Path

import numpy as np
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

from data_pipelines.command import run_command
from maerec_jax import import_pytorch
from maerec_jax.interop.import_options import ImportOptions
from maerec_jax.interop.importing import import_weights

FIXTURES = Path(__file__).parents[1] / "fixtures"
FULL_SIZE = Path(__file__).parents[3] / "shared" / "fixtures" / "state_dicts.json"
PATCHES = "patch_embed.proj.weight"
SIZES = {"encoder_heads": 2, "decoder_heads": 4, "max_length": 12}
TINY = [f"--{name.replace('_', '-')}={value}" for name, value in SIZES.items()]


def state_of(name):
    with np.load(FIXTURES / name / "weights.npz") as npz:
        return {key.removeprefix("sd/"): np.ascontiguousarray(value) for key, value in npz.items()}


def run(*arguments):
    return run_command(
        import_pytorch.ImportArguments, import_pytorch.import_pytorch, "import", list(map(str, arguments))
    )


def imported(state, tmp_path, **options):
    save_file(state, tmp_path / "file.safetensors")
    return import_weights(tmp_path / "file.safetensors", ImportOptions(**options))


def assert_same(found, expected):
    found, expected = flatten_dict(found, sep="/"), flatten_dict(expected, sep="/")
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_array_equal(found[path], value, path)
