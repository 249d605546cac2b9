"""A recogniser from another package goes through all commands, which know of it by an entry point alone."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import REPOSITORY

FOREIGN = REPOSITORY / "tests" / "foreign"


def losses(workdir):
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines if line["group"] == "train"}


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """The folder in which it did everything, and what was printed."""
    folder = tmp_path_factory.mktemp("foreign")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(FOREIGN), str(REPOSITORY)])}
    command = [sys.executable, str(FOREIGN / "story.py"), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout + done.stderr


def test_it_learns_and_resumes_on_another_mesh(told):
    unbroken, resumed = losses(told[0] / "unbroken"), losses(told[0] / "run")
    assert list(resumed) == list(unbroken) == list(range(1, 25))
    np.testing.assert_allclose(list(resumed.values()), list(unbroken.values()), rtol=1e-3)
    assert unbroken[24] < 0.9 * unbroken[1]
    assert "resumed" in told[1]
    assert "(data 2 x fsdp 4)" in told[1]


def test_all_ways_to_read_agree(told):
    folder = told[0]
    words = {name: json.loads((folder / f"{name}.json").read_text()) for name in ("run", "ctc.safetensors", "imported")}
    assert words["run"] == words["ctc.safetensors"] == words["imported"]
    assert any(text for text, _ in words["run"])
    lines = map(json.loads, (folder / "read.jsonl").read_text().splitlines())
    assert [line["text"] for line in lines] == [text for text, _ in words["run"]]
    row = json.loads((folder / "table.json").read_text())["sets"]["words.jsonl"]
    assert row["words"] == 8


@pytest.mark.parametrize(
    "line",
    [
        "has no beam search or lexicon: leave out --beam and --lexicon",
        "has no 8-bit weights: leave out --int8",
        "has no attention maps: leave out --attention",
        "has no released form: leave out --released",
    ],
)
def test_what_it_cannot_do_is_told_in_a_line(told, line):
    assert f"error: a model of kind 'ctc' {line}\n" in told[1]


def test_it_starts_from_one_of_other_characters(told):
    assert "2 of 12 characters are new: 'a', 'b'" in told[1]
