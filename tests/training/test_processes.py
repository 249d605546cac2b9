"""Several real processes: they compute what one does, stop together, and do not outlive each other."""

import os
import signal
import time
from contextlib import ExitStack
from dataclasses import replace

import pytest
from jax.profiler import ProfileData

from data_pipelines.errors import UserError
from maerec_jax import train
from maerec_jax.config import MeshConfig
from maerec_jax.distributed import cluster
from maerec_jax.distributed.cluster import Cluster
from maerec_jax.weights.checkpoint import saved_steps
from tests.training.conftest import autoencoder_config, logged, recogniser_config
from tests.training.processes import Processes, write_config

LONG = {"steps": 4000, "validate_every": 4000, "checkpoint_every": 4000}


def assert_losses(workdir, expected):
    assert logged(workdir).keys() == expected.keys()
    assert list(logged(workdir).values()) == pytest.approx(list(expected.values()), rel=1e-5)


def assert_together(workdir, unbroken, told):
    """Several processes have done what one does, and each has written its part of the state."""
    assert_losses(workdir, logged(unbroken))
    assert logged(workdir, "word_accuracy", "validation") == logged(unbroken, "word_accuracy", "validation")
    # One tells; all write. Of a step that is divided, or of copies that each device has, each writes a part.
    assert told[0].count("train step 12 of 12") == told[0].count("done: ") == 1
    assert not any("train step" in text or "done: " in text for text in told[1:])
    for i in range(len(told)):
        data = list((workdir / "checkpoints" / "12" / "state" / f"ocdbt.process_{i}" / "d").iterdir())
        assert sum(file.stat().st_size for file in data) > 10_000


@pytest.mark.parametrize(
    ("devices", "mesh"), [(2, MeshConfig(fsdp=2)), (1, MeshConfig(tensor=2))], ids=["fsdp", "the same rows"]
)
def test_two_processes_compute_what_one_does(unbroken, tmp_path, devices, mesh):
    """Also where they divide the model between them, so that both have to read the same rows."""
    workdir = tmp_path / "run"
    with Processes(write_config(tmp_path, recogniser_config(workdir, mesh=mesh)), 2, devices) as run:
        assert run.wait() == [0, 0], run.told()
        assert_together(workdir, unbroken, [run.told(i) for i in range(2)])


def test_pretraining_computes_the_same_in_two_processes(pretrained, tmp_path):
    """And traced, in the process and at the steps that were asked for."""
    workdir = tmp_path / "run"
    flags = ("--profile.steps", "3:4", "--profile.processes", "1")
    with Processes(write_config(tmp_path, autoencoder_config(workdir)), 2, flags=flags) as run:
        assert run.wait() == [0, 0], run.told()
        assert "process 1 of 2: traced steps 3 to 4: " in run.told(1)
    assert_losses(workdir, logged(pretrained))
    (trace,) = workdir.rglob("*.xplane.pb")
    assert trace == workdir / "tensorboard/plugins/profile/steps_3_to_4/process_1.xplane.pb"
    lines = [line for plane in ProfileData.from_file(str(trace)).planes for line in plane.lines]
    events = [event for line in lines for event in line.events]
    assert [dict(event.stats)["step_num"] for event in events if event.name == "step"] == [3, 4]
    assert {"read", "decode"} <= {event.name for event in events}  # by the thread


def test_sigterm_to_one_saves_on_all(tmp_path):
    """Both end well at the same step, in the middle of a run and in one that was resumed and saves at every step.

    In the second one steps are not what Orbax and the loop count.
    """
    workdir = tmp_path / "run"
    config = write_config(tmp_path, recogniser_config(workdir, **LONG))
    before = 0
    for told, flags in ((1, ()), (0, ("--checkpoint-every", "1"))):
        with Processes(config, 2, flags=flags) as run:
            assert run.until_step(workdir, before + 4)
            run.send(told, signal.SIGTERM)
            assert run.wait() == [0, 0], run.told()
            step = max(saved_steps(workdir))
            assert f"stopped by SIGTERM at step {step} of 4000" in run.told()
            assert "done: " not in run.told()
            assert before == 0 or f"resumed {workdir} at step {before}" in run.told()
        assert before + 4 <= step
        assert before == 0 or step < before + 200
        before = step
    assert list(logged(workdir)) == list(range(1, before + 1))


def test_processes_that_are_not_told_the_same_refuse_to_train(tmp_path):
    file = write_config(tmp_path, recogniser_config(tmp_path / "run", **LONG))
    with Processes(file, 2, last=("--log-every=1", "--log-every=2")) as run:
        assert run.wait() == [1, 1]
        for i in range(2):
            assert f"error: process {i} of 2: process 1 differs from process 0 in: config" in run.told(i)
    assert not (tmp_path / "run").exists()


def train_impatiently(arguments):
    """The command, with a shorter wait for a process that is not heard of."""
    assert cluster._HEARTBEAT_SECONDS == 30  # with which it is less than a minute
    cluster._HEARTBEAT_SECONDS = 10
    return train.main(arguments)


@pytest.mark.parametrize(
    ("count", "dies", "number"),
    [(4, 1, signal.SIGKILL), (2, 0, signal.SIGKILL), (2, 1, signal.SIGSTOP)],
    ids=["killed", "first killed", "frozen"],
)
def test_processes_do_not_outlive_each_other(tmp_path, count, dies, number):
    """kill -9 of any, or a machine that hangs: the others end within a minute, and say why."""
    workdir = tmp_path / "run"
    command = train_impatiently if number == signal.SIGSTOP else train.main
    with Processes(write_config(tmp_path, recogniser_config(workdir, **LONG)), count, command=command) as run:
        assert run.until_step(workdir, 3)
        run.send(dies, number)
        others = [i for i in range(count) if i != dies]
        statuses = run.wait(60, others)
        assert all(statuses), statuses
        for i in others:
            assert "another process has died" in run.told(i) or "another task died" in run.told(i), run.told(i)


def test_a_process_without_data_names_itself_and_ends_all(tmp_path):
    """What each machine reads is its own affair: one of two lacks a file, and the other does not wait for it."""
    file = write_config(tmp_path, recogniser_config(tmp_path / "run", **LONG))
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "none.jsonl").write_text("")
    flags = ("--data.exclude", "none.jsonl", "--data.root")
    with Processes(file, 2, flags=flags, last=(str(tmp_path / "whole"), str(tmp_path / "nowhere"))) as run:
        assert run.wait(which=[1]) == [1]
        assert "error: process 1 of 2: " in run.told(1)
        assert "none.jsonl" in run.told(1)
        assert all(run.wait(60, [0]))


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


def test_tasks_of_slurm_find_each_other(unbroken, tmp_path):
    """Four tasks as srun would start them, by their variables alone."""
    workdir = tmp_path / "run"
    config = write_config(tmp_path, recogniser_config(workdir))
    job = str(int(time.time()) % 4000)
    variables = {"SLURM_JOB_ID": job, "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "4"}
    variables["SLURM_STEP_TASKS_PER_NODE"] = "4"
    with ExitStack() as stack:
        runs = [
            stack.enter_context(Processes(config, **variables, SLURM_PROCID=str(i), SLURM_LOCALID=str(i)))
            for i in range(4)
        ]
        assert [run.wait() for run in runs] == [[0]] * 4, runs[0].told()
        assert "on 4 cpu (data 4)" in runs[0].told()
        assert_together(workdir, unbroken, [run.told() for run in runs])


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
    with pytest.raises(UserError, match=r"cannot find .* through --cluster slurm: .*--cluster none trains on"):
        replace(Cluster(), method="slurm").join()
