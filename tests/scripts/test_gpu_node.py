"""scripts/launching/gpu_node.sh: one machine, hosts by ssh, and Slurm, with programs that play them."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY
from tests.scripts.conftest import AWKWARD, refusal
from tests.training.conftest import logged

CONFIG = ["--config", "configs/small.py"]
TRAINING = [*CONFIG, "--workdir", "/shared/a run"]
HOSTS = ["--hosts", "one,me@two,three", "--poll", "0"]


def commands(text):
    """Printed commands as lists of words; comments left out."""
    return [shlex.split(line) for line in text.splitlines() if line and not line.startswith("#")]


def dry_run(stage, *arguments):
    """What a dry run prints, which calls nothing and leaves nothing."""
    finished = stage.run("gpu_node.sh", *arguments, PATH="/usr/bin:/bin")
    assert finished.returncode == 0, finished.stdout
    assert not stage.lines("calls")
    assert not (stage.project / "runs").exists()
    return finished.stdout


def remote(words):
    """The words of the command that ssh brings to another machine, after "worker.sh"."""
    inner = shlex.split(words[-1])
    return inner[inner.index("scripts/launching/worker.sh") + 1 :]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--", "--workdir", "a"], "--config FILE is missing"),
        ([*HOSTS, "--", *CONFIG], "--workdir is missing"),
        (["--slurm", "--node-count", "2", "--", *CONFIG], "--workdir is missing"),
        ([*HOSTS, "--", *TRAINING, "--coordinator=a:1"], "--coordinator is set by this script"),
        (["--hosts", "a,b;c", "--", *TRAINING], "not the name of a host: 'b;c'"),
        (["--hosts", "a,b,a", "--", *TRAINING], "names a host twice"),
        (["--hosts", "-oProxyCommand=x", "--", *TRAINING], "not the name of a host"),
        (["--slurm", "--tasks-per", "core", "--", *TRAINING], "--tasks-per takes gpu or node, not core"),
        (["--slurm", "--sbatch=--output=x", "--", *TRAINING], "--output=x is set by this script"),
        (["--slurm", "--sbatch=long", "--", *TRAINING], "--sbatch takes a flag of sbatch"),
        (["--slurm", "--name", "a b", "--", *TRAINING], "--name a b"),
        (["--slurm", "--lead", "soon", "--", *TRAINING], "--lead takes a whole number"),
        (["stop"], "stop is for --hosts and --slurm"),
        (["--slurm", "stop"], "no such option: stop"),
        (["stop", "--slurm"], "no job of the name maerec"),
        (["submit"], "no such command: submit"),
    ],
)
def test_wrong_arguments_are_one_clear_line(stage, arguments, told):
    assert told in refusal(stage.run("gpu_node.sh", *arguments))
    assert not stage.lines("calls")


def test_this_machine(stage):
    run = [".venv/bin/python", "-m", "maerec_jax.train", *TRAINING, *AWKWARD]
    printed = commands(dry_run(stage, "--env", "COLOUR=dark blue", "--dry-run", "--", *TRAINING, *AWKWARD))
    installing = ["bash", "scripts/launching/worker.sh", "install", "[cuda]"]
    assert printed == [installing, *[["env", "COLOUR=dark blue", *run]] * 2]

    stage.lay_out("runs", "fail 3", "fail 3", "done")
    finished = stage.run("gpu_node.sh", "--env", "COLOUR=dark blue", "--", *TRAINING, *AWKWARD)
    assert finished.returncode == 0, finished.stdout
    assert stage.starts() == [[*TRAINING, *AWKWARD]] * 3
    assert stage.lines("colours") == ["dark blue"] * 3


def test_this_machine_gives_up_with_the_status_of_the_run(stage):
    stage.lay_out("runs", *["fail 5"] * 4)
    finished = stage.run("gpu_node.sh", "--max-failures", "2", "--", *TRAINING)
    assert (finished.returncode, len(stage.starts())) == (5, 2)


def test_a_signal_reaches_the_run_of_this_machine(stage):
    stage.lay_out("runs", "wait", "done")
    running = stage.begin(stage.command("gpu_node.sh", "--", *TRAINING), stdout=subprocess.PIPE)
    stage.wait_for(lambda: (stage.play / "waiting").exists())
    running.send_signal(signal.SIGTERM)
    told, _ = running.communicate(timeout=60)
    assert running.returncode == 0
    assert "stopped by SIGTERM" in told
    assert len(stage.starts()) == 1


def test_hosts_get_one_process_each(stage):
    text = dry_run(stage, *HOSTS, "--port", "5000", "--dry-run", "--", *TRAINING, *AWKWARD)
    starts = [words for words in commands(text) if words[0] == "ssh" and remote(words)[0] == "start"]
    assert [words[-2] for words in starts] == ["one", "me@two", "three"] * 2  # and once more after the failure
    for i, words in enumerate(starts[:3]):
        place = ["--coordinator", "one:5000", "--num-processes", "3", "--process-id", str(i)]
        assert remote(words)[1:] == [".venv/bin/python", "-m", "maerec_jax.train", *TRAINING, *AWKWARD, *place]
    installed = [words[-2] for words in commands(text) if words[0] == "ssh" and remote(words)[0] == "install"]
    assert installed[:3] == ["one", "me@two", "three"]
    assert "install" not in dry_run(stage, *HOSTS, "--no-install", "--dry-run", "--", *TRAINING)
    single = dry_run(stage, "--hosts", "one", "--dry-run", "--", *TRAINING)
    assert "--coordinator" not in single


def test_hosts_run_until_it_is_done(stage):
    stage.lay_out("runs", "fail 9", "done")
    finished = stage.run("gpu_node.sh", *HOSTS, "--", *TRAINING, *AWKWARD)
    assert finished.returncode == 0, finished.stdout
    place = ["--coordinator", "one:12355", "--num-processes", "3", "--process-id", "0"]
    assert stage.starts() == [[*TRAINING, *AWKWARD, *place]] * 2
    assert "done: /shared/a run" in finished.stdout
    for host in ("one", "me@two", "three"):
        assert (stage.play / "machines" / host / "maerec_jax" / "scripts" / "launching" / "worker.sh").exists()


def test_hosts_stop_on_request(stage):
    stage.lay_out("runs", "wait")
    running = stage.begin(stage.command("gpu_node.sh", *HOSTS, "--", *TRAINING), stdout=subprocess.PIPE)
    stage.wait_for(lambda: (stage.play / "waiting").exists())
    assert stage.run("gpu_node.sh", "stop", *HOSTS).returncode == 0
    told, _ = running.communicate(timeout=60)
    assert running.returncode == 0
    assert "asked to stop" in told


def test_hosts_for_real(stage):
    """Two processes of maerec_jax.train on this machine, found by the flags that the script gives them."""
    (stage.project / "configs" / "small.py").write_text(
        "from tests.training.conftest import recogniser_config\ndef get_config():\n    return recogniser_config('')\n"
    )
    for host in ("127.0.0.1", "localhost"):
        folder = stage.play / "machines" / host / "maerec_jax"
        folder.mkdir(parents=True)
        for name in ("maerec_jax", "data_pipelines", "tests", "scripts"):
            (folder / name).symlink_to(REPOSITORY / name)
        (folder / "configs").symlink_to(stage.project / "configs")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    stage.environment |= {k: v for k, v in os.environ.items() if k.startswith("JAX_")}
    workdir = stage.play / "a run"
    hosts = ["--hosts", "127.0.0.1,localhost", "--no-install", "--python", sys.executable, "--port", port]
    training = [*CONFIG, "--workdir", workdir, "--steps", "12", "--validate-every", "100"]
    finished = stage.run("gpu_node.sh", *hosts, "--poll", "1", "--", *training, timeout=600)
    assert finished.returncode == 0, finished.stdout
    assert "on 2 cpu" in finished.stdout
    assert f"done: {workdir}" in finished.stdout
    assert sorted(logged(workdir)) == list(range(1, 13))
    # The second process has nothing to say at its end.
    stage.wait_for(lambda: "state: ended" in stage.run("gpu_node.sh", "status", *hosts).stdout)


def batch_script(stage, *arguments):
    """The batch script that a dry run prints."""
    text = dry_run(stage, "--slurm", *arguments, "--dry-run", "--", *TRAINING, *AWKWARD)
    return re.search(r"<<'END_OF_BATCH_SCRIPT'\n(.*)\nEND_OF_BATCH_SCRIPT\n", text, re.DOTALL).group(1)


def directives(script):
    return dict(re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", script, re.MULTILINE))


def test_batch_script(stage):
    script = batch_script(
        stage, "--node-count", "2", "--gpus-per-node", "4", "--sbatch=--time=24:00:00", "--lead", "300"
    )
    found = directives(script)
    assert found["nodes"] == "2"
    assert found["ntasks-per-node"] == found["gpus-per-node"] == "4"
    assert found["signal"] == "TERM@300"
    assert found["time"] == "24:00:00"
    assert found["open-mode"] == "append"
    assert "requeue" in found
    one_for_all = batch_script(stage, "--gpus-per-node", "4", "--tasks-per", "node")
    assert directives(one_for_all)["ntasks-per-node"] == "1"
    # No directive counts after the first command.
    assert max(script.rfind("#SBATCH"), 0) < script.find("set -uo")


class Slurm:
    """Plays the part of Slurm for a job: runs its script, and again whenever it was put back into the queue."""

    def __init__(self, stage, *flags):
        self.stage = stage
        finished = stage.run("gpu_node.sh", "--slurm", *flags, "--", *TRAINING, *AWKWARD)
        assert finished.returncode == 0, finished.stdout
        self.script, self.log = stage.project / "runs/slurm/maerec.sbatch", stage.project / "runs/slurm/maerec-42.log"
        self.attempts = 0

    def begin(self):
        """Start an attempt; what it prints goes to the end of the log."""
        self.attempts += 1
        (self.stage.play / "requeued").unlink(missing_ok=True)
        self.stage.environment["SLURM_JOB_ID"] = "42"
        with self.log.open("a") as log:
            command = ["bash", str(self.script)]
            return self.stage.begin(command, stdout=log, stderr=subprocess.STDOUT, cwd=self.stage.project)

    @property
    def requeued(self):
        """Whether the script has asked for another attempt."""
        return (self.stage.play / "requeued").exists()

    def play(self):
        """Attempts until the job does not come back; returns the status of the last."""
        while True:
            status = self.begin().wait(60)
            if not self.requeued:
                return status


def end_training(stage):
    """Send SIGTERM to the process that plays the training."""
    os.kill(int(stage.lines("waiting")[0]), signal.SIGTERM)


def test_slurm_until_it_is_done(stage):
    stage.lay_out("runs", "wait", "fail 3", "done")
    stage.lay_out("limit")  # comes near in the first attempt
    slurm = Slurm(stage)
    assert slurm.play() == 0, slurm.log.read_text()
    assert slurm.attempts == 3
    assert stage.starts() == [[*TRAINING, *AWKWARD]] * 3
    log = slurm.log.read_text()
    assert "saved and stopped (time limit or preemption)" in log
    assert "failed with status 3" in log
    assert log.rstrip().endswith("the run is done")


def test_slurm_crash_loop_stops(stage):
    stage.lay_out("runs", *["fail 3"] * 5)
    slurm = Slurm(stage, "--max-failures", "2")
    assert slurm.play() == 3
    assert slurm.attempts == 2
    assert "giving up" in slurm.log.read_text()


def test_slurm_stops_on_request(stage):
    stage.lay_out("runs", "wait", "done")
    slurm = Slurm(stage)
    attempt = slurm.begin()
    stage.wait_for(lambda: (stage.play / "waiting").exists())
    assert stage.run("gpu_node.sh", "stop", "--slurm").returncode == 0
    assert stage.calls("scancel") == ["scancel --signal=TERM 42"]
    end_training(stage)  # what scancel does: its fake only notes it
    assert attempt.wait(60) == 0
    assert not slurm.requeued
    assert slurm.play() == 0  # submitted again, it goes on
    assert len(stage.starts()) == 2


def test_a_cancelled_job_does_not_come_back(stage):
    stage.lay_out("runs", "wait")
    slurm = Slurm(stage)
    attempt = slurm.begin()
    stage.wait_for(lambda: (stage.play / "waiting").exists())
    attempt.terminate()
    end_training(stage)
    assert attempt.wait(60) != 0
    assert not slurm.requeued


def test_slurm_that_does_not_take_the_job_back(stage):
    stage.lay_out("runs", "wait")
    stage.lay_out("limit")
    stage.lay_out("refuse", "Requested operation is presently disabled")
    slurm = Slurm(stage)
    assert slurm.play() == 1
    assert "submit the batch script again" in slurm.log.read_text()
