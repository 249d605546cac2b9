"""Training on damaged data: it goes on, tells what was left out of which source, and stops where it is too much."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import jax
import lmdb
import numpy as np
import pytest

from data_pipelines.errors import DataError, MissingError
from data_pipelines.sources.combining import Sources
from data_pipelines.sources.files import Annotations, Folder, LmdbWords
from data_pipelines.sources.records import OUTCOMES, Record
from data_pipelines.unusable import InvalidImages
from maerec_jax.training import loop
from maerec_jax.training.loop import train
from maerec_jax.training.run_log import METRICS_FILE
from maerec_jax.weights.checkpoint import saved_steps
from tests.training.conftest import autoencoder_config, logged, recogniser_config
from tests.training.processes import FORKS, PATIENCE, free_port


def image(number):
    pixels = np.random.default_rng(number).integers(0, 256, (20, 60, 3), np.uint8)
    return cv2.imencode(".png" if number % 2 else ".jpg", pixels)[1].tobytes()


def damaged(number):
    """Bytes that are no image, of several kinds."""
    whole = image(number)
    return [b"", whole[: len(whole) // 2], b"<html></html>", b"\xff\xd8" + bytes(50), whole[:20]][number % 5]


def write_files(folder, n, broken=(), missing=()):
    (folder / "files").mkdir(parents=True)
    for number in range(n):
        if number not in missing:
            (folder / f"files/{number}.jpg").write_bytes(damaged(number) if number in broken else image(number))
    (folder / "files.tsv").write_text("".join(f"files/{number}.jpg\tword\n" for number in range(n)))
    return Annotations("files.tsv")


def write_lmdb(folder, n, broken=(), missing=()):
    (folder / "words").mkdir(parents=True)
    with lmdb.open(str(folder / "words"), map_size=2**25) as environment, environment.begin(write=True) as writer:
        writer.put(b"num-samples", str(n).encode())
        for number in range(n):
            writer.put(b"label-%09d" % (number + 1), b"word")
            if number not in missing:
                writer.put(b"image-%09d" % (number + 1), damaged(number) if number in broken else image(number))
    return LmdbWords("words")


def config_for(tmp_path, sources, **changes):
    config = recogniser_config(tmp_path / "run", **changes)
    return replace(config, data=replace(config.data, root=str(tmp_path / "data"), train=tuple(sources), validation=()))


def logged_sources(workdir):
    lines = [json.loads(line) for line in (Path(workdir) / METRICS_FILE).read_text().splitlines()]
    return [(line["step"], line["sources"]) for line in lines if line["group"] == "sources"]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_tenth_of_the_records_may_be_damaged_and_is_counted_by_source(tmp_path, capfd, workers):
    """160 records in ten steps: every one is seen once."""
    sources = [
        write_files(tmp_path / "data", 100, broken={3, 10, 25, 31, 77, 99}, missing={50, 61}),
        write_lmdb(tmp_path / "data", 60, broken={0, 14, 28, 52, 55}, missing={7, 30, 41}),
    ]
    whole = image(12)  # a JPEG, of which libjpeg now complains and gives all pixels
    (tmp_path / "data/files/12.jpg").write_bytes(whole[:-2] + b"\0\1\2" + whole[-2:])
    config = config_for(tmp_path, sources, steps=10, log_every=4, validate_every=100)
    train(replace(config, data=replace(config.data, workers=workers)))
    expected = [
        {"source": "data.train.0 (files.tsv)", "used": 92, "missing": 2, "unreadable": 6},
        {"source": "data.train.1 (words)", "used": 52, "missing": 3, "unreadable": 5},
    ]
    lines = logged_sources(tmp_path / "run")
    assert lines[-1] == (10, expected)
    assert [step for step, _ in lines] == [1, 4, 8, 10][-len(lines) :]
    told = capfd.readouterr().err
    assert "not used: 8 of 100 images of data.train.0 (files.tsv) (2 missing, 6 unreadable)" in told
    assert "not used: 8 of 60 images of data.train.1 (words) (3 missing, 5 unreadable)" in told
    named = [line for line in told.splitlines() if line.startswith("masked out: ")]
    assert len(named) == 16
    for reason in ("files/50.jpg: image not found", "image-000000008 is missing", "the file is empty", "web page"):
        assert any(reason in line for line in named)
    for noise in ("libpng", "Corrupt JPEG", "WARN", "ERROR:"):
        assert noise not in told or not workers


def test_a_source_above_the_share_stops_the_run_by_its_name(tmp_path, capsys):
    """It is a twentieth of the images: all together are far below the share."""
    good = write_files(tmp_path / "data", 1000, broken=range(0, 1000, 50))
    bad = replace(write_lmdb(tmp_path / "data", 50, missing=range(4, 49, 2)), weight=0.05)
    config = config_for(tmp_path, [good, bad], batch_size=100, steps=200, validate_every=500, checkpoint_every=500)
    with pytest.raises(DataError) as error:
        train(config)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("data.train.1 (words): 10")
    assert "cannot be used, more than data.max_invalid 10%" in str(error.value)
    ((_, (first, second)),) = logged_sources(tmp_path / "run")[-1:]
    assert 100 <= second["missing"] < 105
    assert 0 < first["unreadable"] < 0.03 * first["used"]
    told = capsys.readouterr().err
    assert "masked out: more of data.train.1 (words), counted as invalid_images" in told
    assert f"not used: {second['missing']} of" in told


def test_a_source_that_is_gone_stops_the_run_at_once(tmp_path):
    sources = [write_files(tmp_path / "data", 100), write_lmdb(tmp_path / "data", 60)]
    (tmp_path / "data/words/data.mdb").write_bytes(b"")
    with pytest.raises(DataError, match="words: cannot be opened as an LMDB"):
        train(config_for(tmp_path, sources, steps=10))


def test_processes_count_together_and_stop_together(tmp_path):
    """Two processes with a device each: both know all counts, though each sees only its own rows."""
    sources = [
        write_files(tmp_path / "data", 100, broken={3, 10, 25, 31, 77, 99}, missing={50, 61}),
        write_lmdb(tmp_path / "data", 60, broken={0, 14, 28, 52, 55}, missing={7, 30, 41}),
    ]
    config = config_for(tmp_path, sources, steps=10, validate_every=100, checkpoint_every=100)
    place, out = ("localhost:" + str(free_port()), 2), tmp_path / "counted"
    processes = [FORKS.Process(target=train_and_count, args=(config, (*place, i), out)) for i in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE)
    assert [process.exitcode for process in processes] == [0, 0]
    assert [json.loads(Path(f"{out}{i}").read_text()) for i in range(2)] == [[[92, 2, 6], [52, 3, 5]]] * 2
    (step, counts) = logged_sources(tmp_path / "run")[-1]
    assert (step, [list(entry.values())[1:] for entry in counts]) == (10, [[92, 2, 6], [52, 3, 5]])


def train_and_count(config, place, out):
    """Train as one of several processes; writes what this one has counted."""
    jax.distributed.initialize(*place)
    counted = []

    class Counting(InvalidImages):
        def count(self, outcomes):
            super().count(outcomes)
            counted.append(self.counts.tolist())

    loop.InvalidImages = Counting
    loop.train(config)
    Path(f"{out}{place[-1]}").write_text(json.dumps(counted[-1]))
    jax.distributed.shutdown()


def write_broken_folder(folder, n):
    write_files(folder, n, broken=range(n))
    (folder / "files.tsv").unlink()
    return Folder("files")


@pytest.mark.parametrize(
    ("make", "write"),
    [
        (recogniser_config, lambda folder: write_files(folder, 20, broken=range(20))),
        (recogniser_config, lambda folder: write_lmdb(folder, 20, missing=range(19), broken=[19])),
        (autoencoder_config, lambda folder: write_broken_folder(folder, 20)),
    ],
)
def test_a_run_none_of_whose_images_can_be_used_ends_with_a_line_and_no_checkpoint(tmp_path, make, write):
    """With checkpoints on the way, and with validation: fewer than a hundred images decide nothing before the end."""
    config = make(tmp_path / "run", batch_size=4, steps=5, validate_every=2, checkpoint_every=1)
    data = replace(config.data, root=str(tmp_path / "data"), train=(write(tmp_path / "data"),))
    with pytest.raises(DataError, match="none of the 20 images could be used, so nothing was learnt"):
        train(replace(config, data=data))
    assert saved_steps(tmp_path / "run") == []
    assert logged(tmp_path / "run") == {}
    assert list(logged(tmp_path / "run", "learning_rate")) == [1, 2, 3, 4, 5]


def test_a_step_without_a_usable_image_has_no_loss(tmp_path):
    source = write_files(tmp_path / "data", 4, broken={2})
    train(config_for(tmp_path, [source], batch_size=1, steps=4))
    assert len(logged(tmp_path / "run")) == len(logged(tmp_path / "run", "gradient_norm")) == 3
    assert len(logged(tmp_path / "run", "learning_rate")) == 4


@pytest.mark.parametrize(
    ("make", "write", "count"),
    [
        (recogniser_config, lambda folder: write_files(folder, 4, broken=range(4)), "words"),
        (autoencoder_config, lambda folder: write_broken_folder(folder, 4), "images"),
    ],
)
def test_a_validation_without_a_usable_image_has_no_score(tmp_path, capsys, make, write, count):
    config = make(tmp_path / "run", steps=2, validate_every=1, keep_last=1)
    data = replace(config.data, root=str(tmp_path / "data"), validation=(write(tmp_path / "data"),))
    train(replace(config, data=data))
    assert "validation: none of its images could be used, so it has no score" in capsys.readouterr().err
    (line, _) = (
        {name: value for name, value in line.items() if name not in ("step", "group", "seconds", "at")}
        for line in map(json.loads, (tmp_path / "run" / METRICS_FILE).read_text().splitlines())
        if line["group"] == "validation"
    )
    assert line == {count: 4.0 if count == "words" else 0.0, "invalid_images": 4.0}
    assert saved_steps(tmp_path / "run") == [2]  # none of them is the best
    assert not list((tmp_path / "run" / "checkpoints").glob("*/metrics/metrics"))


class Numbered:
    """Records without images; those with the given numbers are missing."""

    def __init__(self, size, missing=()):
        self.size, self.missing = size, missing

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        if index in self.missing:
            raise MissingError(f"{index} is not there")
        return Record(b"", None)

    def text(self, index):
        return None

    def name(self, index):
        return f"number {index}"


def counting(limit=0.1):
    sources = Sources([Numbered(10**6), Numbered(10**6)])
    return InvalidImages(sources, lambda text: None, ["big", "small"], limit)


def test_the_share_is_that_of_the_latest_images():
    """A disk that goes late in a run is noticed within some thousand images."""
    invalid = counting()
    for _ in range(10_000):
        invalid.count(np.array([[990, 5, 5], [10, 0, 0]]))
    gone = np.array([[0, 500, 0], [5, 0, 0]])
    invalid.count(gone)
    with pytest.raises(DataError, match=r"big: .* of the latest"):
        invalid.count(gone)
    assert invalid.counts.sum() == 10_000 * 1010 + 2 * 505


def test_nothing_is_decided_by_less_than_a_hundred():
    invalid = counting()
    invalid.count(np.array([[1000, 0, 0], [0, 99, 0]]))
    with pytest.raises(DataError, match="small: 100 of the latest 100 images"):
        invalid.count(np.array([[1000, 0, 0], [0, 0, 1]]))


def test_all_sources_together_have_a_share_too():
    sources = Sources([Numbered(100)] * 30)
    invalid = InvalidImages(sources, lambda text: None, [str(number) for number in range(30)], 0.1)
    with pytest.raises(DataError, match=r"data\.train: 120 of the latest 600"):
        invalid.count(np.array([[16, 4, 0]] * 30))


def test_the_first_of_every_source_are_named_with_their_reasons():
    lines = []
    sources = Sources([Numbered(40, missing=range(40)), Numbered(40)])
    invalid = InvalidImages(sources, lines.append, ["one", "two"])
    index = np.arange(-1, 80)
    outcome = np.where(index < 0, 0, np.where(index < 40, 1, 2)).astype(np.uint8)
    invalid.tell({"index": index, "outcome": outcome})
    assert Counter(line.partition(": ")[2].split()[0] for line in lines) == {"number": 20, "more": 2}
    assert lines[0] == "masked out: number 0: 0 is not there"
    assert lines[-2] == "masked out: number 9: the file is empty"
    np.testing.assert_array_equal(invalid.outcomes_of({"index": index, "outcome": outcome}), [[0, 40, 0], [0, 0, 40]])
    assert len(OUTCOMES) == 3
