"""Processes that keep the others waiting are named; those that are late once are not."""

import time

import numpy as np

from maerec_jax import train
from maerec_jax.training import loop
from maerec_jax.training.stragglers import Stragglers
from tests.training.conftest import autoencoder_config
from tests.training.processes import Processes, write_config


def test_who_is_late_twice_in_a_row_is_named_once():
    told = []
    stragglers = Stragglers(told.append)
    late, even = np.array([0.1, 0.1, 0.9, 0.1]), np.array([0.1, 0.1, 0.1, 0.1])
    for own_P in (late, even, late, late[::-1], even):
        stragglers.judge(own_P, 1.0)
    assert not told
    for own_P in (late, late, late, even, late, late):
        stragglers.judge(own_P, 1.0)
    assert len(told) == 2
    assert all(
        "process 2 keeps the others waiting" in text and "it takes 0.9 s, and the others 0.1" in text for text in told
    )


def test_what_is_little_beside_a_step_does_not_matter():
    stragglers = Stragglers([].append)
    for _ in range(3):
        stragglers.judge(np.array([0.0, 0.09]), 1.0)
    assert stragglers._named == -1


def test_each_process_tells_its_mean_of_the_steps_since_the_last():
    stragglers = Stragglers(print)
    for seconds in ((1.0, 3.0), (5.0,)):
        for one in seconds:
            stragglers.count(one)
        np.testing.assert_array_equal(stragglers.gather(), [np.mean(seconds)])


def train_late_in_the_second_process(arguments):
    if arguments[-2:] == ["--process-id", "1"]:
        put = loop.put_batch
        loop.put_batch = lambda *batch: time.sleep(0.4) or put(*batch)
    return train.main(arguments)


def test_the_process_that_sleeps_is_named(tmp_path):
    config = autoencoder_config(tmp_path / "run", steps=8, log_every=2)
    with Processes(write_config(tmp_path, config), 2, command=train_late_in_the_second_process) as run:
        assert run.wait() == [0, 0], run.told()
        assert run.told(0).count("warning: process 1 keeps the others waiting") == 1
        assert "keeps the others waiting" not in run.told(1)
