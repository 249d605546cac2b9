"""Lists of words become data sets that the other commands read; being stopped changes nothing in them."""

import json
import shutil

import lmdb
import pytest

from data_pipelines import check
from data_pipelines.construct import lmdb_writer, write
from data_pipelines.construct.__main__ import main
from data_pipelines.construct.records import Word, words_as_lines
from data_pipelines.prepared import Records
from data_pipelines.sources.files import Annotations, LmdbWords
from data_pipelines.union14m.catalogue import locate

COUNT = 7


@pytest.fixture
def words(tmp_path, jpeg):
    """Seven labelled words in a list, and an eighth whose image is broken."""
    folder = tmp_path / "words"
    (folder / "shops").mkdir(parents=True)
    listed = []
    for number in range(COUNT + 1):
        (folder / f"shops/{number}.jpg").write_bytes(jpeg(number) if number != COUNT else b"")
        listed.append(Word(filename=f"shops/{number}.jpg", text=f"wörd {number}", source="shops", rank=number))
    write_list(folder / "train_easy.jsonl", listed)
    return folder, listed


def write_list(path, words):
    path.write_bytes(b"".join(words_as_lines(words)))


def run(folder, *flags, status=0, name="train_easy", out="Mine"):
    arguments = ["write", str(folder / f"{name}.jsonl"), "--out", str(folder.parent / out), "--workers", "0", *flags]
    assert main(arguments) == status
    return folder.parent / out


def stored(root):
    """Keys and values; LMDB may put them on other pages."""
    with lmdb.open(str(root / "train_easy_lmdb"), readonly=True, lock=False) as environment:
        return list(environment.begin().cursor())


def all_of(source):
    return [source[index] for index in range(len(source))]


def test_the_other_commands_read_what_is_written(words, jpeg, capsys):
    folder, _ = words
    root = run(folder, "--outputs", "annotations", "lmdb", "records", status=3)  # prepare has left a record out
    expected = [(jpeg(number), f"wörd {number}") for number in range(COUNT)]
    lists = [f"train_annos/mmocr-0.x/train_easy.{e}" if e == "jsonl" else f"train_annos/mmocr1.0/train_easy.{e}"
             for e in ("jsonl", "json")]  # fmt: skip
    for spec in (*map(Annotations, lists), LmdbWords("train_easy_lmdb"), Records("prepared/train_easy")):
        assert all_of(spec.open(root)) == expected, spec
    assert (root / lists[0]).read_text().splitlines()[0] == (
        '{"filename":"full_images/train_easy/shops/0.jpg","text":"wörd 0"}'
    )
    report = json.loads((root / "train_easy_lmdb.report.json").read_text())
    assert (report["in"], report["out"], report["dropped"]) == (COUNT + 1, COUNT, {"image cannot be read": 1})
    places, extra = locate(root)
    assert {place.word_set.name for place in places} == {"train_easy"}
    assert extra == ["train_easy_lmdb"]
    assert check.main([str(root), "--workers", "0"]) == 0
    capsys.readouterr()
    run(folder, "--outputs", "annotations", "lmdb")  # again: nothing is done
    assert "7" in capsys.readouterr().out


def test_what_cannot_be_used_is_counted(words, tmp_path):
    folder, listed = words
    (folder / "shops/1.jpg").unlink()
    (folder / "shops/2.jpg").rename(tmp_path / "secret.jpg")
    (folder / "shops/2.jpg").symlink_to(tmp_path / "secret.jpg")
    listed[3] = listed[3].model_copy(update={"text": None})
    write_list(folder / "train_easy.jsonl", listed)
    root = run(folder)
    assert json.loads((root / "train_annos/mmocr-0.x/train_easy.report.json").read_text())["dropped"] == {
        "image not found": 1,
        "image outside of the folder of the list": 1,
        "without a label": 1,
        "image cannot be read": 1,
    }


def test_unlabelled_words_become_an_lmdb_without_labels(words, capsys):
    folder, listed = words
    write_list(folder / "street.jsonl", [word.model_copy(update={"text": None}) for word in listed])
    run(folder, name="street", status=1)
    assert "its words have no labels, so they can be written as --outputs lmdb only" in capsys.readouterr().err
    root = run(folder, "--outputs", "lmdb", name="street")
    source = LmdbWords("street_lmdb").open(root)
    assert (len(source), source.labelled) == (COUNT, False)


@pytest.mark.parametrize("stop", range(4))
def test_a_stopped_lmdb_goes_on_where_it_was(stop, words, monkeypatch):
    """An end before any of the parts, or after the last one, changes nothing."""
    folder, _ = words
    monkeypatch.setattr(write, "_PART", 3)
    whole, read, done = run(folder, "--outputs", "lmdb"), lmdb_writer._read_part, []

    def interrupted(*_):
        raise KeyboardInterrupt

    def counted(labelled, span):
        if len(done) == stop:
            interrupted()
        done.append(span.first)
        return read(labelled, span)

    monkeypatch.setattr(lmdb_writer, "_read_part", counted)
    if stop == 3:
        monkeypatch.setattr("data_pipelines.construct.report.Report.write", interrupted)
    run(folder, "--outputs", "lmdb", out="again", status=1)
    assert not (folder.parent / "again/train_easy_lmdb").exists()
    monkeypatch.undo()
    monkeypatch.setattr(write, "_PART", 3)
    monkeypatch.setattr(lmdb_writer, "_read_part", counted)
    stop = None
    again = run(folder, "--outputs", "lmdb", out="again")
    assert done == [0, 3, 6]
    assert stored(again) == stored(whole)
    assert dict(stored(whole))[b"num-samples"] == b"7"


def test_mistakes_are_one_line(words, capsys):
    folder, listed = words
    write_list(folder / "none.jsonl", [])
    run(folder, name="none", status=1)
    assert "none.jsonl: holds no words" in capsys.readouterr().err
    write_list(folder / "broken.jsonl", listed[-1:])
    run(folder, "--outputs", "lmdb", name="broken", status=1)
    assert "none of its 1 words can be used" in capsys.readouterr().err
    shutil.copy(folder / "none.jsonl", folder / "shops/train_easy.jsonl")
    assert main(["write", *map(str, folder.rglob("train_easy.jsonl")), "--out", str(folder)]) == 1
    assert "two lists have the name train_easy" in capsys.readouterr().err
