"""Several real processes: they compute what one does, stop together, and do not outlive each other."""

import os
import signal
import time
from dataclasses import replace

import pytest

from data_pipelines.errors import UserError
from maerec_jax.config import MeshConfig
from maerec_jax.distributed import cluster
from maerec_jax.distributed.cluster import Cluster
from maerec_jax.weights.checkpoint import saved_steps
from tests.training.conftest import autoencoder_config, logged, recogniser_config
from tests.training.processes import PATIENCE, Processes, write_config

LONG = {"batch_size": 12, "steps": 4000, "validate_every": 4000, "checkpoint_every": 4000}


def assert_losses(workdir, expected):
    assert logged(workdir).keys() == expected.keys()
    assert list(logged(workdir).values()) == pytest.approx(list(expected.values()), rel=1e-5)


@pytest.mark.parametrize(
    ("count", "devices", "mesh"), [(2, 2, MeshConfig(fsdp=2)), (4, 1, MeshConfig())], ids=["2 with fsdp", "4"]
)
def test_processes_compute_what_one_does(unbroken, tmp_path, count, devices, mesh):
    workdir = tmp_path / "run"
    with Processes(write_config(tmp_path, recogniser_config(workdir, mesh=mesh)), count, devices) as run:
        assert run.wait() == [0] * count, run.told()
        told = [run.told(i) for i in range(count)]
    assert_losses(workdir, logged(unbroken))
    assert logged(workdir, "word_accuracy", "validation") == logged(unbroken, "word_accuracy", "validation")
    # One tells; all write. Of a step that is divided, or of copies that each device has, each writes a part.
    assert told[0].count("train step 12 of 12") == told[0].count("done: ") == 1
    assert not any("train step" in text or "done: " in text for text in told[1:])
    for i in range(count):
        data = list((workdir / "checkpoints" / "12" / "state" / f"ocdbt.process_{i}" / "d").iterdir())
        assert sum(file.stat().st_size for file in data) > 10_000


def test_pretraining_computes_the_same_in_two_processes(pretrained, tmp_path):
    workdir = tmp_path / "run"
    with Processes(write_config(tmp_path, autoencoder_config(workdir)), 2) as run:
        assert run.wait() == [0, 0], run.told()
    assert_losses(workdir, logged(pretrained))


def test_sigterm_to_one_saves_on_all(unbroken, tmp_path):
    """Stopped in the middle of a step, both end well at the same step; the same commands go on from there."""
    workdir = tmp_path / "run"
    config = write_config(tmp_path, recogniser_config(workdir, checkpoint_every=100, validate_every=100))
    with Processes(config, 2) as run:
        assert run.until_step(workdir, 1)
        run.all[1].send_signal(signal.SIGTERM)
        assert run.wait() == [0, 0], run.told()
        told = run.told()
    (step,) = saved_steps(workdir)
    assert f"stopped by SIGTERM at step {step} of 12" in told
    assert "done: " not in told
    with Processes(config, 2) as run:
        assert run.wait() == [0, 0], run.told()
        assert f"resumed {workdir} at step {step}" in run.told() or step == 12
    assert_losses(workdir, logged(unbroken))


def test_sigterm_is_heeded_while_checkpoints_are_written(tmp_path):
    """In a run that was resumed and saves at every step, so that its steps are not what Orbax and the loop count."""
    workdir = tmp_path / "run"
    config = write_config(tmp_path, recogniser_config(workdir, **LONG | {"checkpoint_every": 1}))
    with Processes(config, 2) as run:
        assert run.until(lambda: max(saved_steps(workdir), default=0) >= 3)
    before = max(saved_steps(workdir))
    with Processes(config, 2) as run:
        assert run.until_step(workdir, before + 4)
        run.all[0].send_signal(signal.SIGTERM)
        assert run.wait() == [0, 0], run.told()
        step = max(saved_steps(workdir))
        assert f"stopped by SIGTERM at step {step} of 4000" in run.told()
    assert before + 4 <= step < before + 200


def test_processes_that_are_not_told_the_same_refuse_to_train(tmp_path):
    file = write_config(tmp_path, recogniser_config(tmp_path / "run", **LONG))
    with Processes(file, 2, last=("--log-every=1", "--log-every=2")) as run:
        assert run.wait() == [1, 1]
        for i in range(2):
            assert f"error: process {i} of 2: process 1 differs from process 0 in: config" in run.told(i)
    assert not (tmp_path / "run").exists()


def test_sigterm_ends_a_single_process_well_and_so_does_ctrl_c(unbroken, tmp_path):
    """Also where all that it has started gets the signal, as from terminals and schedulers."""
    workdir = tmp_path / "run"
    config = write_config(tmp_path, recogniser_config(workdir, checkpoint_every=100, validate_every=100))
    for number, status in ((signal.SIGTERM, 0), (signal.SIGINT, 130)):
        with Processes(config, flags=("--data.workers", "1")) as run:
            before = max(saved_steps(workdir), default=0)
            assert run.until_step(workdir, before + 1)
            os.killpg(run.all[0].pid, number)
            assert run.wait() == [status], run.told()
            step = max(saved_steps(workdir))
            assert f"stopped by {number.name} at step {step} of 12: the same command goes on" in run.told()
            assert step > before
    with Processes(config) as run:
        assert run.wait() == [0]
    assert_losses(workdir, logged(unbroken))
    assert logged(workdir, "word_accuracy", "validation")[12] == logged(unbroken, "word_accuracy", "validation")[12]


@pytest.mark.parametrize(
    ("dies", "number"),
    [(1, signal.SIGKILL), (0, signal.SIGKILL), (1, signal.SIGSTOP)],
    ids=["killed", "first killed", "frozen"],
)
def test_processes_do_not_outlive_each_other(tmp_path, dies, number):
    """kill -9 of any, or a machine that hangs: the others end within a minute, and say why."""
    workdir = tmp_path / "run"
    with Processes(write_config(tmp_path, recogniser_config(workdir, **LONG)), 3) as run:
        assert run.until_step(workdir, 3)
        begin = time.monotonic()
        run.all[dies].send_signal(number)
        others = [i for i in range(3) if i != dies]
        statuses = [run.all[i].wait(60) for i in others]
        assert time.monotonic() - begin < 60
        assert all(statuses)
        for i in others:
            assert "another process has died" in run.told(i) or "another task died" in run.told(i), run.told(i)


def test_a_process_without_data_names_itself_and_ends_all(tmp_path):
    """What each machine reads is its own affair: one of two lacks a file, and the other does not wait for it."""
    file = write_config(tmp_path, recogniser_config(tmp_path / "run", **LONG))
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "none.jsonl").write_text("")
    flags = ("--data.exclude", "none.jsonl", "--data.root")
    with Processes(file, 2, flags=flags, last=(str(tmp_path / "whole"), str(tmp_path / "nowhere"))) as run:
        begin = time.monotonic()
        assert run.all[1].wait(PATIENCE) == 1
        assert "error: process 1 of 2: " in run.told(1)
        assert "none.jsonl" in run.told(1)
        assert run.all[0].wait(60)
        assert time.monotonic() - begin < 120


def test_what_finds_the_processes():
    detect = cluster._detect
    slurm = {"SLURM_NTASKS": "4", "SLURM_STEP_NODELIST": "node[1-4]"}
    assert detect({}) == "none"
    assert detect(slurm) == "slurm"
    assert detect({**slurm, "SLURM_NTASKS": "1"}) == "none"
    assert detect({"SLURM_NTASKS": "4"}) == "none"  # in a batch script, outside srun
    assert detect({"OMPI_COMM_WORLD_SIZE": "2"}) == "ompi"
    assert detect({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"}) == "k8s"
    sees = cluster._sees_its_gpus
    assert sees({"SLURM_STEP_TASKS_PER_NODE": "1(x4)", "CUDA_VISIBLE_DEVICES": "0,1,2,3"})
    assert sees({"SLURM_STEP_TASKS_PER_NODE": "4", "CUDA_VISIBLE_DEVICES": "2"})
    assert not sees({"SLURM_STEP_TASKS_PER_NODE": "4(x2)", "CUDA_VISIBLE_DEVICES": "0,1,2,3"})
    assert sees({"OMPI_COMM_WORLD_LOCAL_SIZE": "1"})
    assert not sees({"OMPI_COMM_WORLD_LOCAL_SIZE": "8"})


def test_a_task_of_slurm_finds_the_others(unbroken, tmp_path):
    """Two tasks as srun would start them, by their variables alone."""
    workdir = tmp_path / "run"
    config = write_config(tmp_path, recogniser_config(workdir))
    job = str(int(time.time()) % 4000)
    variables = {"SLURM_JOB_ID": job, "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
    runs = [
        Processes(config, **variables, SLURM_PROCID=str(i), SLURM_LOCALID=str(i), SLURM_STEP_TASKS_PER_NODE="2")
        for i in range(2)
    ]
    with runs[0], runs[1]:
        assert [run.wait() for run in runs] == [[0], [0]], runs[0].told()
        assert "on 2 cpu (data 2)" in runs[0].told()
    assert_losses(workdir, logged(unbroken))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"coordinator": "host:1"}, "--num-processes and --process-id missing"),
        ({"num_processes": 2, "process_id": 0}, "--coordinator missing"),
        ({"coordinator": "host", "num_processes": 2, "process_id": 0}, "give HOST:PORT of process 0"),
        ({"coordinator": "host:1", "num_processes": 2, "process_id": 2}, "--process-id 2 is not from 0 to 1"),
    ],
)
def test_mistakes_in_the_flags_are_told(arguments, told):
    with pytest.raises(UserError, match=told):
        Cluster(**arguments)


def test_a_cluster_that_is_not_there_is_told():
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    assert cluster._detect(environment) == "none"
    with pytest.raises(UserError, match=r"cannot be found by --cluster slurm: .*--cluster none trains on this machine"):
        replace(Cluster(), method="slurm").join()
