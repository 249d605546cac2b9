"""scripts/launching/worker.sh: what runs on each machine, and what it tells of it."""

import os
import signal
import sys

import pytest


def worker(stage, *arguments):
    """Run a command of worker.sh; returns what it prints."""
    finished = stage.run("worker.sh", *arguments)
    assert finished.returncode == 0, finished.stdout
    return finished.stdout


def state(stage, *command):
    return worker(stage, "state", *command).strip().removeprefix("state: ")


@pytest.fixture(autouse=True)
def ended(stage):
    """End what a test has left running."""
    yield
    stage.run("worker.sh", "kill")


def start(stage, script):
    """Start a Python program; returns its command."""
    command = [sys.executable, "-c", script]
    worker(stage, "start", *command)
    return command


@pytest.mark.parametrize(
    ("script", "wanted"),
    [
        ("print('done: gs://b/run')", "done"),
        ("print('stopped by SIGTERM at step 3 of 9: and so on')", "stopped"),
        ("print('  done: not at the beginning of a line')", "ended"),
        ("print('done: but'); raise SystemExit(3)", "failed-3"),
        ("import os; os.kill(os.getpid(), 9)", "failed-137"),
    ],
)
def test_states_after_the_end(stage, script, wanted):
    assert state(stage) == "absent"
    start(stage, script)
    stage.wait_for(lambda: state(stage) != "running")
    assert state(stage) == wanted


WAIT = "import signal, time; signal.signal(15, lambda *_: exit(0)); print('ready'); time.sleep(100)"


def test_one_run_at_a_time(stage):
    command = start(stage, WAIT)
    assert state(stage) == state(stage, *command) == "running"
    assert state(stage, *command, "more") == "other"
    assert "is running already" in worker(stage, "start", *command)
    refused = stage.run("worker.sh", "start", "true")
    assert refused.returncode == 3
    assert "is running another command" in refused.stdout


def test_stopped_on_request(stage):
    start(stage, WAIT)
    stage.wait_for(lambda: "ready" in worker(stage, "log"))
    worker(stage, "stop")
    stage.wait_for(lambda: state(stage) != "running")
    assert state(stage) == "halted"
    start(stage, "print('done: again')")
    stage.wait_for(lambda: state(stage) == "done")  # the request does not last beyond the next start


def test_a_signal_to_all_processes_of_the_machine(stage):
    for _ in range(10):  # which of two processes is told first differs
        start(stage, WAIT + "; print('never')")
        stage.wait_for(lambda: "ready" in worker(stage, "log"))
        child = int((stage.project / "run" / "pid").read_text())
        os.killpg(os.getpgid(child), signal.SIGTERM)
        stage.wait_for(lambda: state(stage) != "running")
        assert state(stage) == "ended"


def test_a_machine_that_was_switched_off(stage):
    start(stage, WAIT)
    child = int((stage.project / "run" / "pid").read_text())
    os.killpg(os.getpgid(child), signal.SIGKILL)
    stage.wait_for(lambda: state(stage) == "failed-137")


def test_log_comes_in_pieces(stage):
    start(stage, "print('first'); print('state: running'); print('läst')")
    stage.wait_for(lambda: state(stage) == "ended")
    told = worker(stage, "watch", 0).splitlines()
    size = int(told[1].removeprefix("offset: "))
    assert told == ["state: ended", f"offset: {size}", "first", "state: running", "läst"]
    assert worker(stage, "watch", size - 6).splitlines()[2:] == ["läst"]
    assert worker(stage, "watch", size).splitlines()[2:] == []


def test_old_logs_are_kept(stage):
    for text in ("one", "two"):
        start(stage, f"print({text!r})")
        stage.wait_for(lambda: state(stage) == "ended")
    assert worker(stage, "log") == "two\n"
    assert [p.read_text() for p in (stage.project / "run").glob("log.2*")] == ["one\n"]


def test_explains_itself(stage):
    finished = stage.run("worker.sh")
    assert finished.returncode == 2
    assert "bash scripts/launching/worker.sh install EXTRAS" in finished.stdout
