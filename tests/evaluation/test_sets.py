"""Which sets are measured, by what the user names."""

import json
import shutil

import pytest

from data_pipelines.errors import UserError
from data_pipelines.sources.files import Annotations, LmdbWords
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
