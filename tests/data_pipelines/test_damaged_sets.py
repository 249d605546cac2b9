"""Damaged LMDBs, folders and labels: one record that cannot be read is told from a source that cannot be used."""

import os
import subprocess
import sys

import lmdb
import numpy as np
import pytest
from rich.console import Console

from data_pipelines.check import _place, check_places
from data_pipelines.errors import DataError, MissingError, OutsideError, RecordError
from data_pipelines.sources.combining import Labels, Sources, drop_unknown_characters
from data_pipelines.sources.files import Annotations, Folder, LmdbWords
from data_pipelines.sources.lmdb_words import LmdbSource
from tests.data_pipelines.planting import RULES, counts, write_lmdb

LOWER = "abcdefghijklmnopqrstuvwxyz0123456789"


def test_missing_keys_and_broken_labels_concern_one_record_each(tmp_path, jpeg):
    images = {n: jpeg(n) for n in range(1, 10) if n not in (3, 9)} | {5: b"", 10: jpeg(0)}
    labels = {n: b"word%d" % n for n in range(1, 11)} | {2: b"\xff\xfe", 6: b"", 7: b"  ", 8: b"nul\0"}
    del labels[4]
    write_lmdb(tmp_path / "words", images, labels, stated=10)
    source = LmdbWords("words").open(tmp_path)
    assert len(source) == 10
    assert source.notes == ()
    with pytest.raises(MissingError, match="image-000000003 is missing"):
        source[2]
    with pytest.raises(MissingError, match="label-000000004 is missing"):
        source[3]
    with pytest.raises(RecordError, match="label-000000002 is not UTF-8"):
        source.text(1)
    assert source[4].image == b""
    kept, report = drop_unknown_characters(Sources([source]), Labels(LOWER, 99))
    assert [kept.text(index) for index in range(len(kept))] == ["word1", "word3", "word5", "word9", "word10"]
    assert (report.unreadable, report.empty, report.unknown) == (2, 2, 1)
    assert "2 missing or not UTF-8 (left out)" in str(report)


def test_the_count_is_that_of_the_last_image_where_none_is_stated(tmp_path, jpeg):
    write_lmdb(tmp_path / "words", {n: jpeg(n) for n in (1, 2, 4)}, stated="")
    source = LmdbWords("words").open(tmp_path)
    assert len(source) == 4
    assert source.notes == ("words: has no num-samples; it holds 4 records by its last image",)
    write_lmdb(tmp_path / "other", {}, stated=3)
    with pytest.raises(DataError, match="other: has no keys image-000000001"):
        LmdbWords("other").open(tmp_path)


def test_keys_with_another_number_of_digits_are_refused(tmp_path, jpeg):
    with lmdb.open(str(tmp_path / "words"), map_size=2**24) as environment, environment.begin(write=True) as writer:
        writer.put(b"num-samples", b"3")
        for number in range(1, 4):
            writer.put(b"image-%08d" % number, jpeg(number))
    with pytest.raises(DataError, match="words: has no keys image-000000001"):
        LmdbWords("words").open(tmp_path)


OPEN = "import sys; from data_pipelines.sources.files import LmdbWords; LmdbWords('words').open(sys.argv[1])"


@pytest.mark.parametrize("kept", [0, 100, 4096, 8192, 0.3, 0.9, -1000, -4096, -8192])
def test_an_lmdb_that_is_cut_off_is_refused_and_ends_no_process(tmp_path, jpeg, kept):
    """Reading behind the end of a file kills a process without a word: opening it is tried in one of its own."""
    write_lmdb(tmp_path / "words", {n: jpeg(n % 12) * 5 for n in range(1, 60)})
    file = tmp_path / "words/data.mdb"
    size = file.stat().st_size
    os.truncate(file, size + kept if kept < 0 else int(size * kept) if isinstance(kept, float) else kept)
    done = subprocess.run([sys.executable, "-c", OPEN, str(tmp_path)], capture_output=True, text=True, timeout=60)
    if kept == -1000:
        assert done.returncode == 0  # the last page is there, and not full
        return
    assert done.returncode == 1, done.stderr
    assert "DataError: " in done.stderr
    assert "copy it again" in done.stderr


def test_a_damaged_page_costs_its_records_only(tmp_path):
    images = {n: np.random.default_rng(n).bytes(3000) for n in range(1, 301)}
    write_lmdb(tmp_path / "words", images)
    file = tmp_path / "words/data.mdb"
    pages = bytearray(file.read_bytes())
    # A leaf of the tree, known by its flags (2) and the image keys in it.
    leaves = [p for p in range(0, len(pages), 4096) if pages[p + 10] == 2 and b"image-" in pages[p : p + 4096]]
    pages[leaves[1] : leaves[1] + 4096] = bytes(4096)
    file.write_bytes(pages)
    source = LmdbWords("words").open(tmp_path)
    told = []
    for index in list(range(300)) * 2:
        try:
            assert source[index].image == images[index + 1]
        except RecordError as error:
            told.append(str(error))
    assert 0 < len(told) < 300
    assert all("cannot be read (mdb_get: MDB_CORRUPTED" in line for line in told)


def test_an_lmdb_without_pages_that_were_never_used_is_read(tmp_path):
    """LMDB does not write pages at the end of a file that a transaction has taken and given back."""
    found = False
    for seed in range(60):
        rng, path = np.random.default_rng(seed), tmp_path / str(seed)
        with lmdb.open(str(path), map_size=2**26) as environment:
            for _ in range(rng.integers(1, 4)):
                with environment.begin(write=True) as writer:
                    for n in range(1, rng.integers(5, 400)):
                        writer.put(b"image-%09d" % n, rng.bytes(rng.choice([100, 1000, 3000, 9000])))
                    for n in rng.integers(2, 400, rng.integers(0, 200)).tolist():
                        writer.delete(b"image-%09d" % n)
            pages = environment.info()["last_pgno"] + 1
        if pages * 4096 > (path / "data.mdb").stat().st_size:
            source = LmdbSource.open(path, "words", None)
            assert source[0].image
            found = True
            break
    if not found:
        pytest.skip("this version of LMDB leaves no such file")


def test_names_lead_to_files_of_the_dataset_only(tmp_path, jpeg, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "a.jpg").write_bytes(jpeg(1))
    data = tmp_path / "data"
    (data / "sub.jpg").mkdir(parents=True)
    (data / "sub.jpg/good.jpg").write_bytes(jpeg(2))
    (data / "link.jpg").symlink_to(outside / "a.jpg")
    (data / "linked").symlink_to(outside)
    (data / "loop.jpg").symlink_to(data / "loop.jpg")
    names = ["sub.jpg/good.jpg", "link.jpg", "linked/a.jpg", "sub.jpg", "loop.jpg", "x" * 300 + ".jpg", "none.jpg"]
    (data / "list.tsv").write_text("".join(f"{name}\tword\n" for name in [*names, "sub.jpg\\good.jpg"]))
    source = Annotations("data/list.tsv").open(tmp_path)
    assert source[0].image == source[7].image == jpeg(2)
    for index, kind in enumerate([OutsideError, OutsideError, RecordError, RecordError, RecordError, MissingError], 1):
        with pytest.raises(RecordError) as error:
            source[index]
        assert type(error.value) is kind
        assert "\n" not in str(error.value)
    folder = Folder("data").open(tmp_path)
    assert "data/sub.jpg/good.jpg" in [folder.name(index) for index in range(len(folder))]
    assert "data/sub.jpg" not in [folder.name(index) for index in range(len(folder))]


def test_files_without_permission_concern_one_record_and_folders_all(tmp_path, permissions, jpeg):
    (tmp_path / "images/closed").mkdir(parents=True)
    for number in range(2):
        (tmp_path / f"images/{number}.jpg").write_bytes(jpeg(number))
    (tmp_path / "images/0.jpg").chmod(0)
    (tmp_path / "list.txt").write_text("images/0.jpg a\nimages/1.jpg b\n")
    for source in (Annotations("list.txt").open(tmp_path), Folder("images").open(tmp_path)):
        assert source[1].image == jpeg(1)
        with pytest.raises(RecordError, match=r"0\.jpg: cannot be read \(Permission denied\)"):
            source[0]
    (tmp_path / "images/closed").chmod(0)
    try:
        with pytest.raises(DataError, match=r"closed: cannot be read \(Permission denied\)"):
            Folder("images").open(tmp_path)
    finally:
        (tmp_path / "images/closed").chmod(0o755)


def test_lmdbs_counted_from_0_are_read_and_told(tmp_path, jpeg):
    images, labels = {n: jpeg(n) for n in range(4)}, {n: b"word%d" % n for n in range(4)}
    for stated in (4, ""):
        write_lmdb(tmp_path / f"from0{stated}", images, labels, stated)
        source = LmdbWords(f"from0{stated}").open(tmp_path)
        assert [source[index] for index in range(len(source))] == [(jpeg(n), f"word{n}") for n in range(4)]
        assert source.read([3, 0]) == [source[3], source[0]]
        assert source.name(0) == f"from0{stated}:image-000000000"
    assert LmdbWords("from04").open(tmp_path).notes == ("from04: its records are counted from image-000000000",)
    write_lmdb(tmp_path / "from1", images, labels, stated=3)  # as many as there are from 1 on
    source = LmdbWords("from1").open(tmp_path)
    assert [source.text(index) for index in range(len(source))] == ["word1", "word2", "word3"]
    (report,) = check_places(tmp_path, [_place(tmp_path, "from04")], RULES, 0, Console(quiet=True))
    assert (report.findings.images, counts(report)) == (4, {})


def test_keys_of_another_length_are_no_records(tmp_path, jpeg):
    with lmdb.open(str(tmp_path / "short"), map_size=2**24) as environment, environment.begin(write=True) as writer:
        for n in (1, 2):
            writer.put(b"image-%08d" % n, jpeg(n))
        writer.put(b"num-samples", b"2")
    with pytest.raises(DataError, match="short: has no keys image-000000001"):
        LmdbWords("short").open(tmp_path)
