"""scripts/benchmarks: contenders in turns, and that each benchmark runs, on what is as small as can be."""

import json
import re
import subprocess
import sys
from contextlib import closing

from rich.console import Console

from tests.conftest import REPOSITORY
from tests.scripts.conftest import printed_words, write_list

BENCHMARKS = REPOSITORY / "scripts" / "benchmarks"


def run(name, *arguments):
    """What a benchmark prints."""
    command = [sys.executable, BENCHMARKS / name, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=REPOSITORY)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Runner:
    """A contender that takes as long as it is told, and cannot bear the number 3."""

    def __init__(self, seconds):
        self.seconds = seconds

    def run(self, number):
        if number == self.seconds == 3:
            raise ValueError("three\nis too many")
        return (float(self.seconds),)


def test_contenders_run_in_the_same_turns_and_one_that_fails_is_left_out(script_module, capsys):
    turns, numbers = script_module("benchmarks/turns"), iter(range(100))
    with closing(turns.Contenders(Console(width=100))) as running:
        for seconds in (1, 2, 3):
            assert running.start(f"takes {seconds}", Runner, seconds)
        assert not running.start("is nothing", Runner)
        found = running.take_turns(10.0, 1, lambda: (next(numbers),))
        assert running.names == ["takes 1", "takes 2"]
    assert found == {"takes 1": dict.fromkeys(range(10), 1.0), "takes 2": dict.fromkeys(range(5), 2.0)}
    told = capsys.readouterr().out
    assert "takes 3: left out: ValueError: three\n" in told
    assert "is nothing: left out: TypeError" in told


def test_ratios_are_of_the_turns_that_both_ran_in(script_module):
    ratio = script_module("benchmarks/turns").ratio
    assert ratio({0: 2.0, 1: 4.0, 2: 6.0}, {0: 1.0, 1: 2.0, 3: 9.0}) == 2
    assert ratio({0: 2.0, 1: 4.0}, {0: 1.0, 1: 2.0}, less=0.5) == 2.5


def test_training_steps_compute_the_same_as_pytorchs(tmp_path):
    """The benchmark itself ends where losses or gradients differ."""
    file = tmp_path / "numbers.json"
    arguments = ["--stage", "mae", "--model", "tiny", "--batch-size", 2, "--rounds", 2, "--steps", 1, "--json", file]
    run("training.py", *arguments, "--contenders", "jax", "torch")
    (result,) = json.loads(file.read_text())
    assert set(result["contenders"]) == {"jax float32", "torch float32"}
    assert set(result["ratios"]) == {"jax float32 / torch float32"}
    assert all(len(times) == 2 for times in result["ratios"]["jax float32 / torch float32"].values())


def test_exports_are_timed():
    told = run("exports.py", "--size", "tiny", "--places", 3, "--contenders", "jax", "onnx", "--seconds", 0)
    assert len(re.findall(r"(?:jax|onnx) .* MB", told)) == 4


def test_exports_read_what_the_checkpoint_reads(tmp_path):
    write_list(tmp_path / "words.jsonl", printed_words(tmp_path, 4, 4, 6))
    (tmp_path / "3.png").write_bytes(b"no image")
    names = ["--contenders", "jax", "stablehlo", "--checkpoint", "maerec_tiny"]
    told = run("exports.py", *names, "--data", tmp_path, "--sets", "words.jsonl")
    assert "left out: " in told
    rows = [row for row in told.splitlines() if re.search("jax|stablehlo", row)]
    cells = [re.split(r"\s*[│┃]\s*", row)[1:-1] for row in rows]
    assert [row[1:3] for row in cells] == [["3", "jax"], ["3", "stablehlo"]]
    assert cells[0][3:5] == cells[1][3:5]
    assert cells[1][5] == "0"


def test_the_pipeline_is_timed():
    sizes = ["--images", 64, "--rounds", 1, "--batches", 1, "--workers", 1]
    told = run("data.py", *sizes)
    for name in ("reference", "ArrayRecord, published augmentation", "worker processes"):
        assert name in told


def test_the_service_answers_under_load_what_a_recognizer_reads():
    told = run("service.py", "--requests", 40, "--concurrency", 4, "--distinct", 8, "--growth", 100)
    assert re.search(r"answers with another text\W+0 ", told)
    assert re.search(r"failed\W+0 ", told)


def test_words_of_scenes_are_found():
    made = json.loads(run("scenes.py", "--sizes", 480, 640, "--pictures", 1, "--words", 4))
    assert 0 < made["found"] <= made["words"] <= 4


def test_copies_are_found():
    assert "%" in run("overlaps.py", "--sizes", 4000, "--queries", 4000)
