"""A batch depends on sources, seed and step only: not on workers, processes, or where training started."""

import itertools
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_pipelines.errors import DataError
from data_pipelines.images.augmentation import Augmentation, RandAugment
from data_pipelines.images.batch_decoder import BatchDecoder
from data_pipelines.pipeline import evaluation_batches, train_batches
from data_pipelines.sources.combining import Sources
from data_pipelines.sources.files import Annotations, Folder, LmdbWords
from data_pipelines.sources.records import OUTCOMES, Record

LINES = "set/train_annos/mmocr1.0/train.jsonl"


def tokenize(text):
    codes = [ord(character) for character in text[:8]]
    return np.array(codes + [0] * (8 - len(codes)), np.int32)


def report_worker(text):
    """Tokens that say whether JAX, which grain imports, is kept to the CPU in this process, and GPUs are hidden."""
    jax = sys.modules.get("jax")
    return np.array([jax is None or jax.config.jax_platforms == "cpu", os.environ["CUDA_VISIBLE_DEVICES"] == ""])


class UnpicklableError(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} {two}")


def raise_unpicklable(text):
    raise UnpicklableError("not", "picklable")


class Counting:
    """``size`` records without files; record i is an image that holds the number i."""

    def __init__(self, size, offset=0):
        self.size, self.offset = size, offset

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        image = np.full((4, 8, 3), 0, np.uint8)
        image[:, :, :] = (index + self.offset) % 251
        return Record(image, str(index))

    def text(self, index):
        return str(index)

    def name(self, index):
        return f"number {index}"


DECODER = BatchDecoder(8, 32, tokenize=tokenize, augmentation=Augmentation(0.8))
SMALL = BatchDecoder(2, 2)


@pytest.fixture
def sources(dataset, make_lmdb):
    specs = [Annotations(LINES), LmdbWords(make_lmdb("words", 25, labelled=True))]
    return Sources.open(specs, dataset)


def take(batches, count):
    with batches:
        return list(itertools.islice(batches, count))


def assert_equal_batches(one, other):
    assert len(one) == len(other)
    for left, right in zip(one, other, strict=True):
        assert left.keys() == right.keys()
        for name in left:
            assert left[name].dtype == right[name].dtype
            np.testing.assert_array_equal(left[name], right[name], err_msg=name)


def joined(parts):
    return [
        {name: np.concatenate([part[name] for part in step]) for name in step[0]} for step in zip(*parts, strict=True)
    ]


def indices(batches):
    return np.concatenate([batch["index"] for batch in batches])


def test_batches_are_as_documented(sources, words):
    (batch,) = take(train_batches(sources, DECODER, batch_size=6, seed=0), 1)
    assert {name: (value.shape, value.dtype) for name, value in batch.items()} == {
        "image": ((6, 8, 32, 3), np.uint8),
        "valid": ((6,), bool),
        "outcome": ((6,), np.uint8),
        "index": ((6,), np.int64),
        "tokens": ((6, 8), np.int32),
    }
    assert batch["valid"].all()
    for row, index in enumerate(batch["index"]):
        np.testing.assert_array_equal(batch["tokens"][row], tokenize(sources.text(int(index))))


def test_any_number_of_workers_gives_the_same_batches(sources):
    runs = [take(train_batches(sources, DECODER, batch_size=6, seed=1, num_workers=n), 14) for n in (0, 1, 2)]
    assert_equal_batches(runs[0], runs[1])
    assert_equal_batches(runs[0], runs[2])
    assert all(type(value) is np.ndarray for run in runs for batch in run for value in batch.values())


def test_evaluation_workers_give_the_same_batches_and_leave_accelerators_alone(sources):
    decoder = BatchDecoder(8, 32, tokenize=report_worker)
    plain = take(evaluation_batches(sources, DECODER, batch_size=10), 99)
    parallel = take(evaluation_batches(sources, decoder, batch_size=10, num_workers=1), 99)
    for name in ("image", "valid", "index"):
        for left, right in zip(plain, parallel, strict=True):
            np.testing.assert_array_equal(left[name], right[name])
    np.testing.assert_array_equal(np.concatenate([batch["tokens"] for batch in parallel]), [[1, 1]] * 40)


@pytest.mark.parametrize("weights", [None, [1.0, 3.0]])
def test_parts_of_all_processes_are_the_batch(sources, weights):
    sources = Sources(sources.sources, weights)
    whole = take(train_batches(sources, DECODER, batch_size=12, seed=2), 7)
    for count in (2, 4):
        parts = [
            take(train_batches(sources, DECODER, batch_size=12, seed=2, process_index=p, process_count=count), 7)
            for p in range(count)
        ]
        assert_equal_batches(joined(parts), whole)


def test_resuming_at_a_step_continues_the_stream(sources):
    whole = take(train_batches(sources, DECODER, batch_size=6, seed=3), 15)
    for step in (1, 7, 11):
        assert_equal_batches(
            take(train_batches(sources, DECODER, batch_size=6, seed=3, start_step=step), 15 - step), whole[step:]
        )
    one = take(train_batches(sources, DECODER, batch_size=6, seed=3, start_step=9, process_index=1, process_count=2), 3)
    np.testing.assert_array_equal(indices(one).reshape(3, 3), indices(whole[9:12]).reshape(3, 6)[:, 3:])


def test_every_epoch_holds_every_record_once_in_its_own_order(sources):
    orders = {
        seed: indices(take(train_batches(sources, SMALL, batch_size=5, seed=seed), 37)).reshape(5, 37)
        for seed in (0, 1)
    }
    for order in (*orders[0], *orders[1]):
        assert sorted(order) == list(range(37))
    # No epoch of either seed has the order of another.
    assert len({tuple(order) for order in (*orders[0], *orders[1])}) == 10


def test_weights_set_the_shares_in_every_batch():
    sources = Sources([Counting(1000), Counting(10), Counting(3000)], [0.5, 0.3, 0.2])
    batches = take(train_batches(sources, SMALL, batch_size=20, seed=0), 50)
    for batch in batches:
        counts = np.bincount([sources.locate(int(index))[0] for index in batch["index"]], minlength=3)
        assert np.abs(counts - (10, 6, 4)).max() <= 1
    first = [index for index in indices(batches) if index < 1000]
    assert len(set(first)) == len(first)
    tiny = [index for index in indices(batches) if 1000 <= index < 1010]
    for start in range(0, len(tiny) - 10, 10):
        assert len(set(tiny[start : start + 10])) == 10


def test_unweighted_sources_share_the_rest_by_size():
    sources = Sources([Counting(1000), Counting(100), Counting(300)], [0.6, None, None])
    batches = take(train_batches(sources, SMALL, batch_size=50, seed=0), 20)
    counts = np.bincount([sources.locate(int(index))[0] for index in indices(batches)], minlength=3)
    np.testing.assert_allclose(counts / 1000, [0.6, 0.1, 0.3], atol=0.01)


def test_huge_sources_cost_nothing_to_start():
    sources = Sources([Counting(14_000_000), Counting(10**9)])
    start = time.monotonic()
    batches = take(train_batches(sources, SMALL, batch_size=100, seed=0, start_step=3_000_000), 10)
    assert time.monotonic() - start < 5
    assert len(set(indices(batches).tolist())) == 1000


def test_without_records_there_is_no_training():
    with pytest.raises(DataError, match="no records"):
        train_batches(Sources([Counting(0)]), SMALL, batch_size=10, seed=0)


def test_evaluation_reads_everything_once_in_order_and_fills_up(sources):
    batches = take(evaluation_batches(sources, DECODER, batch_size=10), 99)
    assert [len(batch["index"]) for batch in batches] == [10] * 4
    np.testing.assert_array_equal(indices(batches), [*range(37), -1, -1, -1])
    np.testing.assert_array_equal(batches[-1]["valid"], [True] * 7 + [False] * 3)
    assert not batches[-1]["image"][7:].any()
    np.testing.assert_array_equal(batches[-1]["tokens"][7:], 0)
    plain = BatchDecoder(8, 32, tokenize=tokenize)
    assert_equal_batches(take(evaluation_batches(sources, plain, batch_size=10), 99), batches)
    parts = [
        take(evaluation_batches(sources, DECODER, batch_size=10, process_index=p, process_count=5), 99)
        for p in range(5)
    ]
    assert_equal_batches(joined(parts), batches)


def test_an_image_that_cannot_be_decoded_is_masked(dataset, words):
    for number, data in ((2, b""), (5, b"damaged" * 20)):
        (dataset / f"set/full_images/made/{number:02d}.jpg").write_bytes(data)
    source = Annotations(LINES).open(dataset)
    batches = take(evaluation_batches(source, DECODER, batch_size=6), 99)
    np.testing.assert_array_equal(indices(batches), range(12))
    valid = np.concatenate([batch["valid"] for batch in batches])
    np.testing.assert_array_equal(np.flatnonzero(~valid), [2, 5])
    assert not batches[0]["image"][2].any()
    np.testing.assert_array_equal(batches[0]["tokens"][2], tokenize(words[2]))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_missing_record_is_masked_and_told_from_a_damaged_one(sources, dataset, workers):
    (dataset / "set/full_images/made/05.jpg").unlink()
    (dataset / "set/full_images/made/06.jpg").write_bytes(b"")
    (dataset / "set/full_images/made/07.jpg").unlink()
    (dataset / "set/full_images/made/07.jpg").mkdir()
    batches = take(evaluation_batches(sources, DECODER, batch_size=10, num_workers=workers), 99)
    valid, outcome = (np.concatenate([batch[name] for batch in batches]) for name in ("valid", "outcome"))
    np.testing.assert_array_equal(np.flatnonzero(outcome), [5, 6, 7])
    assert outcome[5:8].tolist() == [OUTCOMES.index(name) for name in ("missing", "unreadable", "unreadable")]
    np.testing.assert_array_equal(np.flatnonzero(~valid), [5, 6, 7, 37, 38, 39])
    for batch in take(train_batches(sources, DECODER, batch_size=5, seed=0, num_workers=workers), 20):
        assert not batch["image"][~batch["valid"]].any()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_source_that_is_gone_is_the_same_error_from_anywhere(sources, tmp_path, workers):
    sources.sources = (*sources.sources[:1], replace(sources.sources[1], path=str(tmp_path / "gone")))
    batches = train_batches(sources, DECODER, batch_size=5, seed=0, num_workers=workers)
    with pytest.raises(DataError, match=r"gone: cannot be opened as an LMDB") as error:
        take(batches, 20)
    assert "\n" not in str(error.value)
    assert list(batches) == []


def test_an_error_that_cannot_be_pickled_becomes_one_that_can(sources):
    """A worker could not send it, and the main process would wait for it forever."""
    decoder = BatchDecoder(8, 32, tokenize=raise_unpicklable)
    with (
        pytest.raises(RuntimeError, match="UnpicklableError: not picklable"),
        evaluation_batches(sources, decoder, batch_size=5) as batches,
    ):
        next(batches)


def test_labels_are_required_where_they_are_read(dataset):
    source = Folder("set").open(dataset)
    with pytest.raises(DataError, match="record 0 has no label"):
        take(evaluation_batches(source, DECODER, batch_size=4), 1)


def test_batches_must_divide_among_processes(sources):
    with pytest.raises(ValueError, match="batch size 10 is not a multiple of the 4 processes"):
        train_batches(sources, SMALL, batch_size=10, seed=0, process_count=4)
    with pytest.raises(ValueError, match="process 2 of 2"):
        evaluation_batches(sources, SMALL, batch_size=10, process_index=2, process_count=2)


def test_every_place_in_the_stream_is_augmented_differently():
    record = Record(np.random.default_rng(0).integers(0, 256, (8, 32, 3), np.uint8), None)
    for policy in (Augmentation(1.0), RandAugment(layers=8)):
        decoder = BatchDecoder(8, 32, augmentation=policy)
        batch = decoder([(0, record)] * 50, 50, (7, 100))
        assert len({image.tobytes() for image in batch["image"]}) > 45
        part = decoder([(0, record)] * 10, 10, (7, 120))
        for name in part.keys() - {"index"}:
            np.testing.assert_array_equal(part[name], batch[name][20:30])
        assert (decoder([(0, record)] * 10, 10, (8, 120))["image"] != part["image"]).any()
        assert "operations" not in decoder([(0, record)], 1)


def test_pixels_need_no_decoding():
    image = np.random.default_rng(0).integers(0, 256, (10, 20, 3), np.uint8)
    batch = BatchDecoder(8, 32)([(0, Record(image, None))], 1)
    np.testing.assert_array_equal(batch["image"][0], cv2.resize(image, (32, 8)))


SCRIPT = """
import multiprocessing, sys, time
import jax
from data_pipelines.images.batch_decoder import BatchDecoder
from data_pipelines.pipeline import train_batches
from data_pipelines.sources.combining import Sources
from data_pipelines.sources.files import Folder

if __name__ == "__main__":
    jax.numpy.zeros(3).block_until_ready()
    sources = Sources.open([Folder("set")], sys.argv[1])
    batches = train_batches(sources, BatchDecoder(), batch_size=4, seed=0, num_workers=1)
    next(batches)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    if sys.argv[2] == "wait":
        time.sleep(60)
"""


@pytest.mark.parametrize("how", ["wait", "leave"])
def test_workers_go_with_a_process_that_ends_without_closing_them(dataset, tmp_path, how):
    """Killed, or at its end with the iterator still open: workers go, quietly. JAX runs in the parent."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(script), str(dataset), how]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as parent:
        workers = [int(word) for word in parent.stdout.readline().split()]
        assert len(workers) == 1
        if how == "wait":
            parent.send_signal(signal.SIGKILL)
        errors = parent.communicate(timeout=60)[1]
    if how == "leave":
        assert (parent.returncode, errors) == (0, "")
    deadline = time.monotonic() + 10
    while Path(f"/proc/{workers[0]}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(f"/proc/{workers[0]}").exists()
