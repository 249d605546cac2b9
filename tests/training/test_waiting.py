"""Data that comes late, or not at all: a worker that fails, is killed or hangs must not hang the run."""

import os
import signal
import time
from pathlib import Path

import pytest

from data_pipelines.errors import DataError
from data_pipelines.pipeline import train_batches
from data_pipelines.sources.combining import Sources
from maerec_jax.training.data import make_decoder
from maerec_jax.training.stopping import Patience
from tests.training.conftest import recogniser_config
from tests.training.failing_sources import Deadly, Failing
from tests.training.processes import Processes, write_config

LONG = {"steps": 4000, "validate_every": 4000, "checkpoint_every": 4000}


def workers_of(process):
    """The process ids of the workers that a run has started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if parent == process.pid and b"spawn_main" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except (FileNotFoundError, ProcessLookupError):
            pass
    return found


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_worker_comes_with_its_traceback(tmp_path, workers):
    decoder = make_decoder(recogniser_config(tmp_path))
    sources = Sources((Failing(),))
    with (
        train_batches(sources, decoder, batch_size=32, seed=0, num_workers=workers) as batches,
        pytest.raises(ZeroDivisionError) as found,
    ):
        next(batches)
    assert "divide_by" in [entry.name for entry in found.traceback]


def test_a_killed_worker_ends_the_run(tmp_path):
    workdir = tmp_path / "run"
    config = write_config(tmp_path, recogniser_config(workdir, **LONG))
    with Processes(config, 2, flags=("--data.workers", "1")) as run:
        assert run.until_step(workdir, 3)
        (worker,) = workers_of(run.all[1])
        os.kill(worker, signal.SIGKILL)
        assert all(run.wait(60))
        assert "error: process 1 of 2: Worker process was terminated unexpectedly with exit code -9: " in run.told(1)


def test_a_worker_that_hangs_ends_the_run_and_is_told(tmp_path):
    workdir = tmp_path / "run"
    config = write_config(tmp_path, recogniser_config(workdir, **LONG))
    with Processes(config, flags=("--data.workers", "1", "--data.timeout", "10")) as run:
        assert run.until_step(workdir, 3)
        (worker,) = workers_of(run.all[0])
        os.kill(worker, signal.SIGSTOP)
        assert run.wait() == [1], run.told()
        assert "in __next__" in run.told()
        assert "error: no batch for 10 s (data.timeout); the traceback above shows where it hangs" in run.told()
    deadline = time.monotonic() + 30
    os.kill(worker, signal.SIGCONT)  # it ends by itself then, as its parent has gone
    while Path(f"/proc/{worker}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_long_waits_are_told_once_each_and_short_ones_are_not():
    told = []
    patience = Patience(0.0, told.append, tell_after=1.5)
    for seconds in (0.0, 4.0, 0.0, 4.0):
        with patience:
            time.sleep(seconds)
    time.sleep(2.5)  # not waiting
    patience.close()
    assert len(told) == 2
    assert all("no batch for 2 s" in text or "no batch for 3 s" in text for text in told)


def test_a_negative_timeout_is_refused():
    with pytest.raises(ValueError, match=r"data\.timeout must not be negative"):
        recogniser_config("").data.__class__(timeout=-1.0)


def test_a_killed_worker_is_a_data_error(tmp_path):
    decoder = make_decoder(recogniser_config(tmp_path))
    with (
        train_batches(Sources((Deadly(),)), decoder, batch_size=4, seed=0, num_workers=1) as batches,
        pytest.raises(DataError, match="exit code -9: probably out of memory"),
    ):
        next(batches)
