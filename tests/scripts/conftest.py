"""A small project, and programs that stand for gcloud, ssh, Slurm and Python: they play what a test lays out."""

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import get_type_hints

import cv2
import pytest

from data_pipelines.command import run_command
from data_pipelines.rendering import RenderedWords
from tests.conftest import REPOSITORY
from tests.training.processes import FORKS

FAKES = Path(__file__).parent / "fakes"
AWKWARD = ["--data.root", "/a b", "--note", 'it\'s $HOME `x` "y" \\ * ; & | > # ~ !', "--empty", "", "--é", "ü\t1"]
"""Arguments that only right quoting brings through several shells."""


class Stage:
    """The scripts in a small project of their own, and what the fakes do and have done.

    Args:
      folder: for everything.
    """

    def __init__(self, folder: Path) -> None:
        self.play, self.project = folder / "play", folder / "project"
        self.play.mkdir()
        shutil.copytree(REPOSITORY / "scripts", self.project / "scripts")
        for package in ("maerec_jax", "data_pipelines", "configs"):
            (self.project / package).mkdir()
        for file in ("pyproject.toml", "README.md", "LICENSE", "configs/small.py"):
            (self.project / file).write_text("")
        self.environment = {
            "PATH": f"{FAKES}:{os.environ['PATH']}",
            "HOME": str(folder / "home"),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "PLAY": str(self.play),
            "PYTHON": "python3",
            "LC_ALL": "C.UTF-8",
        }
        self.lay_out("coming", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE")

    def lay_out(self, name, *lines):
        """Write a file that a fake reads."""
        (self.play / name).write_text("".join(f"{line}\n" for line in lines))

    def lines(self, name):
        """The lines of a file that fakes have written."""
        return (self.play / name).read_text().splitlines() if (self.play / name).exists() else []

    def calls(self, word):
        """The commands that fakes were called with and that hold a word, in order."""
        return [line for line in self.lines("calls") if word in line]

    def starts(self):
        """The arguments of maerec_jax.train, for each time that it was started."""
        return [line.split("\x1f")[:-1] for line in self.lines("starts")]

    def command(self, script, *arguments):
        return ["bash", str(self.project / "scripts" / "launching" / script), *map(str, arguments)]

    def run(self, script, *arguments, timeout=120, **environment):
        """Run a script to its end; what it prints is one text."""
        return subprocess.run(
            self.command(script, *arguments),
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=timeout,
        )

    def begin(self, command, **options):
        """Start a command in the background."""
        return subprocess.Popen(command, env=self.environment, stdin=subprocess.DEVNULL, text=True, **options)

    def wait_for(self, condition):
        """Wait until something is so."""
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def clear(self):
        """End whatever still runs."""
        for file in self.play.glob("machines/**/run/pid"):
            try:
                os.kill(int(file.read_text()), signal.SIGKILL)
            except ProcessLookupError:
                continue


@pytest.fixture(scope="session")
def script_module():
    """Imports a script by its path in scripts/, without its ending."""
    folders = set()

    def load(path):
        file = REPOSITORY / "scripts" / path
        if str(file.parent) not in folders:
            folders.add(str(file.parent))
            sys.path.insert(0, str(file.parent))
        return importlib.import_module(file.name)

    yield load
    for folder in folders:
        sys.path.remove(folder)


@pytest.fixture
def call(script_module, monkeypatch, capsys):
    """Calls the command of a script in this process; gives its exit status and what it prints.

    Processes of contenders are forked from one that has imported most of what they need.
    """
    monkeypatch.setattr(script_module("benchmarks/turns"), "get_context", lambda _: FORKS)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # as some set it

    def call(command, *arguments):
        capsys.readouterr()
        try:
            status = run_command(get_type_hints(command)["arguments"], command, "script", list(map(str, arguments)))
        except SystemExit as stop:
            status = stop.code
        told = capsys.readouterr()
        return status, told.out + told.err

    return call


def printed_words(folder, number, min_length, max_length):
    """Write plainly printed words as 0.png, 1.png and so on; returns records of their names and labels."""
    source = RenderedWords(difficulty=0.0, min_length=min_length, max_length=max_length, size=number).open()
    for i in range(number):
        cv2.imwrite(str(folder / f"{i}.png"), source[i].image[:, :, ::-1])
    return [{"filename": f"{i}.png", "text": source.text(i)} for i in range(number)]


def write_list(file, records):
    """Write a list of labelled words."""
    file.write_text("\n".join(map(json.dumps, records)))


def cells_of(told):
    """The rows of printed tables, but for their headings; numbers without commas."""
    return [re.split(r"\s*│\s*", line.replace(",", ""))[1:-1] for line in told.splitlines() if "│" in line]


@pytest.fixture
def stage(tmp_path):
    """A stage that is cleared at the end."""
    made = Stage(tmp_path)
    yield made
    made.clear()


def refusal(finished):
    """The one line of a refused command."""
    assert finished.returncode == 2, finished.stdout
    lines = finished.stdout.splitlines()
    assert lines[-1].startswith("error: ")
    return lines[-1]
