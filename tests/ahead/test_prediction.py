"""Times, memory and tables made of what a compiler said."""

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from maerec_jax.ahead.collectives import Collective
from maerec_jax.ahead.prediction import communication_time, predict
from maerec_jax.ahead.report import markdown_cells, print_report
from maerec_jax.costs.chips import CHIPS, parse_topology
from tests.ahead.conftest import make_compiled


def test_communication_follows_the_formula():
    chip = CHIPS["v5e"]
    ring = 90e9
    size = 1e9
    for kind, expected in {
        "all-reduce": 2 * 7 / 8 * size / ring,
        "all-gather": 7 / 8 * size / ring,
        "reduce-scatter": 7 / 8 * size / ring,
        "all-to-all": 8 / 4 * size / ring,
        "collective-permute": size / 45e9,
    }.items():
        assert communication_time(Collective(kind, "f32", 8, 1, size), chip) == pytest.approx(expected)
    between = Collective("all-reduce", "f32", 2, 1, size, between_slices=True)
    assert communication_time(between, chip) == pytest.approx(size / chip.dcn_rate)
    # Two devices share the links of a chip.
    seven = CHIPS["tpu7x"]
    assert communication_time(Collective("all-gather", "f32", 2, 1, size), seven) == pytest.approx(0.5 * size / 90e9)


def test_the_time_of_a_step_lies_between_peak_and_a_stated_share_of_it(report):
    prediction = report.prediction
    work = report.config.model.work((32, 128))
    assert prediction.arithmetic == pytest.approx(64 * work.model / 197e12)
    assert prediction.memory == pytest.approx(64 * 1.2e9 / 819e9)
    assert prediction.communication == pytest.approx(2 * 7 / 8 * 180e6 / 90e9)
    assert prediction.bound == "memory"
    assert prediction.fastest == max(prediction.arithmetic, prediction.communication)
    assert prediction.slowest == pytest.approx(prediction.memory + prediction.communication)
    assert prediction.expected == pytest.approx(64 * 2e6 / 1.5e9 + prediction.communication)
    assert prediction.rate(prediction.fastest) == pytest.approx(512 / prediction.fastest)
    # Nothing beats the peak.
    assert prediction.utilisation(prediction.arithmetic) == pytest.approx(1)


def test_arithmetic_and_communication_can_be_the_bound(report):
    fast = replace(report, compiled=replace(report.compiled, traffic=1e6, cycles=0))
    assert fast.prediction.bound == "arithmetic"
    assert fast.prediction.slowest == pytest.approx(fast.prediction.arithmetic / 0.4 + fast.prediction.communication)
    gathers = (Collective("all-gather", "f32", 8, 1, 1e12),)
    assert replace(report, compiled=replace(report.compiled, collectives=gathers)).prediction.bound == "communication"


def test_remat_costs_work_but_is_no_progress(report):
    model = replace(report.config.model, encoder=replace(report.config.model.encoder, remat=True))
    remat = predict(report.compiled, replace(report.config, model=model), report.topology)
    assert 1.2 < remat.arithmetic / report.prediction.arithmetic < 1.4
    assert remat.utilisation(remat.arithmetic) == pytest.approx(report.prediction.arithmetic / remat.arithmetic)


def test_without_a_known_clock_there_is_no_estimate_of_the_compiler(report):
    prediction = predict(report.compiled, report.config, parse_topology("v6e:2x4"))
    assert prediction.expected is None
    assert prediction.typical == prediction.slowest


def printed(report):
    console = Console(file=io.StringIO(), width=140)
    print_report(report, console)
    return console.file.getvalue()


def test_the_tables_tell_everything(report):
    text = printed(report)
    for part in (
        "configs/x.py on v5e:2x4: 8 chips, data 8; 512 images of 32x128 a step, 64 a chip; remat off",
        "parameters", "optimizer", "batch", "temporaries", "6,400.0", "all-reduce", "f32", "8 devices",
        "fastest: at peak", "compiler's estimate", "slowest: nothing hidden", "bound by memory", "libtpu 0.0.42",
    ):  # fmt: skip
        assert part in text
    assert "average" not in text  # none is kept


def test_a_step_that_does_not_fit_is_told(report):
    too_much = replace(report, compiled=make_compiled(megabytes_an_image=1000.0))
    assert too_much.prediction is None
    assert "does not fit: 64,500.0 MiB are needed of the 16,384.0 MiB of a v5e" in printed(too_much)
    assert too_much.to_json()["seconds"] is None


def test_json_holds_the_numbers_of_a_chip(report):
    out = json.loads(json.dumps(report.to_json()))
    assert out["memory_bytes"]["temporaries"] == 6400 * 2**20
    assert out["memory_bytes"]["total"] / out["hbm_bytes"] == pytest.approx(report.filled)
    assert out["mesh"] == {"data": 8, "fsdp": 1, "tensor": 1}
    assert out["seconds"]["images_per_second"]["slowest"] == pytest.approx(512 / report.prediction.slowest)
    assert out["collectives"][0] == {
        "kind": "all-reduce", "dtype": "f32", "group": 8, "count": 2, "size": 180e6, "between_slices": False,
    }  # fmt: skip
    # A chip of two devices has twice what one of them needs.
    seven = replace(report, topology=parse_topology("tpu7x:2x2x1")).to_json()
    assert seven["memory_bytes"]["temporaries"] == 2 * 6400 * 2**20


def test_the_cells_of_a_row_tell_what_the_report_does(report):
    cells = markdown_cells(report)
    assert [*cells.values()][:4] == ["x", "v5e:2x4", "64", "off"]
    assert (cells["bound"], cells["gradients"]) == ("memory", "f32")
    assert all(cells.values())
