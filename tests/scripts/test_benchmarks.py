"""scripts/benchmarks: contenders in turns, and that each benchmark runs, on what is as small as can be."""

import json
import os
import re
import runpy
import sys

import numpy as np
import pytest
import torch
from rich.console import Console

from maerec_jax.weights.finding import save_weights
from tests.conftest import REPOSITORY
from tests.scripts.conftest import cells_of, printed_words, write_list
from tests.scripts.runner import Runner
from tests.training.conftest import random_params, recogniser_config

BENCHMARKS = REPOSITORY / "scripts" / "benchmarks"
COMMANDS = [path for path in BENCHMARKS.glob("*.py") if "__main__" in path.read_text()]


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.stem)
def test_each_is_a_command_that_explains_itself(path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    monkeypatch.setattr(sys, "argv", [path.name, "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(path), run_name="__main__")
    assert "--" in capsys.readouterr().out


def test_contenders_run_in_the_same_turns_and_one_that_fails_is_left_out(script_module, capsys):
    turns, numbers = script_module("benchmarks/turns"), iter(range(100))
    with turns.Contenders(Console(width=100)) as running:
        for seconds in (1, 2, 3):
            assert running.start(f"takes {seconds}", Runner, seconds)
        assert not running.start("is nothing", Runner)
        found = running.take_turns(10.0, 1, lambda: next(numbers))
        assert running.names == ["takes 1", "takes 2"]
    assert found == {"takes 1": dict.fromkeys(range(10), 1.0), "takes 2": dict.fromkeys(range(5), 2.0)}
    told = capsys.readouterr().out
    assert "takes 3: left out: ValueError: three\n" in told
    assert "is nothing: left out: TypeError" in told


def test_ratios_are_of_the_turns_that_both_ran_in(script_module):
    ratio = script_module("benchmarks/turns").ratio
    assert ratio({0: 2.0, 1: 4.0, 2: 6.0}, {0: 1.0, 1: 2.0, 3: 9.0}) == 2
    assert ratio({0: 2.0, 1: 4.0}, {0: 1.0, 1: 2.0}, less=0.5) == 2.5


def test_training_steps_compute_the_same_as_pytorchs(call, script_module):
    """The benchmark itself ends where losses or gradients differ."""
    arguments = ["--stage", "mae", "--model", "tiny", "--batch-size", 2, "--rounds", 2, "--steps", 1]
    status, told = call(script_module("benchmarks/training").benchmark, *arguments, "--contenders", "jax", "torch")
    assert status == 0, told
    rows = {row[0]: row[1:] for row in cells_of(told)}
    assert [*rows] == ["jax float32", "torch float32", "jax float32 / torch float32"]
    median, least, most = map(float, rows["jax float32 / torch float32"][:3])
    assert 0 < least <= median <= most


def test_baselines_read_the_same_as_in_pytorch(call, script_module):
    """The benchmark itself ends where they do not."""
    small = ["--models", "sar", "--tiny", "--batch-size", 2, "--seconds", 0, "--fewest", 1]
    status, told = call(script_module("benchmarks/baselines").benchmark, *small)
    assert status == 0, told
    ((model, steps, *times, original, cached),) = cells_of(told)
    assert (model, steps, len(times)) == ("sar", "8", 3)
    assert all(re.fullmatch(r"\d+\.\d\d \(.+ to .+\)", found) for found in (original, cached))


def test_exports_are_timed(call, script_module):
    small = ["--size", "tiny", "--places", 3, "--batch-sizes", 2, "--seconds", 0]
    status, told = call(script_module("benchmarks/exports").benchmark, *small, "--contenders", "jax", "onnx")
    assert status == 0, told
    assert len(re.findall(r"(?:jax|onnx) .* MB", told)) == 2


def test_exports_read_what_the_checkpoint_reads(call, script_module, tmp_path):
    write_list(tmp_path / "words.jsonl", printed_words(tmp_path, 4, 4, 6))
    (tmp_path / "3.png").write_bytes(b"no image")
    names = ["--contenders", "jax", "stablehlo", "--checkpoint", "maerec_tiny"]
    read = ["--data", tmp_path, "--sets", "words.jsonl", "--batch-sizes", 4]
    status, told = call(script_module("benchmarks/exports").benchmark, *names, *read)
    assert status == 0, told
    assert "left out: " in told
    cells = cells_of(told)
    assert [row[1:3] for row in cells] == [["3", "jax"], ["3", "stablehlo"]]
    assert cells[0][3:5] == cells[1][3:5]
    assert cells[1][5] == "0"


def test_the_pipeline_is_timed(script_module, monkeypatch, capsys):
    data, threads = script_module("benchmarks/data"), torch.get_num_threads()
    monkeypatch.setattr(data, "BATCH", 32)
    sizes = ["--images", "64", "--rounds", "1", "--batches", "1", "--workers", "1"]
    monkeypatch.setattr(sys, "argv", ["data.py", *sizes])
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    try:
        data.main()
    finally:
        torch.set_num_threads(threads)
        if cores:
            os.sched_setaffinity(0, cores)
    told = capsys.readouterr().out
    for name in ("reference", "ArrayRecord, published augmentation", "worker processes"):
        assert name in told


def test_the_service_answers_under_load_what_a_recognizer_reads(call, script_module, monkeypatch, tmp_path):
    service, config = script_module("benchmarks/service"), recogniser_config("")
    monkeypatch.setattr(service, "run_steps_in_this_thread", lambda: None)
    save_weights(tmp_path / "small.safetensors", config, random_params(config.model), 0)
    load = ["--requests", 40, "--concurrency", 4, "--distinct", 8, "--growth", 100]
    status, told = call(service.load_test, "--checkpoint", tmp_path / "small.safetensors", *load)
    assert status == 0, told
    assert re.search(r"answers with another text\W+0 ", told)
    assert re.search(r"failed\W+0 ", told)


def test_starts_are_measured_in_turns_after_a_first_that_fills_the_caches(call, script_module, monkeypatch, tmp_path):
    start, folders = script_module("benchmarks/start"), []

    def run(command, folder, environment):
        folders.append(folder)
        return start.Cost(len(folders), 1.0, 100.0)

    monkeypatch.setattr(start, "run", run)
    status, told = call(start.main, "--base", tmp_path, "--rounds", 1)
    assert status == 0, told
    assert folders == 2 * [REPOSITORY, tmp_path, REPOSITORY]
    assert [(cells[0], cells[1], cells[4]) for cells in cells_of(told)] == [
        ("this build", "4.00", "1.00"),
        ("base", "5.00", "0.80"),
        ("rapidocr", "6.00", "0.67"),
    ]


def test_words_of_scenes_are_found(call, script_module):
    scenes = script_module("benchmarks/scenes")
    status, told = call(scenes.measure, "--sizes", 480, 640, "--pictures", 1, "--words", 4)
    assert status == 0, told
    made = json.loads(told)
    assert 0 < made["found"] <= made["words"] <= 4


def test_copies_are_found(script_module, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["overlaps.py", "--sizes", "4000", "--queries", "4000"])
    script_module("benchmarks/overlaps").main()
    assert "%" in capsys.readouterr().out


def test_overlaps_of_boxes_are_shares_of_their_union(script_module):
    boxes = np.array([(0, 0, 4, 4), (0, 0, 4, 4), (0, 0, 4, 4), (2, 0, 6, 4)], float)
    true = np.array([(0, 0, 4, 4), (0, 0, 4, 2), (5, 5, 6, 6), (0, 0, 4, 4)], float)
    np.testing.assert_allclose(script_module("benchmarks/boxes").overlap(boxes, true), [1, 1 / 2, 0, 1 / 3])
