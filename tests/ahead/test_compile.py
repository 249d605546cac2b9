"""The command, and with libtpu one real compile for four chips."""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import pytest

from data_pipelines.errors import UserError
from maerec_jax.ahead import compilation
from maerec_jax.ahead.compilation import compile_step, largest_image
from maerec_jax.compile_ahead import main
from maerec_jax.config import DataConfig, TrainConfig
from maerec_jax.costs.chips import parse_topology
from maerec_jax.models.mae import MAEConfig
from maerec_jax.models.maerec import MAERecConfig
from maerec_jax.models.vit import ViTConfig
from tests.conftest import REPOSITORY

SMALL = Path(__file__).with_name("small_mae.py")


def test_what_is_missing_or_does_not_exist_is_told(capsys):
    for given, missing in ((["--topology", "v5e:2x2"], "--config"), (["--config", str(SMALL)], "--topology")):
        with pytest.raises(SystemExit, match="2"):
            main(given)
        assert missing in capsys.readouterr().err
    assert main(["--config", str(SMALL), "--topology", "v5e:3x3"]) == 1
    assert capsys.readouterr().err.startswith("error: v5e has no slices of shape 3x3")
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])


def test_without_the_compiler_it_says_what_to_install(capsys, monkeypatch):
    def missing(name):
        raise compilation.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(compilation.importlib.metadata, "version", missing)
    monkeypatch.setattr(compilation.os, "environ", dict(os.environ))
    assert main(["--config", str(SMALL), "--topology", "v5e:2x2"]) == 1
    assert "pip install -e '.[ahead]'" in capsys.readouterr().err


def test_of_buckets_the_one_with_the_most_patches_is_taken():
    encoder = ViTConfig.tiny(position_table="grid")
    config = TrainConfig(model=MAERecConfig.tiny(encoder=encoder))
    assert largest_image(config) == (32, 128)
    buckets = ((64, 64), (48, 96), (40, 112), (16, 256))  # 256, 288, 280 and 256 patches
    assert largest_image(replace(config, data=DataConfig(buckets=buckets))) == (48, 96)


@pytest.mark.parametrize("kind", ["mae", "maerec"])
def test_memory_of_the_state_and_batch_is_known_without_compiling(kind):
    """On one CPU, by sizes; what is divided on a mesh is tested with the sharding."""
    model = MAEConfig.tiny() if kind == "mae" else MAERecConfig.tiny()
    config = TrainConfig(model=model, batch_size=6, ema_decay=0.9)
    mesh = compilation.make_mesh(config.mesh, jax.devices()[:1])
    task = compilation.make_task(config)
    optimizer = compilation.make_optimizer(config.optimizer, lambda step: 0.1, 2, task.config.frozen)
    shapes = compilation.state_shapes(task, optimizer, config)
    lies = compilation.state_shardings(shapes, mesh, model.sharding)
    memory = compilation._arguments(shapes, lies, compilation._batch_shapes(config, (32, 128)))
    size = sum(x.size for x in jax.tree.leaves(shapes.params))
    assert memory.parameters == memory.average == 4 * size
    assert 0.8 * 8 * size < memory.optimizer < 8 * size + 100  # the position tables of a masked autoencoder are fixed
    labels = 0 if kind == "mae" else 6 * 12 * 4
    beside = 1 + 1 + 4  # bytes of valid, outcome and source
    assert memory.batch == 6 * (32 * 128 * 3 + beside) + labels
    assert memory.total == memory.parameters + memory.optimizer + memory.average + memory.batch


@pytest.mark.parametrize(
    ("error", "needed"),
    [
        ("INTERNAL: something else", None),
        ("RESOURCE_EXHAUSTED: no such message", None),
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (115.50G) "
            "exceeds available HBM (15.75G).",
            115.5 * 2**30 + 7,
        ),
        ("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 512.00M of 256.00M hbm.", 2**29),
    ],
)
def test_what_is_too_much_is_read_from_the_compilers_message(error, needed):
    assert compilation._needed(error, 7) == needed


needs_compiler = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="the TPU compiler, libtpu, is not installed: the extra ahead"
)


def compile_ahead(config, *flags):
    """Run the command in a process of its own."""
    command = [sys.executable, "-m", "maerec_jax.compile_ahead", "--config", str(config), "--topology", "v5e:2x2"]
    environment = os.environ | {"COLUMNS": "140"}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    done = subprocess.run(
        [*command, *flags], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


def assert_unchanged(saved, config):
    """A step's summary is the one beside its config.

    A change that is meant to change the step writes it anew: ``maerec compile-ahead --config tests/ahead/small_mae.py
    --topology v5e:2x2 --save tests/ahead/small_mae.json``, and so for the other. Reviewers see what it costs.
    """
    found, expected = (json.loads(file.read_text()) for file in (saved, config.with_suffix(".json")))
    assert found["collectives"] == expected["collectives"]
    # Another compiler finds a little more or less to fuse.
    near = 0.01 if found["versions"] == expected["versions"] else 0.05
    for name in ("flops", "bytes_accessed", "fusions"):
        assert found[name] == pytest.approx(expected[name], rel=near), name


@needs_compiler
def test_a_step_is_compiled_for_chips_that_are_not_there(tmp_path):
    """In a process of its own: what the compiler reads from the environment stays there."""
    flags = "--cache", str(tmp_path / "cache"), "--json", str(result := tmp_path / "result.json")
    saved = tmp_path / "saved.json"
    first = compile_ahead(SMALL, "--save", str(saved), *flags)
    assert "compiling for v5e:2x2, 8 images a chip" in first.stderr
    out = json.loads(result.read_text())
    assert out["fits"]
    # The gradients of all parameters but the position tables are summed over the four chips, in float32.
    trained = (out["memory_bytes"]["optimizer"] - 8) / 2
    reduced = [c for c in out["collectives"] if c["kind"] == "all-reduce" and c["dtype"] == "f32" and c["group"] == 4]
    assert sum(c["size"] for c in reduced) == pytest.approx(trained, rel=0.02)
    assert out["memory_bytes"]["temporaries"] > 0
    assert out["compiler"]["flops"] == pytest.approx(8 * sum(out["flops_per_image"].values()), rel=0.5)
    assert 0 < out["seconds"]["fastest"] < out["seconds"]["slowest"]
    second = compile_ahead(SMALL, *flags)
    assert "compiling" not in second.stderr
    assert second.stdout == first.stdout
    assert_unchanged(saved, SMALL)


@needs_compiler
def test_the_step_of_a_recogniser_is_what_it_was(tmp_path):
    compile_ahead(SMALL.with_name("small_maerec.py"), "--cache", "", "--save", str(tmp_path / "saved.json"))
    assert_unchanged(tmp_path / "saved.json", SMALL.with_name("small_maerec.py"))


@needs_compiler
def test_a_batch_that_the_chips_do_not_divide_is_told(monkeypatch):
    monkeypatch.setattr(compilation.os, "environ", os.environ)
    for name, value in compilation.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    config = TrainConfig(model=MAEConfig.tiny(), batch_size=6)
    with pytest.raises(UserError, match="batch_size 6 is not a multiple of 4 devices"):
        compile_step(config, parse_topology("v5e:2x2"))
