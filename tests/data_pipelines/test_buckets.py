"""Buckets: which records share batches, that each comes once, and that workers and processes change nothing."""

import io
import itertools
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import ExifTags, Image

from data_pipelines.errors import DataError, MissingError
from data_pipelines.images import buckets as buckets_module
from data_pipelines.images.batch_decoder import BatchDecoder
from data_pipelines.images.buckets import (
    WORD_SHAPES,
    Buckets,
    check_shapes,
    image_sizes,
    is_vertical,
    nearest_shape,
    turned_sizes,
)
from data_pipelines.images.decoding import decode_image, image_size
from data_pipelines.pipeline import evaluation_batches, train_batches
from data_pipelines.rendering import RenderedWords
from data_pipelines.sources.combining import Sources, Subset
from data_pipelines.sources.files import Annotations, Folder, LmdbWords
from data_pipelines.sources.records import Record
from tests.data_pipelines.planting import write_lines

SHAPES = ((16, 16), (8, 32), (4, 64))


@dataclass(frozen=True)
class Shaped:
    """Records without files: record i has ``shapes[i]`` (None: not there) and a label of ``lengths[i]`` characters."""

    shapes: tuple
    lengths: tuple = ()

    def __len__(self):
        return len(self.shapes)

    def __getitem__(self, index):
        if self.shapes[index] is None:
            raise MissingError(f"record {index} is missing")
        image = np.full((*self.shapes[index], 3), index % 251, np.uint8)
        image[0] = 255 - index % 251
        return Record(image, self.text(index))

    def text(self, index):
        return "x" * (self.lengths[index] if self.lengths else 3)

    def name(self, index):
        return f"record {index}"


def mixed(count, seed=0):
    heights, widths = (np.random.default_rng(seed).uniform(4, (60, 240), (count, 2)).astype(int)).T.tolist()
    return Shaped(tuple(zip(heights, widths, strict=True)))


def take(batches, count):
    with batches:
        return list(itertools.islice(batches, count))


def assert_equal(one, other):
    for left, right in zip(one, other, strict=True):
        assert left.keys() == right.keys()
        for name in left:
            np.testing.assert_array_equal(left[name], right[name], err_msg=name)


def test_a_word_goes_to_the_nearest_aspect_ratio():
    assert [nearest_shape(size, SHAPES) for size in ((10, 10), (90, 30), (10, 21), (10, 40), (10, 79), (5, 90))] == [
        (16, 16),
        (16, 16),
        (8, 32),
        (8, 32),
        (8, 32),
        (4, 64),
    ]
    sizes = np.array([(30, 30), (30, 31), (0, 0), (20, 77)])
    buckets = Buckets.assign(sizes, WORD_SHAPES)
    for size, number in zip(sizes[[0, 1, 3]], buckets.numbers[[0, 1, 3]], strict=True):
        ratios = [abs(np.log(w / h * size[0] / size[1])) for h, w in WORD_SHAPES]
        assert ratios[number] == min(ratios)
    assert {height * width // 16 for height, width in WORD_SHAPES} <= set(range(240, 289))


def test_sizes_come_from_headers_and_zero_marks_what_cannot_be_read(dataset, make_lmdb):
    lmdb_source = LmdbWords(make_lmdb("words", 7, missing=(3,))).open(dataset)
    folder = Folder("set").open(dataset)
    (dataset / "set/full_images/made/02.jpg").write_bytes(b"no image")
    sizes = image_sizes(Sources([folder, Subset(lmdb_source, np.array([5, 2, 0]))]))
    expected = [(20 + n, 50 + 3 * n) for n in range(12)]
    expected[2] = (0, 0)
    assert sizes.tolist() == [list(size) for size in [*expected, (26, 68), (0, 0), (21, 53)]]


def test_sizes_that_a_source_knows_are_taken_and_nothing_is_read():
    class Knowing(Shaped):
        sizes = np.array([(4, 8), (9, 3)], np.uint16)

        def __getitem__(self, index):
            raise AssertionError("read")

    knowing = Knowing((None, None))
    assert image_sizes(Sources([Subset(knowing, np.array([1])), knowing])).tolist() == [[9, 3], [4, 8], [9, 3]]


@pytest.fixture
def read_sizes(monkeypatch):
    """Makes four records many; tells of which spans of records the images were looked at."""
    read, look = [], buckets_module._read_sizes
    monkeypatch.setattr(buckets_module, "_FEW", 3)
    monkeypatch.setattr(buckets_module, "in_chunks", lambda task, count, _: [task(0, count)])
    monkeypatch.setattr(buckets_module, "_read_sizes", lambda source, *span: read.append(span) or look(source, *span))
    return read


@pytest.mark.parametrize("kind", ["list", "folder"])
def test_sizes_of_many_images_are_kept_beside_them_until_others_are_listed(dataset, read_sizes, kind):
    def sizes(count):
        folder = dataset / "some"
        folder.mkdir(exist_ok=True)
        for number in range(count):
            Image.new("RGB", (50 + 3 * number, 20 + number)).save(folder / f"{number}.png")
        (folder / "1.png").write_bytes(b"")
        for number in range(count, 5):
            (folder / f"{number}.png").unlink(missing_ok=True)
        write_lines(dataset / "some.jsonl", [(f"some/{number}.png", "a") for number in range(count)])
        return image_sizes((Folder("some") if kind == "folder" else Annotations("some.jsonl")).open(dataset))

    expected = [[20 + number, 50 + 3 * number] if number != 1 else [0, 0] for number in range(5)]
    for count, spans in ((5, [(0, 5)]), (5, [(1, 2)]), (4, [(0, 4)])):  # what could not be read is tried again
        read_sizes.clear()
        assert sizes(count).tolist() == expected[:count]
        assert read_sizes == spans
    (dataset / f"some{'.jsonl' * (kind == 'list')}.sizes.npz").write_bytes(b"damaged")
    assert sizes(4).tolist() == expected[:4]
    if kind == "list":
        source = Annotations("some.jsonl").open(dataset)
        read_sizes.clear()
        assert image_sizes(Subset(source, np.array([3, 0, 2]))).tolist() == [expected[3], expected[0], expected[2]]
        assert read_sizes == [(1, 2)]


def test_sizes_of_an_lmdb_are_kept_beside_it(dataset, make_lmdb, read_sizes):
    source = LmdbWords(make_lmdb("words", 5)).open(dataset)
    first, second = (image_sizes(source).tolist() for _ in range(2))
    assert first == second == [[20 + number, 50 + 3 * number] for number in range(1, 6)]
    assert read_sizes == [(0, 5)]
    assert (dataset / "words.sizes.npz").is_file()


def test_words_that_are_not_drawn_yet_have_no_sizes():
    with pytest.raises(DataError, match="write them to files"):
        image_sizes(RenderedWords().open("."))
    assert image_sizes(RenderedWords(size=3).open(".")).min() > 0


def test_vertical_words_are_turned_but_not_single_characters():
    assert is_vertical((20, 10), None)
    assert is_vertical((20, 10), "ab")
    assert not is_vertical((20, 10), "a")
    assert not is_vertical((19, 10), "ab")
    source = Shaped(((40, 10), (40, 10), (12, 10), (10, 40), None), (3, 1, 3, 3, 3))
    sizes = turned_sizes(source, image_sizes(source))
    assert sizes.tolist() == [[10, 40], [40, 10], [12, 10], [10, 40], [0, 0]]
    decoder = BatchDecoder(40, 40, turn_vertical=True)
    records = [(i, source[i]) for i in range(4)]
    batch = decoder(records, 4, (0, 0))
    marked = [255 - i for i in range(4)]  # the first row of each image: on the left after a turn against the clock
    turned = [bool((image[:, 0] == mark).all()) for image, mark in zip(batch["image"], marked, strict=True)]
    assert turned == [True, False, False, False]
    assert "size" not in batch


def test_reading_turns_every_image_and_tells_the_size_that_it_has_in_its_file():
    source = Shaped(((10, 40), (40, 10)))
    records = [(i, source[i]) for i in range(2)]
    for turns, line in ((0, np.s_[0, :]), (1, np.s_[:, 0]), (3, np.s_[:, -1])):
        batch = BatchDecoder(40, 40, turns=turns)(records, 3)
        assert batch["size"].tolist() == [[10, 40], [40, 10], [0, 0]]
        for i in range(2):
            assert (batch["image"][i][line] == 255 - i).all()


def test_every_record_comes_once_an_epoch_in_a_batch_of_its_shape():
    source = mixed(240)
    buckets = Buckets.assign(image_sizes(source), SHAPES)
    counts = np.bincount(buckets.numbers)
    batches = take(train_batches(Sources([source]), BatchDecoder(), batch_size=8, seed=0, buckets=buckets), 60)
    seen = {shape: [] for shape in SHAPES}
    for batch in batches:
        shape = batch["image"].shape[1:3]
        seen[shape] += batch["index"].tolist()
        assert {buckets.shapes[buckets.numbers[i]] for i in batch["index"]} == {shape}
    for number, shape in enumerate(SHAPES):
        whole = len(seen[shape]) // counts[number] * counts[number]
        repeats = np.bincount(seen[shape][:whole], minlength=240)[buckets.numbers == number]
        assert (repeats == whole // counts[number]).all()
        # Two epochs' worth of steps: each bucket has its share of them.
        assert abs(len(seen[shape]) - 2 * counts[number]) <= 16


def test_workers_processes_and_resuming_change_nothing():
    source = mixed(120)
    buckets = Buckets.assign(image_sizes(source), SHAPES)

    def run(count=40, **settings):
        sources = Sources([source, mixed(60, seed=1)], [0.7, 0.3])
        both = Buckets(
            SHAPES, np.concatenate([buckets.numbers, Buckets.assign(image_sizes(mixed(60, 1)), SHAPES).numbers])
        )
        return take(train_batches(sources, BatchDecoder(), batch_size=8, seed=3, buckets=both, **settings), count)

    whole = run()
    assert len({batch["image"].shape for batch in whole}) == 3
    assert_equal(whole, run(num_workers=2))
    assert_equal(whole[31:], run(9, start_step=31))
    parts = [run(process_index=p, process_count=4) for p in range(4)]
    joined = [{name: np.concatenate([p[name] for p in step]) for name in step[0]} for step in zip(*parts, strict=True)]
    assert_equal(whole, joined)
    share = np.mean([index < 120 for batch in run(300) for index in batch["index"]])
    assert abs(share - 0.7) < 0.02


def test_evaluation_reads_each_record_once_in_its_shape():
    source = mixed(50)
    buckets = Buckets.assign(image_sizes(source), SHAPES)
    whole = take(evaluation_batches(source, BatchDecoder(), batch_size=8, buckets=buckets), 1000)
    assert sorted(i for batch in whole for i in batch["index"].tolist() if i >= 0) == list(range(50))
    for batch in whole:
        shape = batch["image"].shape[1:3]
        assert {buckets.shapes[buckets.numbers[i]] for i in batch["index"] if i >= 0} == {shape}
    parts = [
        take(
            evaluation_batches(source, BatchDecoder(), batch_size=8, buckets=buckets, process_index=p, process_count=2),
            99,
        )
        for p in range(2)
    ]
    joined = [{name: np.concatenate([p[name] for p in step]) for name in step[0]} for step in zip(*parts, strict=True)]
    assert_equal(whole, joined)


def test_shapes_that_a_model_cannot_take_are_refused():
    check_shapes(WORD_SHAPES, (4, 4))
    with pytest.raises(ValueError, match="bucket 40 x 112 is not a multiple"):
        check_shapes(WORD_SHAPES, (16, 16))
    with pytest.raises(ValueError, match="same aspect ratio"):
        check_shapes(((32, 64), (16, 32)), (4, 4))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_sizes_are_those_after_the_turn_that_exif_asks_for(orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    buffer = io.BytesIO()
    Image.new("RGB", (40, 10)).save(buffer, "JPEG", exif=exif)
    assert image_size(buffer.getvalue()) == decode_image(buffer.getvalue()).shape[:2]
