"""Recognisers that are kept: they read the same without their model, wherever the cache lies."""

import subprocess
import sys

import jax
import pytest
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from maerec_jax import ReadingConfig, Recognizer
from maerec_jax.reading.kept import folder_for
from maerec_jax.weights import finding
from maerec_jax.weights.finding import save_weights
from tests.training.conftest import random_params, recogniser_config, words


@pytest.fixture
def cache(tmp_path):
    """An empty cache."""
    before = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "cache"))
    yield tmp_path / "cache"
    jax.config.update("jax_compilation_cache_dir", before)
    reset_cache()


@pytest.fixture
def weights(tmp_path):
    config = recogniser_config("")
    save_weights(tmp_path / "small.safetensors", config, random_params(config.model), 7)
    return tmp_path / "small.safetensors"


def test_what_is_kept_reads_the_same_without_its_model(cache, weights, tmp_path, monkeypatch):
    source = words(3).open(None)
    pixels = [source[i].image for i in range(3)]
    read = Recognizer.load(weights).read(pixels[:2])

    moved = tmp_path / "moved"
    cache.rename(moved)
    jax.config.update("jax_compilation_cache_dir", str(moved))
    with monkeypatch.context() as patched:
        patched.setattr(finding, "load_recognizer", None)
        kept = Recognizer.load(weights)
        assert kept.read(pixels[:2]) == read
    assert kept.step == 7  # of the model, which is loaded now
    assert kept.read(pixels)[:2] == Recognizer.load(weights).read(pixels)[:2]

    for pattern in ("program-*", "weights"):
        for file in moved.glob(f"readers/*/{pattern}"):
            file.write_bytes(b"damaged")
        assert Recognizer.load(weights).read(pixels[:2]) == read


def test_what_reads_otherwise_lies_elsewhere(cache, weights, tmp_path):
    config = recogniser_config("")
    save_weights(tmp_path / "other.safetensors", config, random_params(config.model, 1), 7)
    folders = [folder_for(weights, ReadingConfig()), folder_for(weights, ReadingConfig(views=3))]
    folders.append(folder_for(tmp_path / "other.safetensors", ReadingConfig()))
    assert len(set(folders)) == 3
    assert None not in folders
    assert folder_for(weights, ReadingConfig(beam=2)) is None
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        assert folder_for(weights, ReadingConfig()) is None
    finally:
        jax.config.update("jax_enable_compilation_cache", True)


def test_help_imports_no_jax_and_reading_no_model():
    commands = "predict", "evaluate", "serve", "demo", "export", "import_pytorch", "compile_ahead", "train"
    code = f"""
import sys
import {", ".join(f"maerec_jax.{name}" for name in commands)}
assert "jax" not in sys.modules
import maerec_jax.reading.recognizer
assert not {{"flax", "pydantic", "orbax", "grain", "matplotlib", "scipy"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
