"""Where the time of runs has gone: every second is counted once, also of runs that were killed."""

import json
import time
from types import SimpleNamespace

import pytest

from maerec_jax.training import run_log, wall_time
from maerec_jax.training.run_log import METRICS_FILE, RunLog
from maerec_jax.training.wall_time import WallTime


@pytest.fixture
def clock(monkeypatch):
    """The time as a list with one number, for tests to set."""
    now = [1000.0]
    for module in (wall_time, run_log):
        monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: now[0], monotonic=time.monotonic))
    return now


def spent(workdir):
    lines = [json.loads(line) for line in (workdir / METRICS_FILE).read_text().splitlines()]
    return [line for line in lines if line["group"] == "time"]


def test_every_second_is_counted_once(clock):
    spending = WallTime()
    clock[0] += 2
    spending.turn_to("stepping")
    clock[0] += 3
    with spending.during("validating"):
        clock[0] += 4
        with spending.during("waiting"):
            clock[0] += 5
        clock[0] += 6
    clock[0] += 7
    line = spending.line()
    counted = {part: seconds for part, seconds in line["run"].items() if seconds}
    assert counted == {"starting": 2.0, "stepping": 10.0, "validating": 10.0, "waiting": 5.0}
    assert line["workdir"] == line["run"]
    assert spending.told() == (
        "wall time: 0:00:27, of that starting 7.4%, stepping 37.0%, waiting for data 18.5%, validating 37.0%"
    )


def test_what_a_killed_run_did_after_its_checkpoint_is_lost(tmp_path, clock):
    """And up to the start of the next one nothing ran. Those who read the log later find the whole time in it."""

    def run(start, save, last):
        """Start, save after 10 s, take steps for 5 s more, and be killed."""
        spending = WallTime()
        clock[0] += 1
        with RunLog(tmp_path, start, 99, True, spending) as log:
            spending.turn_to("stepping")
            clock[0] += 10
            log.spent(save)
            clock[0] += 5
            log.scalars(last, {"loss": 1.0})

    run(0, 4, 7)
    clock[0] += 100
    run(4, 8, 9)
    clock[0] += 100
    run(8, 12, 12)
    kept = spent(tmp_path)
    assert [line["step"] for line in kept] == [0, 4, 4, 8, 8, 12]
    last = kept[-1]
    assert {part: seconds for part, seconds in last["workdir"].items() if seconds} == {
        "starting": 3.0,
        "stepping": 30.0,
        "lost": 10.0,
        "stopped": 200.0,
    }
    assert last["run"]["stepping"] == 10.0
    assert (last["runs"], last["lost_steps"]) == (3, 3 + 1)
    assert sum(last["workdir"].values()) == last["at"] - 1000.0


def test_a_run_that_is_killed_before_its_first_checkpoint_is_lost_from_its_start(tmp_path, clock):
    for seconds in (3, 1):
        spending = WallTime()
        clock[0] += 1
        with RunLog(tmp_path, 0, 99, True, spending) as log:
            clock[0] += seconds
            log.scalars(2, {"loss": 1.0})
    assert spending.line()["workdir"]["lost"] == 3.0
    assert spending.line()["lost_steps"] == 2
