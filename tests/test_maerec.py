"""The command maerec: each of its commands is that of a module, and light where it only helps."""

import subprocess
import sys
from importlib import import_module

import pytest

from maerec_jax.__main__ import COMMANDS, main


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself_under_its_name(command, capsys):
    try:
        status = main([*command.split(), "--help"])
    except SystemExit as stop:
        status = stop.code
    assert not status
    assert f"maerec {command}" in capsys.readouterr().out


def test_arguments_and_status_are_passed_on(monkeypatch):
    seen = []

    def evaluate(arguments, name):
        seen.append((arguments, name))
        return 3

    monkeypatch.setattr(import_module("maerec_jax.evaluate"), "main", evaluate)
    assert main(["evaluate", "--data", "data"]) == 3
    assert seen == [(["--data", "data"], "maerec evaluate")]


@pytest.mark.parametrize("arguments", [[], ["--help"], ["data"], ["data", "--help"]])
def test_help_lists_the_commands(arguments, capsys):
    assert main(arguments) == 0
    told = capsys.readouterr().out
    listed = [name for name in COMMANDS if f"\n  {name}  " in told]
    assert listed == [name for name in COMMANDS if name.startswith(" ".join(arguments[:1]).removeprefix("--help"))]


@pytest.mark.parametrize(("typed", "meant"), [("raed", "'read'"), ("data chek", "'data check'"), ("x", "--help")])
def test_a_mistyped_command_is_one_line(typed, meant, capsys):
    assert main(typed.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"no command {typed!r}" in line
    assert meant in line


LIGHT = [[], ["--version"], ["export", "--help"], ["compile-ahead", "--help"]]


def test_help_loads_no_jax():
    code = "import contextlib, sys; from maerec_jax.__main__ import main\n"
    code += f"for words in {LIGHT}:\n  with contextlib.suppress(SystemExit): main(words)\n"
    code += "sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
