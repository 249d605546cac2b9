"""Runs, exported files and config files that an earlier version wrote are still read, and runs go on from them."""

import json
import shutil

import numpy as np
import PIL.Image
import pytest

from maerec_jax import ReadingConfig, Recognizer
from maerec_jax.config import config_from_flags, read_json
from tests.conftest import FIXTURES

EARLIER = FIXTURES / "earlier"
READINGS = json.loads((EARLIER / "readings.json").read_text())


@pytest.mark.parametrize("name", READINGS)
def test_weights_read_the_same_words(name):
    adapters = EARLIER / "adapters.safetensors" if name == "autoencoder" else None
    recognizer = Recognizer.load(EARLIER / name, ReadingConfig(beam=3), adapters=adapters)
    (word,) = recognizer.read([np.array(PIL.Image.open(EARLIER / "word.png"))])
    found = [(w.text, w.confidence) for w in (word, *word.alternatives)]
    assert [text for text, _ in found] == [text for text, _ in READINGS[name]]
    np.testing.assert_allclose([c for _, c in found], [c for _, c in READINGS[name]], rtol=1e-4)


def test_a_run_goes_on_to_the_losses_that_it_would_have_had(tmp_path):
    from maerec_jax.training.loop import train

    workdir = tmp_path / "run"
    shutil.copytree(EARLIER / "recogniser", workdir)
    config = read_json(workdir / "config.json")
    train(config.__class__(**{**vars(config), "workdir": str(workdir)}))

    def losses(file):
        lines = map(json.loads, file.read_text().splitlines())
        return {line["step"]: line["loss"] for line in lines if line["group"] == "train"}

    wanted, found = losses(EARLIER / "recogniser_unbroken.jsonl"), losses(workdir / "metrics.jsonl")
    assert sorted(found) == sorted(wanted) == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose([found[5], found[6]], [wanted[5], wanted[6]], rtol=1e-5)


@pytest.mark.parametrize("source", ["autoencoder", "cross_autoencoder", "autoencoder.safetensors", "recogniser"])
def test_new_runs_start_from_them(source, tmp_path):
    from maerec_jax.training.loop import train

    config = read_json(EARLIER / "recogniser" / "config.json")
    changes = {"workdir": str(tmp_path / "run"), "init_from": str(EARLIER / source), "steps": 1, "ema_decay": 0.0}
    assert np.isfinite(train(config.__class__(**{**vars(config), **changes}))["word_accuracy"])


def test_config_files_import_what_they_did(tmp_path):
    config = config_from_flags(str(EARLIER / "config_file.py"), ["--steps", "3"])
    assert config.steps == 3
    assert [source.kind for source in config.data.train] == ["annotations", "folder", "lmdb", "records", "rendered"]
