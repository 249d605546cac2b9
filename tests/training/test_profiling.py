"""Traces of steps: the program reads like the design, and the trace holds the steps that were asked for."""

import gzip
import json
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
from etils import epath

from data_pipelines import tracing
from data_pipelines.errors import UserError
from data_pipelines.images.augmentation import Augmentation
from maerec_jax.config import ProfileConfig
from maerec_jax.training.loop import train
from maerec_jax.training.optimizer import make_optimizer
from maerec_jax.training.profiling import Profile
from maerec_jax.training.run import make_task
from maerec_jax.training.step import StepSettings, make_train_step, state_shapes
from tests.training.conftest import autoencoder_config, cross_autoencoder_config, recogniser_config


@pytest.mark.parametrize("make_config", [autoencoder_config, cross_autoencoder_config, recogniser_config])
def test_the_operations_of_a_step_are_named_after_its_parts(make_config):
    config = make_config("", ema_decay=0.9)
    config = replace(config, data=replace(config.data, augmentation=Augmentation()))
    task = make_task(config)
    optimizer = make_optimizer(config.optimizer, lambda _: 1e-3, 1, task.config.frozen)
    batch = {"image": jax.ShapeDtypeStruct((4, 32, 128, 3), jnp.uint8), "valid": jax.ShapeDtypeStruct((4,), bool)}
    if make_config is recogniser_config:
        batch["tokens"] = jax.ShapeDtypeStruct((4, 9), jnp.int32)
    step = jax.jit(make_train_step(task, optimizer, StepSettings.of(config)))
    text = step.lower(state_shapes(task, optimizer, config), batch, jnp.int32(0)).as_text(debug_info=True)
    for scope in ("augmentation", "encoder", "patchify", "decoder", "loss", "optimizer", "average"):
        assert re.search(rf"[/(]{scope}\b", text), scope


@pytest.mark.parametrize(
    ("profile", "told"),
    [
        (ProfileConfig("8:13"), r"profile\.steps 8:13: the run has 12 steps"),
        (ProfileConfig("8:12", (0, 1)), r"profile\.processes 0, 1: the run has 1, counted from 0"),
    ],
)
def test_steps_and_processes_that_are_not_there_are_refused(tmp_path, profile, told):
    with pytest.raises(UserError, match=told):
        train(recogniser_config(tmp_path / "run", profile=profile))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("steps", ["8", "9:8", "0:3", "a:b"])
def test_what_is_no_span_of_steps_is_refused(steps):
    with pytest.raises(ValueError, match=r"profile\.steps must be FIRST:LAST"):
        ProfileConfig(steps)


def test_a_resumed_run_traces_the_steps_that_are_left(tmp_path):
    """And a run that ends among them keeps what it has traced."""
    told = []
    with Profile(ProfileConfig("3:9"), epath.Path(tmp_path), 4, told.append) as profile:
        for step in (5, 6):
            profile.begin(step)
            assert not profile.ends(step)
    assert [path.name for path in tmp_path.rglob("*.xplane.pb")] == ["process_0.xplane.pb"]
    assert told == [f"traced steps 5 to 9: {tmp_path}/tensorboard/plugins/profile/steps_5_to_9"]
    Profile(ProfileConfig("3:9"), epath.Path(tmp_path), 9, told.append)
    assert told[1:] == ["profile.steps 3:9 are done already: nothing is traced"]


def test_what_workers_write_down_is_in_the_trace_at_its_time(tmp_path, monkeypatch):
    """Here this process is one of them: what JAX saw in it lies within what it wrote."""
    monkeypatch.setattr(tracing, "_folder", tracing.events_folder())
    with Profile(ProfileConfig("1:1"), epath.Path(tmp_path), 0, print) as profile:
        profile.begin(1)
        with tracing.traced("decode"):
            pass
    (file,) = tmp_path.rglob("*.trace.json.gz")
    events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    seen, written = sorted((event for event in events if event.get("name") == "decode"), key=lambda event: event["pid"])
    assert written["ts"] <= seen["ts"] <= seen["ts"] + seen["dur"] <= written["ts"] + written["dur"]
    names = [event["args"]["name"] for event in events if event.get("pid") == written["pid"] and event["ph"] == "M"]
    assert names == ["data workers", "worker"]
