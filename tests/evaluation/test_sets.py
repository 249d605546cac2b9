"""Which sets are measured, by what the user names."""

import json
import shutil
import unicodedata

import pytest

from data_pipelines.errors import DataError, UserError
from data_pipelines.prepared import Records
from data_pipelines.sources.files import Annotations, Folder, LmdbWords
from maerec_jax.evaluation.sets import find_sets
from tests.data_pipelines.conftest import make_lmdb  # noqa: F401

BENCHMARKS = "Union14M-L/Union14M-Benchmarks"


def found(root, *names):
    notes = []
    return list(find_sets(root, names, notes.append)), notes


def write_list(path, labels):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"filename": f"{i}.jpg", "text": text}) + "\n" for i, text in enumerate(labels)))
    for i in range(len(labels)):
        (path.parent / f"{i}.jpg").write_bytes(b"")


def test_a_data_root_gives_its_benchmarks_in_the_paper_s_order(real_data):
    names, notes = found(real_data)
    assert names[:7] == ["curve", "multi_oriented", "artistic", "contextless", "salient", "multi_words", "general"]
    assert names[7:] == ["incomplete", "incomplete_ori"]
    assert not notes
    assert found(real_data, "benchmark")[0] == names


def test_sets_are_named_by_the_catalogue_or_by_paths(real_data):
    assert found(real_data, "CURVE", "val_annos")[0] == ["curve", "val_annos"]
    path = f"{BENCHMARKS}/curve/annotation.jsonl"
    assert find_sets(real_data, [path], print) == {path: Annotations(path=path)}
    assert found(real_data, f"{BENCHMARKS}/salient", f"{BENCHMARKS}/curve/")[0] == ["salient", "curve"]
    assert len(found(real_data, BENCHMARKS)[0]) == 9
    with pytest.raises(UserError, match="named twice: curve"):
        found(real_data, "curve", f"{BENCHMARKS}/curve")
    with pytest.raises(UserError, match=r"nothing is neither a set .*nor a path.* benchmark, common"):
        found(real_data, "nothing")
    with pytest.raises(UserError, match="no such data root"):
        found(real_data / "nowhere")


def test_both_sizes_of_common_benchmarks_and_other_labels_are_sets_of_their_own(tmp_path, make_lmdb):  # noqa: F811
    write_list(tmp_path / "icdar2013" / "textrecog_test_857.jsonl", ["a", "b"])
    write_list(tmp_path / "icdar2013" / "textrecog_test.jsonl", ["a", "b", "c"])
    write_list(tmp_path / "svt" / "annotation.jsonl", ["one", "two"])
    write_list(tmp_path / "svt" / "test_label.jsonl", ["One", "two"])
    write_list(tmp_path / "svt" / "gt.jsonl", ["one", "two"])
    make_lmdb("svtp", 3, labelled=True)
    sets = find_sets(tmp_path, (), print)
    assert list(sets) == ["IC13_857", "SVT", "SVT (test_label.jsonl)", "IC13", "SVTP"]
    assert sets["SVTP"] == LmdbWords(path="svtp")
    shutil.copytree(tmp_path / "svt", tmp_path / "copy" / "svt")
    make_lmdb("copy/svtp", 3, labelled=True)
    names, notes = found(tmp_path)
    assert names == list(sets)
    assert any(note.startswith("SVT: read from ") and "copy/svt/" in note for note in notes)


def test_folders_without_labels_are_refused(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="images holds no list of labels"):
        found(tmp_path, "images")
    with pytest.raises(UserError, match="holds no known benchmark"):
        found(tmp_path)


def test_what_is_not_there_is_called_what_it_is(tmp_path, make_lmdb):  # noqa: F811
    make_lmdb("words", 3, labelled=True)
    for name, told in (
        ("benchmark", "holds no set of Union14M-Benchmark: "),
        ("Common", "holds no set of common benchmarks: "),
        ("curve", "holds no curve: "),
        ("", "'' names no set"),
        (" ", "' ' names no set"),
        ("/", "'/' names no set"),
    ):
        with pytest.raises(UserError, match=told):
            found(tmp_path, name)
    (spec,) = find_sets(tmp_path, ["words/data.mdb"], print).values()
    with pytest.raises(DataError, match=r"data.mdb: is a file of an LMDB; give its folder, .*words$"):
        spec.open(tmp_path)
    for nameless in (Annotations(""), LmdbWords(" "), Folder(""), Records("")):
        with pytest.raises(DataError, match="a source has no path"):
            nameless.open(tmp_path)


def test_lists_that_differ_in_their_unicode_form_are_one_set(tmp_path):
    labels = ["Café", "Phở"]
    write_list(tmp_path / "svt" / "annotation.jsonl", labels)
    write_list(tmp_path / "svt" / "test_label.jsonl", [unicodedata.normalize("NFD", label) for label in labels])
    assert list(find_sets(tmp_path, (), print)) == ["SVT"]
