"""Batches: they never mix up answers, fill as they can, and forget what nobody waits for."""

import random
import threading
from concurrent.futures import CancelledError, wait
from types import SimpleNamespace

import numpy as np
import pytest

from maerec_jax.reading.recognizer import Prepared
from maerec_jax.reading.word import Word
from maerec_jax.serving.batching import Batcher
from maerec_jax.serving.metrics import Metrics

SHAPES = ((2, 4), (4, 4), (1, 8))


class Echo:
    """Reads in an image what its first pixel says; keeps the batches."""

    batch_sizes = (1, 4, 16)

    def __init__(self, shapes=SHAPES):
        self.handling = SimpleNamespace(shapes=shapes, lexicon=None, prepare=lambda pixels, shape: (pixels, shape[1]))
        self.gate, self.entered, self.batches, self.fail = threading.Event(), threading.Event(), [], False
        self.gate.set()

    def read_prepared(self, images):
        self.entered.set()
        assert self.gate.wait(60)
        self.batches.append(images)
        if self.fail:
            raise RuntimeError("out of memory")
        return [Word(text_of(image), 1.0, ()) for image in images]


def text_of(image):
    return str(image.ways[0].reshape(-1, 3)[0].tolist())


def image_of(number, shape=SHAPES[0], ways=1):
    pixels = np.zeros((*shape, 3), np.uint8)
    pixels[0, 0] = number % 256, number // 256 % 256, number // 65536
    return Prepared([pixels] * ways, (pixels.shape[1],) * ways, tuple(range(ways)), pixels.shape[:2])


@pytest.fixture
def echo():
    return Echo()


@pytest.fixture
def batcher(echo):
    made = Batcher(echo, 0.001, Metrics(echo.batch_sizes))
    made.start()
    made.warm.result(60)
    # Per image, larger batches are faster.
    made._seconds = {(shape, size): 1 + size / 16 for shape in SHAPES for size in echo.batch_sizes}
    echo.batches.clear()
    echo.entered.clear()
    yield made
    echo.gate.set()
    made.close()


def hold(echo, batcher):
    """Let the thread be busy with one image; returns its future."""
    echo.gate.clear()
    first = batcher.submit(image_of(0))
    assert echo.entered.wait(60)
    return first


def test_everybody_gets_the_answer_to_what_was_asked(echo, batcher):
    """Many threads, several sizes of images, a third of them given up."""
    wrong, kept = [], []

    def ask(seed):
        draw = random.Random(seed)
        for turn in range(100):
            number = seed * 1000 + turn
            image = image_of(number, draw.choice(SHAPES), draw.choice((1, 3)))
            future = batcher.submit(image)
            if draw.random() < 0.3 and future.cancel():
                continue
            kept.append(number)
            if draw.random() < 0.5:
                wrong.extend([number] if future.result(60).text != text_of(image) else [])
            else:
                future.add_done_callback(
                    lambda done, image=image, number=number: (
                        wrong.append(number) if done.result().text != text_of(image) else None
                    )
                )

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    batcher.close()
    assert not wrong
    assert sum(map(len, echo.batches)) == len(kept)
    for batch in echo.batches:
        assert len({tuple(way.shape for way in image.ways) for image in batch}) == 1
        assert len(batch) * len(batch[0].ways) <= 16


def test_images_of_several_views_share_batches_by_size(echo, batcher):
    images = [image_of(number, SHAPES[number % 3]) for number in range(30)]
    images = [
        Prepared([np.stack([way, way]) for way in image.ways], image.widths, image.turns, image.size)
        for image in images
    ]
    futures = [batcher.submit(image) for image in images]
    assert [future.result(60).text for future in futures] == [text_of(image) for image in images]
    for batch in echo.batches:
        assert len({image.ways[0].shape for image in batch}) == 1


def test_what_gathers_meanwhile_shares_batches_in_order(echo, batcher):
    futures = [hold(echo, batcher)] + [batcher.submit(image_of(i)) for i in range(1, 41)]
    assert batcher.waiting() == 40
    echo.gate.set()
    wait(futures, 60)
    assert [len(batch) for batch in echo.batches] == [1, 16, 16, 8]
    assert [text_of(image) for batch in echo.batches for image in batch] == [f.result().text for f in futures]


@pytest.mark.parametrize(
    ("seconds", "batches"),
    [
        ({1: 1, 4: 4, 16: 16}, [4, 1]),  # each row costs the same: filling up is a waste
        ({1: 1, 4: 1, 16: 1}, [5]),  # each batch costs the same
        ({1: 1, 4: 2, 16: 3}, [4, 1]),
        ({1: 1, 4: 2, 16: 2.4}, [5]),
    ],
)
def test_batches_have_the_size_that_is_fastest(echo, batcher, seconds, batches):
    batcher._seconds = {(shape, size): seconds[size] for shape in SHAPES for size in seconds}
    futures = [hold(echo, batcher)] + [batcher.submit(image_of(i)) for i in range(1, 6)]
    echo.gate.set()
    wait(futures, 60)
    assert [len(batch) for batch in echo.batches] == [1, *batches]


def test_no_size_of_images_waits_for_ever(echo, batcher):
    """Sizes take turns by their oldest image, however full the batches of another are."""
    futures = [hold(echo, batcher)]
    futures += [batcher.submit(image_of(i, SHAPES[0])) for i in range(16)]
    futures += [batcher.submit(image_of(99, SHAPES[1]))]
    futures += [batcher.submit(image_of(i, SHAPES[0])) for i in range(64)]
    threading.Event().wait(0.005)  # longer than the delay
    echo.gate.set()
    wait(futures, 60)
    places = [i for i, batch in enumerate(echo.batches) if text_of(batch[0]) == text_of(image_of(99))]
    assert places == [2]


def test_what_is_cancelled_is_forgotten_at_once(echo, batcher):
    first = hold(echo, batcher)
    others = [batcher.submit(image_of(i)) for i in range(1, 9)]
    for future in others[::2]:
        assert future.cancel()
    assert batcher.waiting() == 4
    echo.gate.set()
    assert [f.result(60).text for f in [first, *others[1::2]]] == [text_of(image_of(i)) for i in (0, 2, 4, 6, 8)]
    with pytest.raises(CancelledError):
        others[0].result()
    assert batcher._metrics.dropped._value.get() == 4


def test_a_failure_reaches_those_who_wait_and_nobody_else(echo, batcher):
    echo.fail = True
    with pytest.raises(RuntimeError, match="out of memory"):
        batcher.submit(image_of(1)).result(60)
    echo.fail = False
    assert batcher.submit(image_of(2)).result(60).text == text_of(image_of(2))


def test_closing_reads_what_waits(echo, batcher):
    futures = [hold(echo, batcher)] + [batcher.submit(image_of(i)) for i in range(1, 30)]
    closing = threading.Thread(target=batcher.close)
    closing.start()
    echo.gate.set()
    closing.join(60)
    assert all(future.done() for future in futures)
    with pytest.raises(RuntimeError, match="closed"):
        batcher.submit(image_of(1))
    assert not batcher.alive


def test_all_shapes_are_compiled_first_and_failures_of_it_are_told():
    echo = Echo()
    batcher = Batcher(echo, 0.0, Metrics((1,)))
    batcher.start()
    batcher.warm.result(60)
    sizes = {(image.ways[0].shape[:2], len(batch)) for batch in echo.batches for image in batch}
    assert sizes == {(shape, size) for shape in SHAPES for size in echo.batch_sizes}
    batcher.close()
    echo.fail = True
    batcher = Batcher(echo, 0.0, Metrics((1,)))
    batcher.start()
    with pytest.raises(RuntimeError, match="out of memory"):
        batcher.warm.result(60)
    batcher.close()
