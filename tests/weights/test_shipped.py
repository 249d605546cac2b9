"""The weights in the package: they read, they are whole, and runs start from them."""

import hashlib
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest

from data_pipelines.errors import UserError
from data_pipelines.rendering import RenderedWords
from maerec_jax import Recognizer
from maerec_jax.export import ExportArguments, export
from maerec_jax.training.starting import load_start, loaded_params
from maerec_jax.weights import shipped_files
from maerec_jax.weights.finding import load_recognizer, load_weights, save_weights
from maerec_jax.weights.shipped_files import SHIPPED, shipped_file
from tests.conftest import REPOSITORY
from tests.training.conftest import recogniser_config

FOLDER = REPOSITORY / "maerec_jax" / "weights" / "shipped"
CHARACTERS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


@pytest.mark.parametrize("name", SHIPPED)
def test_they_read_words_that_training_never_showed(name):
    source = RenderedWords(size=100, split="validation", characters=CHARACTERS, difficulty=0.1).open(None)
    records = [source[i] for i in range(100)]
    read = Recognizer.load(name).read([record.image for record in records])
    right = sum(word.text.casefold() == record.text.casefold() for word, record in zip(read, records, strict=True))
    assert right > 85


def test_the_first_are_the_default():
    default, named, other = load_recognizer(), load_weights(SHIPPED[0]), load_weights(SHIPPED[1])
    assert default[0] == named[0]
    biases = [params["decoder"]["classifier"]["bias"] for _, params, _ in (default, named, other)]
    assert (biases[0] == biases[1]).all()
    assert (biases[0] != biases[2]).any()
    assert len(default[0].model.charset.characters) == 95
    assert " " in default[0].model.charset.characters


def test_there_is_nothing_else_and_it_is_small():
    files = {file.name for file in FOLDER.iterdir()}
    assert files == {"LICENSE.md", "SHA256SUMS", *(f"{name}.safetensors" for name in SHIPPED)}
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 20e6
    for line in (FOLDER / "SHA256SUMS").read_text().splitlines():
        checksum, name = line.split()
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == checksum


def test_damage_is_told(tmp_path, monkeypatch):
    shutil.copytree(FOLDER, tmp_path / "shipped")
    monkeypatch.setattr(shipped_files.resources, "files", lambda package: tmp_path)
    file = shipped_file(SHIPPED[0])
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"maerec_tiny\.safetensors is damaged.* install maerec-jax again"):
        load_recognizer()
    file.unlink()
    with pytest.raises(UserError, match=r"the built-in weights maerec_tiny cannot be read .* install maerec-jax again"):
        load_recognizer()
    load_recognizer(SHIPPED[1])


def test_a_folder_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / SHIPPED[0]).mkdir()
    with pytest.raises(UserError, match=rf"{SHIPPED[0]} is not the workdir"):
        load_weights(SHIPPED[0])
    load_recognizer()  # which is told to take no weights of that name, but those of the package


def test_a_name_that_there_is_not_is_told_those_that_there_are():
    with pytest.raises(UserError, match=r"no such checkpoint: maerec_tinny; .* are maerec_tiny and maerec_tiny_rend"):
        load_recognizer("maerec_tinny")


def test_a_run_starts_from_them():
    loaded = load_recognizer()
    model, told = loaded[0].model, []
    config = replace(recogniser_config(""), model=model, init_from=SHIPPED[0])
    fresh = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(model.init, jax.random.key(0)))
    started = loaded_params(config, load_start(config), fresh, told.append)
    assert "from maerec_tiny (maerec, step" in told[0]
    assert " 0 newly initialised" in told[0]
    jax.tree.map(np.testing.assert_array_equal, started, loaded[1])


def test_half_precision_halves_a_file(tmp_path):
    sizes = {}
    for dtype in ("float32", "float16"):
        file = tmp_path / f"{dtype}.safetensors"
        assert export(ExportArguments("safetensors", str(file), dtype=dtype)) == 0
        sizes[dtype] = file.stat().st_size
    assert sizes["float16"] < 0.52 * sizes["float32"]
    config, params, step = load_recognizer(tmp_path / "float16.safetensors")
    jax.tree.map(np.testing.assert_array_equal, params, load_recognizer()[1])  # which were of half precision before
    params["decoder"]["classifier"]["bias"][0] = 1e5
    with pytest.raises(UserError, match=r"classifier.* float16 cannot hold"):
        save_weights(tmp_path / "large.safetensors", config, params, step, "float16")
    params["decoder"]["classifier"]["bias"][0] = np.nan
    with pytest.raises(UserError, match="float16 cannot hold"):
        save_weights(tmp_path / "large.safetensors", config, params, step, "float16")
