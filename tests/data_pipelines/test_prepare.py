"""Preparing: the same shards from any number of workers, and every record accounted for."""

import json
import subprocess
import sys

import pytest
from etils import epath
from fsspec.implementations.memory import MemoryFileSystem

from data_pipelines.errors import DataError
from data_pipelines.images.decoding import decode_image
from data_pipelines.prepare import LEFT_OUT, find_tasks
from data_pipelines.prepared import Records, shards
from data_pipelines.sources.files import Annotations, LmdbWords
from tests.data_pipelines.planting import write_lmdb
from tests.data_pipelines.preparing import LINES, SET, run, told, tree


def test_the_command_prepares_what_the_catalogue_finds(tmp_path, training, jpeg, capsys):
    write_lmdb(tmp_path / "Union14M-U/cc_lmdb", {number: jpeg(number) for number in range(1, 8)})
    assert run(tmp_path, "--shard-records", 5) == 0
    printed = capsys.readouterr().out
    assert "train_easy" in printed
    assert "cc_lmdb" in printed
    assert run(tmp_path, "--shard-records", 5) == 0  # finds prepared sets, too, but does not prepare them again
    labelled = Records("out/train_easy").open(tmp_path)
    assert labelled.name(3) == "Union14M-L/full_images/made/03.jpg"
    unlabelled = Records("out/cc_lmdb").open(tmp_path)
    assert [unlabelled[index] for index in range(7)] == [(jpeg(number), None) for number in range(1, 8)]
    summary = json.loads((tmp_path / "out/train_easy/statistics.json").read_text())
    assert (summary["records"], summary["left_out"], summary["formats"]) == (12, 0, {"JPEG": 12})
    assert summary["labels"]["lengths"] == {"5": 10, "6": 2}
    assert summary["labels"]["characters"]["w"] == 12
    assert summary["height"] == {"least": 20, "5 %": 21, "median": 26, "95 %": 30, "most": 31}
    assert summary["bytes"]["images"] == sum(len(jpeg(number)) for number in range(12))
    assert summary["vertical"]["images"] == 0


def test_shards_do_not_depend_on_the_workers(dataset):
    flags = ("--sources", LINES, "set/full_images", "--shard-records", 3)
    trees = []
    for workers in (0, 2):
        out = dataset / f"out{workers}"
        assert run(dataset, *flags, "--workers", workers, "--out", out) == 0
        trees.append(tree(out))
    assert trees[0] == trees[1]
    assert len(trees[0]) == (4 + 5 + 4) + (4 + 3 + 4)
    assert not list(dataset.glob("out*/*/.unfinished"))


def test_records_that_cannot_be_used_are_left_out_and_named(dataset, make_lmdb, capsys):
    images = dataset / "set/full_images/made"
    (images / "01.jpg").unlink()
    (images / "05.jpg").write_bytes(b"\xff\xd8 no image")
    (images / "11.jpg").unlink()
    (images / "11.jpg").symlink_to("/etc/passwd")
    assert run(dataset, "--sources", LINES, "--shard-records", 2, "--max-invalid", 0.3) == LEFT_OUT
    printed = capsys.readouterr().err
    assert f"{SET}: 3 of 12 records left out" in printed
    assert "made/01.jpg: " in printed
    assert "image not found" in printed
    source = Records(f"out/{SET}").open(dataset)
    original = Annotations(LINES).open(dataset)
    left = [index for index in range(12) if index not in (1, 5, 11)]
    assert [source.name(n) for n in range(9)] == [original.name(index) for index in left]
    assert [source[n] for n in range(9)] == [original[index] for index in left]
    summary = json.loads((dataset / f"out/{SET}/statistics.json").read_text())
    assert summary["left_out"] == 3
    assert [entry["name"][-6:] for entry in summary["left_out_because"]] == ["01.jpg", "05.jpg", "11.jpg"]
    assert run(dataset, "--sources", LINES, "--shard-records", 2) == LEFT_OUT
    name = make_lmdb("gaps", 9, labelled=True, missing=(3, 4))
    assert run(dataset, "--sources", name, "--shard-records", 2, "--max-invalid", 1) == LEFT_OUT
    assert Records("out/gaps").open(dataset).name(2) == "gaps:image-000000005"


def test_a_shard_without_a_usable_record_is_empty_and_a_set_is_refused(dataset, capsys):
    import tensorflow_datasets as tfds

    for number in (4, 5, 6, 7):
        (dataset / f"set/full_images/made/{number:02d}.jpg").unlink()
    assert run(dataset, "--sources", LINES, "--shard-records", 4, "--max-invalid", 0.5) == LEFT_OUT
    source = Records(f"out/{SET}").open(dataset)
    assert [shard.records for shard in source.manifest.shards] == [4, 0, 4]
    assert [source[index].text for index in (3, 4)] == ["x", "q"]
    builder = tfds.builder_from_directory(str(dataset / "out" / SET))
    assert [example["text"] for example in builder.as_data_source(split="train")][3:5] == [b"x", b"q"]
    for number in range(12):
        (dataset / f"set/full_images/made/{number:02d}.jpg").write_bytes(b"")
    assert run(dataset, "--sources", LINES, "--max-invalid", 1, "--out", dataset / "none") == 1
    assert "12 of 12 records cannot be used" in told(capsys)


def test_many_broken_records_stop_the_work_early(dataset, capsys):
    (dataset / "set/many.jsonl").write_text((dataset / LINES).read_text() * 100)
    for number in range(6):
        (dataset / f"set/full_images/made/{number:02d}.jpg").write_bytes(b"")
    assert run(dataset, "--sources", "set/many.jsonl", "--shard-records", 50) == 1
    assert "many.jsonl: 102 of 200 records cannot be used" in told(capsys)
    reports = list((dataset / "out/set_many/.unfinished").glob("0*.json"))
    assert len(reports) < 8


def test_an_image_has_the_size_that_it_is_turned_to(tmp_path, jpeg):
    turned = jpeg(0)
    exif = b"\xff\xe1\x00\x22Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    turned = turned[:2] + exif + turned[2:]
    (tmp_path / "images").mkdir()
    (tmp_path / "images/0.jpg").write_bytes(turned)
    assert run(tmp_path, "--sources", "images") == 0
    source = Records("out/images").open(tmp_path)
    assert source[0].image == turned
    assert source.sizes.tolist() == [[50, 20]]
    assert decode_image(turned).shape == (50, 20, 3)


class Bucket(MemoryFileSystem):
    """Stands in for Google Cloud Storage."""

    protocol = ("gs", "gcs")
    store: dict = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).removeprefix("gs://").removeprefix("gcs://"))


def test_a_bucket_gets_the_same_files(dataset, monkeypatch, capsys):
    # Not registered with fsspec, where it would stay and stand in the way of the tests of real buckets.
    backend = epath.backend.fsspec_backend
    find = backend._get_filesystem
    there = lambda _, name: Bucket() if name == "gcs" else find(name)  # noqa: E731
    monkeypatch.setattr(type(backend), "_get_filesystem", there)
    flags = ("--sources", LINES, "--shard-records", 5)
    assert run(dataset, *flags) == 0
    bucket = Bucket()
    published = []

    def third_fails(file, place):
        published.append(place)
        if len(published) == 6:
            raise DataError(f"{place}: the line is dead")
        publish(file, place)

    publish = shards.publish
    monkeypatch.setattr(shards, "publish", third_fails)
    assert run(dataset, *flags, "--out", "gs://words/prepared") == 1
    assert "gs://words/prepared" in told(capsys)
    monkeypatch.setattr(shards, "publish", publish)
    assert run(dataset, *flags, "--out", "gs://words/prepared") == 0
    found = {path: data.getvalue() for path, data in Bucket.store.items()}
    local = {f"/words/prepared/{name}": (dataset / "out" / name).read_bytes() for name in tree(dataset / "out")}
    assert found == local
    assert bucket.exists("/words/prepared")


def test_names_and_mistakes(dataset, training, capsys, monkeypatch):
    paths = ("set/full_images", "a/b-c.json", "3", "lists/gt.txt")
    names = {task.name: task.split for task in find_tasks(dataset, (), paths)}
    assert names == dict.fromkeys(("set_full_images", "a_b_c", "set_3", "lists_gt"), "train")
    assert [task.name for task in find_tasks(dataset, ("train_easy",), ())] == ["train_easy"]
    for flags, expected in (
        (("--sets", "train_hard"), "no set named train_hard; available: train_easy"),
        (("--sources", LINES, LINES), "have the same name"),
        (("--sources", "no-such"), "no-such: does not exist"),
    ):
        assert run(dataset, *flags) == 1
        assert expected in told(capsys)
    (dataset / f"out/{SET}").mkdir(parents=True)
    (dataset / f"out/{SET}/mine.txt").write_text("")
    assert run(dataset, "--sources", LINES) == 1
    assert "contains other files, for example mine.txt; give another --out" in told(capsys)
    assert run(dataset / "none") == 1
    assert "none does not exist: give the data root" in told(capsys)


@pytest.mark.parametrize("name", ["word-images", "my data", "слова", "x" * 210])
def test_a_root_may_have_any_name(tmp_path, jpeg, name):
    import tensorflow_datasets as tfds

    root = tmp_path / name
    root.mkdir()
    (root / "0.jpg").write_bytes(jpeg(0))
    expected = {"word-images": "word_images", "my data": "my_data", "слова": "words"}.get(name, "x" * 150)
    for source in (".", "список.txt"):
        (root / "список.txt").write_text("0.jpg\tword\n")
        assert run(root, "--sources", source, "--out", tmp_path / source) == 0
        assert Records(expected).open(tmp_path / source)[0].image == jpeg(0)
        builder = tfds.builder_from_directory(str(tmp_path / source / expected))
        assert len(builder.as_data_source(split="train")) == 1


def test_the_command_explains_itself():
    arguments = [sys.executable, "-m", "data_pipelines.prepare", "--help"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=60)
    assert "ArrayRecord shards" in done.stdout


def test_real_words_are_the_same_when_prepared(real_data, tmp_path):
    assert run(real_data, "--sets", "val_annos", "cc_lmdb", "--out", tmp_path / "out", "--shard-records", 1000) == 0
    lists = "Union14M-L/train_annos/mmocr-0.x/val_annos.jsonl"
    for spec, name in ((Annotations(lists), "val_annos"), (LmdbWords(path="Union14M-U/cc_lmdb"), "cc_lmdb")):
        original, prepared = spec.open(real_data), Records(name).open(tmp_path / "out")
        assert len(original) == len(prepared)
        assert all(original[index] == prepared[index] for index in range(len(original)))
        assert all(original.name(index) == prepared.name(index) for index in range(len(original)))
