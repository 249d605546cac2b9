"""Runs that are killed at any moment, go on elsewhere, and end as if nothing had happened; checkpoints that are cut."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import jax
import numpy as np
import pytest

from data_pipelines.errors import UserError
from maerec_jax import train as train_command
from maerec_jax.config import MeshConfig
from maerec_jax.distributed.sharding import laid_out
from maerec_jax.models.sar import SARConfig
from maerec_jax.training.loop import train
from maerec_jax.weights.checkpoint import Checkpoints, load_params, saved_steps
from tests.conftest import REPOSITORY
from tests.training.conftest import logged, recogniser_config, train_once
from tests.training.on_eight_devices import Run
from tests.training.processes import PATIENCE, Processes, has_logged, write_config
from tests.training.test_train import assert_same_run

STEPS = 32
KILLS = 9
LAYOUTS = [  # processes, devices of each, flags
    (1, 1, ()),
    (2, 2, ("--mesh.fsdp", "2", "--mesh.tensor", "2")),
    (1, 4, ("--mesh.fsdp", "2")),
    (2, 1, ()),
]


def long_config(workdir, **changes):
    return recogniser_config(workdir, steps=STEPS, validate_every=8, checkpoint_every=2, keep_last=2, **changes)


@pytest.fixture(scope="module")
def long_run(tmp_path_factory):
    """The workdir of a longer run that was never interrupted. Not to be changed."""
    return train_once(tmp_path_factory, "long", long_config)


def test_kills_on_changing_machines(long_run, tmp_path):
    """kill -9 during steps, saves and validations, each time on another mesh or number of processes.

    The log tells where all of the time has gone.
    """
    workdir, begun = tmp_path / "run", time.time()
    file = write_config(tmp_path, long_config(workdir))
    rng = random.Random(0)
    killed = dict.fromkeys(("step", "save", "validation"), 0)
    attempt = 0
    while sum(killed.values()) < KILLS:
        count, devices, flags = LAYOUTS[attempt % len(LAYOUTS)]
        attempt += 1
        assert attempt < 2 * KILLS
        with Processes(file, count, devices, flags) as run:
            if killed_at(run, workdir, kind := min(killed, key=killed.get), rng):
                killed[kind] += 1
                run.kill()
            else:  # it came to its end before
                assert run.wait() == [0] * count, run.told()
                # Some of what it did has to be done again.
                for step in saved_steps(workdir)[1:] or saved_steps(workdir):
                    shutil.rmtree(workdir / "checkpoints" / str(step))
    train(long_config(workdir))
    passed = time.time() - begun
    spent = logged(workdir, "workdir", "time")[STEPS]
    assert sum(spent.values()) == pytest.approx(passed, rel=0.02)
    assert min(spent[part] for part in ("compiling", "stepping", "validating", "saving", "lost", "stopped")) > 0
    assert logged(workdir, "lost_steps", "time")[STEPS] >= killed["step"]
    expected = logged(long_run)
    assert logged(workdir).keys() == expected.keys()
    assert list(logged(workdir).values()) == pytest.approx(list(expected.values()), rel=1e-4)
    for name in ("word_accuracy", "edit_similarity"):
        found, wanted = (logged(w, name, "validation") for w in (workdir, long_run))
        assert found.keys() == wanted.keys()
    assert not list((workdir / "checkpoints").glob("*tmp*"))
    assert not (workdir / "damaged").exists()
    assert min(killed.values()) >= KILLS // 3
    ours, theirs = (load_params(f"{w}/checkpoints/{STEPS}")[1] for w in (workdir, long_run))
    np.testing.assert_allclose(ours["decoder"]["embedding"], theirs["decoder"]["embedding"], atol=2e-5)


def killed_at(run, workdir, kind, rng) -> bool:
    """Wait for a moment to kill a run at; false where it ends before."""
    done = max(saved_steps(workdir), default=0)
    folder = workdir / "checkpoints"
    if kind == "step":
        return run.until_step(workdir, done + rng.randint(1, 5))
    if kind == "save":
        begun = {path.name for path in folder.glob("*tmp*")} if folder.exists() else set()
        return run.until(lambda: {p.name for p in folder.glob("*tmp*")} - begun, poll=0.0005)
    due = done - done % 8 + 8
    return run.until(lambda: has_logged(workdir, due) or due > STEPS, poll=0.0005) and due <= STEPS


def test_a_run_that_is_stopped_and_killed_equals_an_unbroken_one(long_run, tmp_path):
    """By signals to all that it has started, as terminals and schedulers send them; to the last bit, workers or not."""
    workdir = tmp_path / "run"
    file = write_config(tmp_path, long_config(workdir))
    with (tmp_path / "told").open("w") as told:
        command = [sys.executable, "-m", "maerec_jax.train", "--config", str(file), "--data.workers", "1"]
        run = subprocess.Popen(command, cwd=REPOSITORY, stdout=told, stderr=told, start_new_session=True)
    with run:
        while not has_logged(workdir, 1):
            assert run.poll() is None
            time.sleep(0.01)
        os.killpg(run.pid, signal.SIGTERM)
        assert run.wait(PATIENCE) == 0
    assert_stopped(workdir, 0, "SIGTERM", (tmp_path / "told").read_text())
    for number, status in ((signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)):
        before = max(saved_steps(workdir))
        with Processes(file, flags=("--data.workers", "1")) as run:
            assert run.until_step(workdir, before + 1)
            os.killpg(run.all[0].pid, number)
            assert run.wait() == [status], run.told()
            assert f"resumed {workdir} at step {before}" in run.told()
        if number == signal.SIGINT:
            assert_stopped(workdir, before, "SIGINT", run.told())
    train(long_config(workdir))
    assert_same_run(workdir, long_run)
    counted = [logged(each, "sources", "sources")[STEPS] for each in (workdir, long_run)]
    assert counted[0] == counted[1]  # since the run began


def assert_stopped(workdir, before, name, told):
    step = max(saved_steps(workdir))
    assert before < step < STEPS
    assert f"stopped by {name} at step {step} of {STEPS}: repeat the command to resume; step {step} is saved in" in told


def train_with_small_files(arguments):
    """Train where no file can be larger than 40 kB: as on a full disk, checkpoints cannot be written."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    return train_command.main(arguments)


def test_a_checkpoint_that_there_is_no_room_for_ends_the_run_with_one_line(unbroken, tmp_path):
    """And the same command goes on when there is room."""
    config = recogniser_config(tmp_path / "run")
    config = replace(config, data=replace(config.data, validation=()))
    file = write_config(tmp_path, config)
    with Processes(file, command=train_with_small_files) as run:
        assert run.wait() == [1]
        *_, last = told = run.told().splitlines()
    step = config.checkpoint_every
    assert last.startswith(
        f"error: {tmp_path / 'run' / 'checkpoints' / str(step)}: cannot be written (File too large): make"
    )
    assert not [line for line in told if "Traceback" in line or "Error" in line]
    assert saved_steps(tmp_path / "run") == []
    train(config)
    assert logged(tmp_path / "run") == logged(unbroken)


def end_and_be_stopped(arguments):
    """Train; schedulers that have lost their patience with what has just ended send SIGTERM."""
    status = train_command.main(arguments)
    os.kill(os.getpid(), signal.SIGTERM)
    return status


def test_a_run_that_is_stopped_after_its_end_has_ended_well(unbroken, tmp_path):
    shutil.copytree(unbroken, tmp_path / "run")
    with Processes(write_config(tmp_path, recogniser_config(tmp_path / "run")), command=end_and_be_stopped) as run:
        assert run.wait() == [0], run.told()
    assert "nothing left to do" in run.told()


@pytest.fixture
def finished(unbroken, tmp_path):
    """A copy of a finished run, with checkpoints after steps 8 and 12, and its last steps to be done again."""
    shutil.copytree(unbroken, tmp_path / "run")
    assert saved_steps(tmp_path / "run") == [8, 12]
    return tmp_path / "run"


def cut(checkpoint, how):
    """Do to a checkpoint what broken disks and copies do."""
    data = max((p for p in checkpoint.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    if how == "half a file":
        data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    elif how == "a file missing":
        data.unlink()
    elif how == "an empty file":
        data.write_bytes(b"")
    elif how == "half the files":
        files = sorted(p for p in checkpoint.rglob("*") if p.is_file())
        for file in files[::2]:
            file.unlink()
    else:
        (checkpoint / "files.json").write_text('{"state/')


@pytest.mark.parametrize("how", ["half a file", "a file missing", "an empty file", "half the files", "half a list"])
def test_a_checkpoint_cut_in_half_is_never_chosen(finished, how):
    """Whatever is opened takes the one before, and what is left of it is kept."""
    cut(finished / "checkpoints" / "12", how)
    assert saved_steps(finished) == [8]
    assert load_params(finished)[2] == 8
    with pytest.raises(UserError, match="no complete checkpoint"):
        load_params(finished / "checkpoints" / "12")
    told = []
    with Checkpoints(finished, 2, 0, told.append) as checkpoints:
        assert checkpoints.latest == 8
    assert len(told) == 1
    assert "warning: checkpoint 12 is damaged (" in told[0]
    assert (finished / "damaged" / "12").is_dir()


def test_a_run_goes_on_from_the_checkpoint_before_one_that_was_cut(finished, unbroken, capsys):
    cut(finished / "checkpoints" / "12", "half a file")
    train(recogniser_config(finished))
    told = capsys.readouterr().err
    assert "warning: checkpoint 12 is damaged (" in told
    assert f"resumed {finished} at step 8" in told
    assert logged(finished) == logged(unbroken)
    assert saved_steps(finished) == [8, 12]
    assert (finished / "damaged" / "12").is_dir()


def test_where_all_checkpoints_are_cut_nothing_is_resumed(finished, unbroken, capsys):
    for step in saved_steps(finished):
        cut(finished / "checkpoints" / str(step), "half a file")
    with pytest.raises(UserError, match="no complete checkpoint"):
        load_params(finished)
    train(recogniser_config(finished))
    assert "resumed" not in capsys.readouterr().err
    assert logged(finished) == logged(unbroken)


def test_what_a_killed_save_leaves_is_removed(finished):
    shutil.rmtree(finished / "checkpoints" / "12")
    (finished / "checkpoints" / "12.orbax-checkpoint-tmp-1" / "state").mkdir(parents=True)
    assert saved_steps(finished) == [8]
    train(recogniser_config(finished))
    assert sorted(path.name for path in (finished / "checkpoints").iterdir()) == ["12", "8"]


def test_a_validation_that_was_cut_short_is_made_up_for(tmp_path, unbroken, monkeypatch):
    """Asked to stop during the last validation: the state is saved, and the same command validates it."""
    from maerec_jax.training import stopping

    reached = stopping.StopRequests.reached
    asked = iter([False] * 6 + [False, True])  # six steps, the validation of the sixth, and its second batch
    monkeypatch.setattr(stopping.StopRequests, "reached", lambda self: next(asked, False))
    config = recogniser_config(tmp_path / "run")
    batch = 16  # of 20 words: a validation has two
    assert config.batch_size == batch
    with pytest.raises(stopping.Stopped, match="stopped by SIGTERM at step 6 of 12"):
        train(config)
    monkeypatch.setattr(stopping.StopRequests, "reached", reached)
    assert logged(tmp_path / "run", "word_accuracy", "validation") == {}
    train(config)
    assert logged(tmp_path / "run") == logged(unbroken)
    for name in ("word_accuracy", "edit_similarity"):
        assert logged(tmp_path / "run", name, "validation") == logged(unbroken, name, "validation")
    scored = json.loads((tmp_path / "run" / "checkpoints" / "12" / "metrics" / "metrics").read_text())
    assert scored["score"] == logged(unbroken, "word_accuracy", "validation")[12]


def test_a_mesh_may_change_between_two_parts_of_a_run(finished):
    """Only what does not change the losses may be another."""
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(UserError, match="batch_size 16 -> 8"):
        train(recogniser_config(finished, batch_size=8))
    train(recogniser_config(finished, mesh=MeshConfig(data=1), log_every=2))
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers


def test_running_statistics_go_on_where_they_were(tmp_path):
    """Of batch normalisation, with batches in parts and an average of the parameters; to the last bit."""
    config = recogniser_config("", model=SARConfig.tiny(), accumulation=2, ema_decay=0.9)
    run = Run(config, "one")
    state, _ = run.go(run.start(), range(2))
    with Checkpoints(tmp_path, 2, 0) as checkpoints:
        checkpoints.save(2, state)
        saved = checkpoints.restore(2, laid_out(run.shapes, run.shardings))
    (unbroken, losses), (resumed, others) = run.go(state, range(2, 4)), run.go(saved, range(2, 4))
    assert others == losses
    jax.tree.map(np.testing.assert_array_equal, resumed, unbroken)
    norm = resumed.params["backbone"]["stem1"]["norm"]
    assert norm["count"] == 4
    assert np.abs(norm["mean"]).max() > 0
