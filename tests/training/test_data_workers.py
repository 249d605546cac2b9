"""Workers that tune themselves: as many as are needed, and the same batches."""

import os

import numpy as np
import pytest

from data_pipelines.pipeline import train_batches
from data_pipelines.sources.combining import Sources
from data_pipelines.tracing import begin_events, end_events, events_folder
from maerec_jax.training import data_workers
from maerec_jax.training.data import make_decoder
from maerec_jax.training.data_workers import TunedBatches
from tests.training.conftest import recogniser_config, words


class Simulated:
    """Batches that take ``reading`` seconds of one reader; the clock runs on while they are waited for."""

    def __init__(self, reading, most=16):
        self.now, self.reading, self.opened, self.told = 0.0, reading, [], []
        self.batches = TunedBatches(self.open, 5, self.told.append, most, lambda: self.now)

    def open(self, step, workers):
        self.opened.append((step, workers))
        self.each, self.next = self.reading / max(workers, 1), step
        return self

    def __next__(self):
        # Readers go on while the devices compute.
        self.now += max(0.0, self.each - self.computing)
        self.next += 1
        return self.next - 1

    def close(self):
        pass

    def run(self, seconds, computing=1.0):
        """Steps that compute for a second, each on the next batch."""
        self.computing = computing
        numbers = []
        while self.now < seconds:
            numbers.append(next(self.batches))
            self.now += computing
        return numbers


@pytest.mark.parametrize(("reading", "most", "workers"), [(0.9, 16, 0), (3.0, 16, 4), (7.4, 16, 9), (7.5, 2, 2)])
def test_there_are_as_many_as_keep_steps_from_waiting(reading, most, workers):
    """And no batch comes twice, or not at all."""
    run = Simulated(reading, most)
    assert run.run(300.0) == list(range(5, run.next))
    assert run.batches.workers == run.opened[-1][1] == workers
    assert "it stays at that" in run.told[-1]
    assert len(run.told) == len(run.opened)


def test_what_changes_later_changes_nothing():
    run = Simulated(0.9)
    run.run(100.0)
    run.each = 5.0
    run.run(300.0)
    assert run.opened == [(5, 0)]


def test_batches_are_those_of_any_other_number(tmp_path, monkeypatch):
    """With real worker processes, which a thread gives way to in the middle of the run.

    And traces tell what they do: for some batches, more than were read before.
    """
    monkeypatch.setattr(data_workers, "_WINDOW", 0.0)
    monkeypatch.setattr(data_workers, "_WAIT", 0.0)
    sources, decoder = Sources((words(64).open(),)), make_decoder(recogniser_config(tmp_path))
    told = []

    def open_batches(step, workers):
        return train_batches(sources, decoder, batch_size=4, seed=3, start_step=step, num_workers=workers)

    number = data_workers._AHEAD + data_workers._FEWEST + 3
    with TunedBatches(open_batches, 2, told.append, 1) as tuned, open_batches(2, 0) as plain:
        for _ in range(number):
            one, other = next(tuned), next(plain)
            for name, array in one.items():
                np.testing.assert_array_equal(array, other[name])
        assert tuned.workers == 1
        begin_events()
        for _ in range(10):
            next(tuned)
        ((pid, events),) = end_events().items()
        next(tuned)
    assert "now 1" in told[0]
    assert pid != os.getpid()
    assert {event.name for event in events} == {"read", "decode", "hand over"}
    moments = [moment for event in events for moment in event[:2]]
    assert moments == sorted(moments)
    assert not events_folder().exists()
