"""Runs small enough to be repeated: a recogniser and an autoencoder of a few thousand parameters on rendered words."""

import fcntl
import json
import os
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from data_pipelines.charset import Charset
from data_pipelines.rendering import RenderedWords
from maerec_jax.config import DataConfig, OptimizerConfig, TrainConfig
from maerec_jax.models.cross_mae import CrossMAEConfig
from maerec_jax.models.mae import MAEConfig
from maerec_jax.models.maerec import MAERecConfig
from maerec_jax.models.text_decoder import TextDecoderConfig
from maerec_jax.models.vit import ViTConfig
from maerec_jax.training.run_log import METRICS_FILE

CHARACTERS = "0123456789abcdefghijklmnopqrstuvwxyz"
# Of the number of steps such steps do not depend: whatever runs differ in, they are the same program. And the first
# changes no parameter, so that runs of one step show what they have started from.
OPTIMIZER = OptimizerConfig(schedule="constant", warmup_steps=1)
ENCODER = ViTConfig.tiny(dim=32, depth=1, patch_size=(16, 16), position_table="grid")


def words(size, split="train"):
    return RenderedWords(size=size, split=split, characters=CHARACTERS, min_length=2, max_length=6, difficulty=0.2)


def recogniser_config(workdir, **changes):
    decoder = TextDecoderConfig.tiny(dim=32, layers=1, inner_dim=64, max_length=8)
    model = MAERecConfig(encoder=ENCODER, decoder=decoder, charset=Charset(CHARACTERS))
    data = DataConfig(train=(words(160),), validation=(words(20, "validation"),))
    defaults = {"batch_size": 16, "steps": 12, "log_every": 1, "validate_every": 6, "checkpoint_every": 4}
    defaults["optimizer"] = OPTIMIZER
    return TrainConfig(**{"model": model, "data": data, **defaults, "workdir": str(workdir), **changes})


def adapted_config(workdir, **changes):
    """A recogniser with adapters, which has to start from another run."""
    model = recogniser_config("").model
    return recogniser_config(workdir, **{"model": replace(model, encoder=replace(ENCODER, lora_rank=3)), **changes})


def autoencoder_config(workdir, **changes):
    model = MAEConfig.tiny(encoder=ENCODER)
    data = DataConfig(train=(words(160),), validation=(words(20, "validation"),), interpolation="bicubic")
    defaults = {"batch_size": 16, "steps": 6, "log_every": 1, "optimizer": OPTIMIZER}
    return TrainConfig(**{"model": model, "data": data, **defaults, "workdir": str(workdir), **changes})


def cross_autoencoder_config(workdir, **changes):
    return autoencoder_config(workdir, **{"model": CrossMAEConfig.tiny(encoder=ENCODER), **changes})


def random_params(model, seed=0):
    """Random numbers in the shapes of a model's parameters: they come sooner than what a run begins with."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree.map(lambda x: 0.1 * rng.standard_normal(x.shape, np.float32), shapes)


def logged(workdir, name="loss", group="train"):
    """{step: value} of what a run logged, at the steps where it did."""
    lines = [json.loads(line) for line in (Path(workdir) / METRICS_FILE).read_text().splitlines()]
    return {line["step"]: line[name] for line in lines if line["group"] == group and name in line}


def interrupt_after(monkeypatch, n):
    """Let the next run read n batches only."""
    from maerec_jax.training import loop

    whole = loop.train_batches

    class Interrupted:
        def __init__(self, **settings):
            self.batches, self.left = whole(**settings), n

        def __enter__(self):
            self.batches.__enter__()
            return self

        def __exit__(self, *error):
            self.batches.__exit__(*error)

        def __next__(self):
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            return next(self.batches)

    monkeypatch.setattr(loop, "train_batches", lambda s, d, **settings: Interrupted(sources=s, decoder=d, **settings))


def train_once(factory, name, make_config):
    """The workdir of a run that is trained by the first who needs it, of all workers and modules of tests.

    Args:
      factory: pytest's ``tmp_path_factory``.
      name: of the run.
      make_config: makes its config from its workdir.
    """
    from maerec_jax.training.loop import train

    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "finished").exists():
            train(make_config(folder / "run"))
            (folder / "finished").touch()
    return folder / "run"


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory):
    """The workdir of a finished recogniser run that was never interrupted. Not to be changed."""
    return train_once(tmp_path_factory, "unbroken", recogniser_config)


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory):
    """The workdir of a finished pre-training run. Not to be changed."""
    return train_once(tmp_path_factory, "pretrained", autoencoder_config)
