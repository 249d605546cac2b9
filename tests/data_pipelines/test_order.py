"""The order of the stream: a permutation each epoch, shares kept everywhere, and no trace of what came before."""

import numpy as np
import pytest

from data_pipelines.order import Stream, share_out, shuffled


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8, 9, 100, 1000, 4096, 4097])
def test_every_epoch_is_a_permutation_and_another_one(size):
    epochs = shuffled(np.arange(3 * size), size, (0,)).reshape(3, size)
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(size))
    if size > 8:
        for other in (epochs[1], epochs[2], shuffled(np.arange(size), size, (1,)), np.arange(size)):
            assert (epochs[0] != other).mean() > 0.5


def test_places_are_looked_up_one_by_one_as_together_and_far_ahead():
    places = np.random.default_rng(0).integers(0, 10**15, 500)
    together = shuffled(places, 10_000_019, (3, 4))
    assert together.tolist() == [int(shuffled(np.array([place]), 10_000_019, (3, 4))[0]) for place in places]
    assert together.min() >= 0
    assert together.max() < 10_000_019


def test_orders_look_random():
    size = 20_000
    order = shuffled(np.arange(size), size, (7,))
    assert abs(np.corrcoef(order, np.arange(size))[0, 1]) < 0.03
    assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 0.03
    # Of a random permutation one element stays in its place, on average, and one pair of neighbours stays together.
    assert (order == np.arange(size)).sum() < 8
    assert (np.diff(order) == 1).sum() < 8
    # Halves of the records come mixed: as often as not one follows another of its half.
    half = order < size // 2
    assert abs((half[1:] == half[:-1]).mean() - 0.5) < 0.02
    # The first places of many seeds are spread evenly.
    firsts = np.concatenate([shuffled(np.arange(4), 10, (seed,)) for seed in range(2000)])
    np.testing.assert_allclose(np.bincount(firsts, minlength=10), 800, atol=150)
    seconds = [tuple(shuffled(np.arange(3), 3, (seed,)).tolist()) for seed in range(3000)]
    counts = [seconds.count(order) for order in sorted(set(seconds))]
    assert len(counts) == 6
    np.testing.assert_allclose(counts, 500, atol=110)


@pytest.mark.parametrize("shares", [(1.0,), (0.5, 0.5), (0.9, 0.1), (0.2,) * 5, (0.123, 0.456, 0.421), (1 / 3,) * 3])
def test_parts_have_their_share_of_every_stretch_and_each_of_their_places_once(shares):
    numbers, inner = share_out(np.arange(10_000), shares)
    for number, share in enumerate(shares):
        places = np.flatnonzero(numbers == number)
        np.testing.assert_array_equal(inner[places], np.arange(len(places)))
        counts = np.cumsum(numbers == number)
        assert np.abs(counts - share * np.arange(1, 10_001)).max() <= len(shares)
    far = np.arange(10**12, 10**12 + 1000)
    later, _ = share_out(far, shares)
    np.testing.assert_allclose(np.bincount(later, minlength=len(shares)) / 1000, shares, atol=0.01)


def test_a_stream_takes_its_records_from_its_parts():
    parts = (range(100, 110), np.array([3, 5, 7], np.uint32))
    stream = Stream(parts, (0.25, 0.75), (0, 1))
    records = stream.at(np.arange(40))
    assert sorted(records[records >= 100].tolist()) == list(range(100, 110))
    assert np.bincount(records[records < 100]).tolist() == [0, 0, 0, 10, 0, 10, 0, 10]
    np.testing.assert_array_equal(stream.at(np.arange(17, 23)), records[17:23])
    assert (Stream(parts, (0.25, 0.75), (0, 2)).at(np.arange(40)) != records).any()
