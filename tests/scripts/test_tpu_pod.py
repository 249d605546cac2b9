"""scripts/launching/tpu_pod.sh: what it prints and does, with a gcloud that plays slices coming and going."""

import shlex
import subprocess

import pytest

from tests.scripts.conftest import AWKWARD, refusal

CONFIG = ["--config", "configs/small.py"]
TRAINING = [*CONFIG, "--workdir", "gs://bucket/run"]
SLICE = ["--type", "v5litepod-16", "--zone", "zone-a", "--project", "mine"]
FAST = ["--poll", "0"]


def dry_run(stage, *arguments, path="/usr/bin:/bin"):
    """The commands that a dry run prints. It finds no gcloud, and nothing is called."""
    finished = stage.run("tpu_pod.sh", *arguments, PATH=path)
    assert finished.returncode == 0, finished.stdout
    assert not stage.lines("calls")
    assert not (stage.project.parent / "cache").exists()
    return finished.stdout


def commands(text):
    """Printed commands as lists of words; comments left out."""
    return [shlex.split(line) for line in text.splitlines() if not line.startswith("#")]


def verbs(calls):
    """What each command does, in short."""
    found = []
    for words in calls:
        line = " ".join(words)
        if words[0] != "gcloud":
            found.append(words[0])
        elif "worker.sh" in line:
            found.append(line.split("worker.sh ")[1].split()[0])
        else:
            found.append(words[4])
    return found


def value(words, flag):
    return words[words.index(flag) + 1]


@pytest.fixture
def no_programs(tmp_path):
    """A PATH with the few programs that a dry run may need, and no gcloud."""
    folder = tmp_path / "few"
    folder.mkdir()
    for name in ("bash", "dirname", "sed", "sort", "uniq", "paste", "head", "tail", "cat"):
        found = subprocess.run(["which", name], capture_output=True, text=True, check=True).stdout.strip()
        (folder / name).symlink_to(found)
    return str(folder)


def test_dry_run_goes_through_every_path_in_order(stage, no_programs):
    text = dry_run(stage, *SLICE, "--spot", "--dry-run", "--", *TRAINING, path=no_programs)
    done = [v for v in verbs(commands(text)) if v not in ("describe", "mkdir", "tar")]
    begin = ["create", "scp", "install", "start", "watch"]
    restart_after_a_failure = ["state", "state", "scp", "install", "start", "watch"]
    assert done == [*begin, "delete", *begin, *restart_after_a_failure, "delete"]
    creates = [words for words in commands(text) if words[4:5] == ["create"]]
    assert creates[0] == creates[1]
    assert value(creates[0], "--accelerator-type") == "v5litepod-16"
    assert value(creates[0], "--node-id") == "maerec"
    assert "--spot" in creates[0]
    for words in commands(text):
        if words[0] == "gcloud":
            assert (value(words, "--zone"), value(words, "--project")) == ("zone-a", "mine")


def test_dry_run_is_a_script_that_calls_what_it_shows(stage):
    text = dry_run(stage, *SLICE, "--dry-run", "--setup", "echo 'a  b' > x", "--", *TRAINING, *AWKWARD)
    recorder = stage.play / "bin"
    recorder.mkdir()
    record = 'printf "%s\\x1f" "$@" >>"$PLAY/words"; echo >>"$PLAY/words"'
    (recorder / "gcloud").write_text(f"#!/usr/bin/env bash\n{record}\n")
    (recorder / "gcloud").chmod(0o755)
    environment = stage.environment | {"PATH": f"{recorder}:/usr/bin:/bin"}
    subprocess.run(["bash", "-euc", text], env=environment, cwd=stage.project, check=True)
    called = [line.split("\x1f")[:-1] for line in stage.lines("words")]
    assert called == [words[1:] for words in commands(text) if words[0] == "gcloud"]
    remote = [shlex.split(words[-1]) for words in called if "worker.sh start" in words[-1]]
    assert len(remote) == 3
    for words in remote:
        start = words.index("start")
        assert words[start + 1 :] == [".venv/bin/python", "-m", "maerec_jax.train", *TRAINING, *AWKWARD]
    install = next(shlex.split(words[-1]) for words in called if "worker.sh install" in words[-1])
    assert install[-3:] == ["bash", "-c", "echo 'a  b' > x"]
    assert "[tpu,gcs]" in install


def test_every_command_has_a_dry_run(stage):
    where = ["--zone", "zone-a", "--project", "mine", "--dry-run"]
    assert verbs(commands(dry_run(stage, "up", *SLICE, "--dry-run")))[-2:] == ["scp", "install"]
    assert verbs(commands(dry_run(stage, "status", *where)))[-1] == "state"
    assert verbs(commands(dry_run(stage, "logs", *where))) == ["follow"]
    assert verbs(commands(dry_run(stage, "stop", *where))) == ["stop", "state", "state"]
    assert verbs(commands(dry_run(stage, "down", *where))) == ["describe", "stop", "state", "delete", "describe"]


@pytest.mark.parametrize(
    ("type_", "runtime"),
    [
        ("v4-64", "tpu-ubuntu2204-base"),
        ("v5litepod-256", "v2-alpha-tpuv5-lite"),
        ("v5p-128", "v2-alpha-tpuv5"),
        ("v6e-256", "v2-alpha-tpuv6e"),
    ],
)
def test_runtime_versions(stage, type_, runtime):
    calls = commands(dry_run(stage, "up", *SLICE, "--type", type_, "--dry-run"))
    create = next(words for words in calls if "create" in words)
    assert value(create, "--runtime-version") == runtime
    calls = commands(dry_run(stage, "up", *SLICE, "--type", type_, "--runtime-version", "other", "--dry-run"))
    assert value(next(words for words in calls if "create" in words), "--runtime-version") == "other"


def test_several_slices(stage):
    text = dry_run(stage, *SLICE, "--name", "two", "--node-count", "2", "--reserved", "--dry-run", "--", *TRAINING)
    create = next(words for words in commands(text) if "create" in words)
    assert (value(create, "--node-count"), value(create, "--node-prefix")) == ("2", "two")
    assert "--node-id" not in create
    assert "--reserved" in create
    starts = [words for words in commands(text) if "worker.sh start" in words[-1]]
    assert [words[5] for words in starts[:2]] == ["two-0", "two-1"]
    for words in starts:
        assert shlex.split(words[-1])[-2:] == ["--mesh.slices", "2"]
    given = dry_run(stage, *SLICE, "--node-count", "2", "--dry-run", "--", *TRAINING, "--mesh.slices=2")
    assert "--mesh.slices 2" not in given


def test_further_flags(stage):
    flags = ["--service-account", "a@b.c", "--create=--network=n", "--ssh=--internal-ip", "--env", "A=b c"]
    calls = commands(dry_run(stage, *SLICE, *flags, "--dry-run", "--", *TRAINING))
    create = next(words for words in calls if "create" in words)
    assert value(create, "--service-account") == "a@b.c"
    assert "--network=n" in create
    assert all("--internal-ip" in words for words in calls if words[4:5] in (["ssh"], ["scp"]))
    start = shlex.split(next(words[-1] for words in calls if "worker.sh start" in words[-1]))
    assert start[start.index("start") + 1 :][:3] == ["env", "A=b c", ".venv/bin/python"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([*SLICE, "--", *CONFIG], "--workdir is missing"),
        ([*SLICE, "--", *CONFIG, "--workdir", "runs/a"], "--workdir runs/a: a preempted slice"),
        ([*SLICE, "--", "--workdir", "gs://b/r"], "--config FILE is missing"),
        ([*SLICE, "--", "--config", "configs/none.py"], "no such config file: configs/none.py"),
        ([*SLICE, "--", "--config", "/etc/passwd"], "has to lie in the project"),
        ([*SLICE], "no training command"),
        ([*SLICE, "--", *TRAINING, "--data.root", "gs://b/data"], "--data.root gs://b/data"),
        ([*SLICE, "--", *TRAINING, "--process-id", "3"], "--process-id is set by this script"),
        ([*SLICE, "--node-count", "2", "--", *TRAINING, "--mesh.slices", "4"], "--mesh.slices 4, but --node-count 2"),
        (["--zone", "z", "--project", "p", "--", *TRAINING], "--type is missing"),
        ([*SLICE, "--type", "tpu7x-128", "--", *TRAINING], "not as queued resources"),
        ([*SLICE, "--type", "v9-8", "--", *TRAINING], "--type v9-8"),
        ([*SLICE, "--node-count", "x", "--", *TRAINING], "--node-count takes a whole number, not 'x'"),
        ([*SLICE, "--node-count", "0", "--", *TRAINING], "--node-count has to be at least 1"),
        ([*SLICE, "--name", "Big", "--", *TRAINING], "--name Big"),
        ([*SLICE, "--spot", "--reserved", "--", *TRAINING], "--spot and --reserved exclude each other"),
        ([*SLICE, "--env", "A", "--", *TRAINING], "--env takes NAME=VALUE"),
        ([*SLICE, "--name", "--", *TRAINING], "--name needs a value"),
        ([*SLICE, "--config", "a", "--", *TRAINING], "no such option: --config"),
        (["launch", *SLICE], "no such command: launch"),
    ],
)
def test_wrong_arguments_are_one_clear_line(stage, arguments, told):
    assert told in refusal(stage.run("tpu_pod.sh", *arguments))
    assert not stage.calls("create")


def test_without_gcloud(stage, no_programs):
    assert "gcloud is not installed" in refusal(stage.run("tpu_pod.sh", *SLICE, "--", *TRAINING, PATH=no_programs))


def test_project_comes_from_gcloud(stage):
    stage.lay_out("runs", "done")
    finished = stage.run("tpu_pod.sh", "--type", "v6e-8", "--zone", "z", *FAST, "--", *TRAINING)
    assert finished.returncode == 0, finished.stdout
    assert "--project from-gcloud" in stage.calls("create")[0]


def test_taken_away_and_made_again_until_it_is_done(stage):
    stage.lay_out("runs", "preempted", "preempted", "done")
    finished = stage.run("tpu_pod.sh", *SLICE, "--spot", *FAST, "--max-failures", "1", "--", *TRAINING, *AWKWARD)
    assert finished.returncode == 0, finished.stdout
    assert stage.starts() == [[*TRAINING, *AWKWARD]] * 3
    assert len(stage.calls("create")) == len(stage.calls("delete")) == 3  # the last for the slice of a run that is done
    assert len({call for call in stage.calls("create")}) == 1
    assert "done: gs://bucket/run" in finished.stdout
    assert not (stage.play / "slice").exists()
    assert len(stage.lines("installed")) == 3 * 2


def test_a_node_that_is_taken_away(stage):
    stage.lay_out("runs", "wait", "done")
    stage.lay_out("node", "READY")
    running = stage.begin(stage.command("tpu_pod.sh", *SLICE, *FAST, "--", *TRAINING), stdout=subprocess.DEVNULL)
    stage.wait_for(lambda: (stage.play / "waiting").exists())
    stage.lay_out("node", "PREEMPTED")
    stage.wait_for(lambda: stage.calls("delete"))
    stage.lay_out("node", "READY")
    assert running.wait(60) == 0
    assert len(stage.starts()) == 2


def test_a_crash_loop_stops_and_shows_the_log(stage):
    stage.lay_out("runs", *["fail 7"] * 5)
    finished = stage.run("tpu_pod.sh", *SLICE, *FAST, "--max-failures", "2", "--", *TRAINING)
    assert finished.returncode == 1
    assert len(stage.starts()) == 2
    assert len(stage.calls("create")) == 1
    assert not stage.calls("delete")
    assert "costs money" in finished.stdout
    assert finished.stdout.split("giving up")[1].count("error: something broke") == 1


def test_failures_that_come_late_do_not_add_up(stage):
    stage.lay_out("runs", *["fail 7"] * 4, "done")
    finished = stage.run("tpu_pod.sh", *SLICE, *FAST, "--max-failures", "2", "--soon", "0", "--", *TRAINING)
    assert finished.returncode == 0, finished.stdout
    assert len(stage.starts()) == 5


def test_a_request_that_is_refused_is_the_end(stage):
    stage.lay_out("refuse", "ERROR: QUOTA_EXCEEDED")
    finished = stage.run("tpu_pod.sh", *SLICE, *FAST, "--", *TRAINING)
    assert finished.returncode == 2
    assert "QUOTA_EXCEEDED" in finished.stdout
    assert len(stage.calls("create")) == 1


def test_requests_that_fail_are_bounded(stage):
    stage.lay_out("coming", "WAITING_FOR_RESOURCES", "FAILED")
    finished = stage.run("tpu_pod.sh", *SLICE, *FAST, "--max-failures", "2", "--", *TRAINING)
    assert finished.returncode == 1
    assert len(stage.calls("create")) == 2


def test_gcloud_that_knows_nothing_is_told(stage):
    stage.lay_out("offline")
    finished = stage.run("tpu_pod.sh", *SLICE, *FAST, "--", *TRAINING)
    assert "cannot reach the server" in refusal(finished)


def test_followed_again_and_stopped_on_request(stage):
    stage.lay_out("runs", "wait", "done")
    command = stage.command("tpu_pod.sh", *SLICE, *FAST, "--", *TRAINING)
    first = stage.begin(command, stdout=subprocess.DEVNULL)
    stage.wait_for(lambda: (stage.play / "waiting").exists())
    first.kill()
    first.wait()
    second = stage.begin(command, stdout=subprocess.PIPE)
    assert "following its log" in next(line for line in second.stdout if "in progress" in line)
    another = stage.run("tpu_pod.sh", *SLICE, *FAST, "--", *TRAINING, "--seed", "1")
    assert "another command is running there" in refusal(another)

    stopped = stage.run("tpu_pod.sh", "stop", *SLICE, *FAST)
    assert stopped.returncode == 0, stopped.stdout
    told, _ = second.communicate(timeout=60)
    assert second.returncode == 0
    assert "asked to stop" in told
    assert "costs money" in told
    assert len(stage.starts()) == len(stage.calls("create")) == 1
    assert "state: halted" in stage.run("tpu_pod.sh", "status", *SLICE).stdout

    resumed = stage.run("tpu_pod.sh", *SLICE, *FAST, "--keep", "--", *TRAINING)
    assert resumed.returncode == 0, resumed.stdout
    assert len(stage.calls("create")) == 1  # on the slice that was still there
    assert not stage.calls("delete")


def test_down_saves_first(stage):
    stage.lay_out("runs", "wait")
    running = stage.begin(stage.command("tpu_pod.sh", *SLICE, *FAST, "--", *TRAINING), stdout=subprocess.DEVNULL)
    stage.wait_for(lambda: (stage.play / "waiting").exists())
    running.kill()
    running.wait()
    finished = stage.run("tpu_pod.sh", "down", *SLICE, *FAST)
    assert finished.returncode == 0, finished.stdout
    calls = stage.lines("calls")
    stop = next(i for i, call in enumerate(calls) if "worker.sh stop" in call)
    assert any("delete" in call for call in calls[stop:])
    assert not (stage.play / "slice").exists()
    assert "there is no queued resource" in stage.run("tpu_pod.sh", "down", *SLICE, *FAST).stdout
