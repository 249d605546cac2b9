"""Data that changes under a run, and runs that become longer: noticed, told, and gone on with where that is wanted."""

import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest

from data_pipelines.errors import UserError
from data_pipelines.sources.files import Annotations
from maerec_jax.config import OptimizerConfig, read_json
from maerec_jax.training.changed_data import DATA_FILE
from maerec_jax.training.loop import train
from maerec_jax.weights.checkpoint import CONFIG_FILE, saved_steps
from tests.training.conftest import logged, recogniser_config

WORDS = [(f"{number}.png", f"word{number}") for number in range(12)]


@pytest.fixture
def write(tmp_path):
    """Writes a list of (name, text) as the training data."""
    for name, _ in WORDS:
        cv2.imwrite(str(tmp_path / name), np.random.default_rng(0).integers(0, 256, (20, 60, 3), np.uint8))

    def write(words):
        (tmp_path / "words.tsv").write_text("".join(f"{name}\t{text}\n" for name, text in words))

    write(WORDS[:8])
    return write


def config_for(tmp_path, **changes):
    config = recogniser_config(tmp_path / "run", **{"batch_size": 4, "steps": 0, "epochs": 1.0, **changes})
    data = replace(config.data, root=str(tmp_path), train=(Annotations("words.tsv"),), validation=())
    return replace(config, data=data)


def test_a_run_goes_on_with_other_data_only_if_it_is_told_to(tmp_path, write, capsys):
    train(config_for(tmp_path))
    assert saved_steps(tmp_path / "run") == [2]
    write(WORDS)
    other = r"run holds a run on other data \(data\.train\.0 \(words\.tsv\): {}\): .* --resume-changed-data"
    with pytest.raises(UserError, match=other.format("8 -> 12 images")):
        train(config_for(tmp_path))
    capsys.readouterr()
    train(config_for(tmp_path), changed_data=True)
    assert "the data has changed: data.train.0 (words.tsv): 8 -> 12 images" in capsys.readouterr().err
    assert sorted(logged(tmp_path / "run")) == [1, 2, 3]
    for changed, told in (
        ([(name, "other") for name, _ in WORDS], "other labels"),
        (WORDS[::-1], "other images"),
        (WORDS[:2], "12 -> 2 images"),
    ):
        write(changed)
        with pytest.raises(UserError, match=other.format(told)):
            train(config_for(tmp_path))
    capsys.readouterr()
    train(config_for(tmp_path), changed_data=True)
    assert "nothing left to do: step 3 is saved, and the run has 1 steps" in capsys.readouterr().err
    train(config_for(tmp_path))
    assert "has changed" not in capsys.readouterr().err


def test_changed_validation_data_is_noticed_and_runs_of_earlier_versions_go_on(tmp_path, write):
    config = config_for(tmp_path)
    config = replace(config, data=replace(config.data, validation=(Annotations("words.tsv"),)))
    train(config)
    write(WORDS)
    with pytest.raises(UserError, match=r"data\.train\.0 .*; data\.validation\.0 \(words\.tsv\): 8 -> 12 images\)"):
        train(config)
    (tmp_path / "run" / DATA_FILE).write_text("{")
    with pytest.raises(UserError, match=r"data\.json: is damaged"):
        train(config)
    (tmp_path / "run" / DATA_FILE).unlink()
    train(config)
    train(config)


def test_a_run_becomes_longer_where_its_learning_rate_does_not_follow_its_length(unbroken, tmp_path, capsys):
    shutil.copytree(unbroken, tmp_path / "run")
    longer = recogniser_config(tmp_path / "run", steps=14)
    assert longer.optimizer.schedule == "constant"
    train(longer)
    assert "another length: steps 12 -> 14" in capsys.readouterr().err
    assert sorted(logged(tmp_path / "run")) == list(range(1, 15))
    assert read_json(tmp_path / "run" / CONFIG_FILE) == replace(recogniser_config(unbroken), steps=14)
    train(longer)
    told = capsys.readouterr().err
    assert "another length" not in told
    assert "nothing left to do: step 14 is saved, and the run has 14 steps" in told
    with pytest.raises(UserError, match=r"another config .*steps 14 -> 16; label_smoothing"):
        train(replace(longer, steps=16, label_smoothing=0.1), extend=True)


def test_a_run_whose_learning_rate_follows_its_length_becomes_longer_only_if_it_is_told_to(tmp_path, write, capsys):
    cosine = OptimizerConfig(warmup_steps=1)
    train(config_for(tmp_path, optimizer=cosine))
    longer = config_for(tmp_path, optimizer=cosine, epochs=2.0)
    with pytest.raises(
        UserError, match=r"another length \(epochs 1\.0 -> 2\.0\).* \(optimizer\.schedule cosine\).*--extend"
    ):
        train(longer)
    train(longer, extend=True)
    assert "which the learning rate follows from here on" in capsys.readouterr().err
    rates = logged(tmp_path / "run", "learning_rate")
    assert list(rates) == [1, 2, 3, 4]
    assert rates[3] == pytest.approx(0.75 * cosine.learning_rate)
