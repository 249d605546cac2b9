"""Commands whose output nobody takes end without a traceback."""

import subprocess
import sys

import pytest

COMMANDS = {
    "check": "check . --sources list.txt --workers 0",
    "prepare": "prepare . --sources list.txt --out out --workers 0",
    "render": "rendering --out sheet.png --count 1",
    "help": "check --help",
}


@pytest.fixture
def run(tmp_path, jpeg):
    (tmp_path / "list.txt").write_text("0.jpg\tword\n")
    (tmp_path / "0.jpg").write_bytes(jpeg(0))
    return lambda shell: subprocess.run(shell, shell=True, capture_output=True, text=True, cwd=tmp_path, timeout=120)


@pytest.mark.parametrize("command", COMMANDS)
def test_output_that_is_cut_off_is_no_traceback(run, command):
    done = run(f"{sys.executable} -m data_pipelines.{COMMANDS[command]} | true")
    assert "Traceback" not in done.stderr
    assert "Error" not in done.stderr


def test_output_that_is_closed_is_no_traceback(run):
    done = run(f"{sys.executable} -m data_pipelines.{COMMANDS['render']} >&-")
    assert (done.returncode, done.stderr) == (0, "")
