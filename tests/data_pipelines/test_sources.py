"""Sources read what the files hold, and say in one line what is wrong with those that they cannot use."""

import json
import os
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest

from data_pipelines.errors import DataError
from data_pipelines.packed_strings import PackedStrings
from data_pipelines.sources.combining import Sources
from data_pipelines.sources.files import Annotations, Folder, LmdbWords
from data_pipelines.sources.records import Source

LINES = "set/train_annos/mmocr1.0/train.jsonl"
DOCUMENT = "set/train_annos/mmocr1.0/train.json"
BENCHMARKS = ("curve", "general", "multi_words", "multi_oriented", "incomplete")


def records(source):
    return [(source[index], source.text(index), source.name(index)) for index in range(len(source))]


def message(error):
    text = str(error.value)
    assert "\n" not in text
    return text


def test_packed_strings_are_the_strings():
    strings = ["", "a", "né", "日本", "", "x" * 300]
    packed = pickle.loads(pickle.dumps(PackedStrings.pack(strings)))
    assert list(packed) == strings == [packed[index] for index in range(len(packed))]
    with pytest.raises(IndexError):
        packed[len(strings)]


@pytest.mark.parametrize("path", [LINES, DOCUMENT, LINES.replace("1.0", "1.0.x")])
def test_annotations_give_names_labels_and_files_in_order(dataset, words, path):
    source = Annotations(path).open(dataset)
    assert isinstance(source, Source)
    assert [source.text(index) for index in range(len(source))] == words
    assert source[3].image == (dataset / "set/full_images/made/03.jpg").read_bytes()
    assert source[3].text == words[3]
    assert source.name(3) == "set/full_images/made/03.jpg"
    assert records(pickle.loads(pickle.dumps(source))) == records(source)


def test_annotation_format_is_known_by_content_too(dataset):
    for path in (LINES, DOCUMENT):
        (dataset / "set/other.txt").write_text((dataset / path).read_text())
        assert records(Annotations("set/other.txt").open(dataset)) == records(Annotations(path).open(dataset))


@pytest.mark.parametrize("base", ["", "full_images", "train_annos/mmocr1.0"])
@pytest.mark.parametrize("root", [".", "set"])
def test_names_may_start_from_any_folder_of_the_layout(dataset, jpeg, base, root):
    target = dataset / "set" / base / "sub"
    target.mkdir(parents=True)
    (target / "a.jpg").write_bytes(jpeg(1))
    (dataset / LINES).write_text('{"filename": "sub/a.jpg", "text": "a"}\n')
    source = Annotations(os.path.relpath(dataset / LINES, dataset / root)).open(dataset / root)
    assert source[0].image == jpeg(1)
    assert (dataset / root / source.name(0)).resolve() == (target / "a.jpg").resolve()


def test_a_file_that_is_elsewhere_than_most_is_found(dataset, jpeg):
    (dataset / "set/full_images/other.jpg").write_bytes(jpeg(7))
    with (dataset / LINES).open("a") as file:
        file.write('\n{"filename": "other.jpg", "text": "other"}\n')
    source = Annotations(LINES).open(dataset)
    assert source[len(source) - 1].image == jpeg(7)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{broken", "not valid JSON"),
        ('{"filename": "a.jpg"}', "'text'"),
        ('{"text": "a"}', "'filename'"),
        ('["a.jpg", "a"]', "expected"),
        ('{"filename": "a.jpg", "text": 3}', "must be strings"),
        ('{"filename": "", "text": "a"}', "not a file name"),
        ('{"filename": "a.jpg", "text": "\\ud800"}', "UTF-8"),
        ('{"filename": "../a.jpg", "text": "a"}', "points outside the dataset"),
        ('{"filename": "a/../../a.jpg", "text": "a"}', "points outside the dataset"),
        ('{"filename": "/etc/passwd", "text": "a"}', "points outside the dataset"),
    ],
)
def test_a_bad_line_is_named_with_its_number(dataset, line, expected):
    with (dataset / LINES).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError) as error:
        Annotations(LINES).open(dataset)
    assert f"train.jsonl:{13}: " in message(error)
    assert expected in message(error)
    assert '{"filename": "...", "text": "..."}' in message(error)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"instances": [{"text": "a"}]}, '"img_path"'),
        ({"img_path": "a.jpg"}, "'instances'"),
        ({"img_path": "a.jpg", "instances": []}, "expected"),
        ({"img_path": "a.jpg", "instances": [{}]}, "'text'"),
        ({"img_path": "../a.jpg", "instances": [{"text": "a"}]}, "points outside the dataset"),
        ("a.jpg", '"img_path"'),
    ],
)
def test_a_bad_entry_is_named_with_its_number(dataset, entry, expected):
    document = json.loads((dataset / DOCUMENT).read_text())
    document["data_list"].insert(4, entry)
    (dataset / DOCUMENT).write_text(json.dumps(document))
    with pytest.raises(DataError) as error:
        Annotations(DOCUMENT).open(dataset)
    assert "train.json: data_list[4]: " in message(error)
    assert expected in message(error)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"data_list": 3}', '{"data_list": []}', "\xff"])
def test_a_file_that_is_no_annotation_file_is_refused(dataset, text):
    (dataset / DOCUMENT).write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"train\.json"):
        Annotations(DOCUMENT).open(dataset)


def test_a_link_out_of_the_dataset_is_refused(dataset, jpeg, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "00.jpg").write_bytes(jpeg(0))
    images = dataset / "set/full_images/made"
    (images / "00.jpg").unlink()
    (images / "00.jpg").symlink_to(outside / "00.jpg")
    source = Annotations(LINES).open(dataset)
    assert source[1].text == "Green"
    with pytest.raises(DataError, match="link out of the dataset") as error:
        source[0]
    assert "train.jsonl" in message(error)
    (images / "linked").symlink_to(outside)
    (dataset / LINES).write_text('{"filename": "full_images/made/linked/00.jpg", "text": "a"}\n')
    source = Annotations(LINES).open(dataset)
    with pytest.raises(DataError, match="link out of the dataset"):
        source[0]


def test_the_image_folder_itself_may_be_a_link(dataset, tmp_path_factory):
    disk = tmp_path_factory.mktemp("disk") / "images"
    (dataset / "set/full_images").rename(disk)
    (dataset / "set/full_images").symlink_to(disk)
    assert Annotations(LINES).open(dataset)[2].text == "blue!"


def test_a_missing_image_is_named_with_its_annotation_file(dataset):
    source = Annotations(LINES).open(dataset)
    (dataset / "set/full_images/made/05.jpg").unlink()
    assert source[4].text == "two words"
    with pytest.raises(DataError, match=r"full_images/made/05\.jpg: image not found") as error:
        source[5]
    assert "train.jsonl" in message(error)


def test_annotations_without_their_images_are_refused_at_once(dataset):
    (dataset / "set/full_images").rename(dataset / "elsewhere")
    with pytest.raises(DataError, match="are missing; searched from") as error:
        Annotations(LINES).open(dataset)
    assert "train.jsonl" in message(error)


@pytest.mark.parametrize("spec", [Annotations("none.jsonl"), LmdbWords("none"), Folder("none")])
def test_a_missing_path_is_named_with_what_to_give(tmp_path, spec):
    with pytest.raises(DataError, match=r"none.*does not exist; give") as error:
        spec.open(tmp_path)
    assert str(tmp_path) in message(error)


def test_a_folder_gives_its_images_sorted_and_unlabelled(dataset):
    (dataset / "set/full_images/a.PNG").write_bytes(b"png")
    source = Folder("set").open(dataset)
    names = [source.name(index) for index in range(len(source))]
    assert names == ["set/full_images/a.PNG", *(f"set/full_images/made/{n:02d}.jpg" for n in range(12))]
    assert source[0] == (b"png", None)
    (dataset / "set/full_images/a.PNG").unlink()
    with pytest.raises(DataError, match=r"a\.PNG: cannot be read"):
        source[0]
    with pytest.raises(DataError, match="holds no images"):
        Folder("set/train_annos").open(dataset)


def test_lmdb_gives_its_records(tmp_path, make_lmdb, jpeg):
    source = LmdbWords(make_lmdb("plain", 5)).open(tmp_path)
    assert [source[index] for index in range(len(source))] == [(jpeg(number), None) for number in range(1, 6)]
    assert source.name(4) == "plain:image-000000005"
    labelled = LmdbWords(make_lmdb("labelled", 3, labelled=True)).open(tmp_path)
    assert labelled[2] == (jpeg(3), "word3")
    assert [labelled.text(index) for index in range(3)] == ["word1", "word2", "word3"]
    assert LmdbWords("labelled", labelled=False).open(tmp_path).text(2) is None
    with pytest.raises(DataError, match="label-000000001 is missing"):
        LmdbWords("plain", labelled=True).open(tmp_path)


def test_an_lmdb_with_a_wrong_count_names_the_key(tmp_path, make_lmdb):
    with pytest.raises(DataError, match="wrong: num-samples is 7, but the last image is image-000000005") as error:
        LmdbWords(make_lmdb("wrong", 5, stated=7)).open(tmp_path)
    message(error)
    low = LmdbWords(make_lmdb("low", 5, stated=3)).open(tmp_path)
    assert len(low) == 3
    assert low.notes == ("low: num-samples is 3; the images after it, up to image-000000005, are not used",)
    with pytest.raises(DataError, match="num-samples is b'many'"):
        LmdbWords(make_lmdb("many", 5, stated="many")).open(tmp_path)
    source = LmdbWords(make_lmdb("hole", 5, missing=[3])).open(tmp_path)
    with pytest.raises(DataError, match="hole: key image-000000003 is missing"):
        source[2]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="is not an LMDB"):
        LmdbWords("empty").open(tmp_path)
    (tmp_path / "empty/data.mdb").write_bytes(b"no LMDB" * 1000)
    with pytest.raises(DataError, match="cannot be opened as an LMDB"):
        LmdbWords("empty").open(tmp_path)


def test_an_open_lmdb_can_be_read_by_threads_and_after_a_fork(tmp_path, make_lmdb, jpeg):
    source = LmdbWords(make_lmdb("words", 8)).open(tmp_path)
    failures = []

    def read():
        for index in list(range(8)) * 20:
            if source[index].image != jpeg(index + 1):
                failures.append(index)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    # Forked in a fresh interpreter: forking this one, which may run threads, is what the standard library warns of.
    script = (
        "import os, sys; from data_pipelines.sources.files import LmdbWords\n"
        "source = LmdbWords('words').open(sys.argv[1]); first = source[7]; child = os.fork()\n"
        "if child == 0: os._exit(int(source[7] != first))\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, timeout=60)


def test_sources_are_their_parts_end_to_end(dataset, make_lmdb):
    specs = [Annotations(LINES), LmdbWords(make_lmdb("words", 5)), Folder("set")]
    sources = Sources.open(specs, dataset)
    assert len(sources) == 12 + 5 + 12
    assert [sources.locate(index) for index in (0, 11, 12, 16, 17, 28)] == [
        (0, 0),
        (0, 11),
        (1, 0),
        (1, 4),
        (2, 0),
        (2, 11),
    ]
    assert records(sources) == [record for source in sources.sources for record in records(source)]
    with pytest.raises(IndexError):
        sources[29]


def test_proportions_fill_up_to_one(dataset):
    source = Annotations(LINES).open(dataset)
    assert Sources([source, source]).proportions is None
    assert Sources([source, source], [3, 1]).proportions == [0.75, 0.25]
    assert Sources([source] * 3, [0.5, None, None]).proportions == [0.5, 0.25, 0.25]
    with pytest.raises(DataError, match="nothing is left"):
        _ = Sources([source, source], [1.0, None]).proportions
    with pytest.raises(DataError, match="must be positive"):
        _ = Sources([source, source], [0.0, 1.0]).proportions


def test_both_annotation_formats_give_the_same_real_records(real_data):
    pairs = [
        (f"Union14M-L/train_annos/mmocr-0.x/{name}.jsonl", f"Union14M-L/train_annos/mmocr1.0.x/{name}.json")
        for name in ("train_challenging", "train_hard", "val_annos")
    ]
    pairs += [
        (
            f"Union14M-L/Union14M-Benchmarks/{name}/annotation.jsonl",
            f"Union14M-L/Union14M-Benchmarks/{name}/annotation.json",
        )
        for name in BENCHMARKS
    ]
    for lines, document in pairs:
        for root, prefix in ((real_data, ""), (real_data / "Union14M-L", "Union14M-L/")):
            one, other = (Annotations(path.removeprefix(prefix)).open(root) for path in (lines, document))
            assert records(one) == records(other)
            assert len(one)


def test_real_lmdbs_hold_the_real_files(real_data):
    levels = ("easy", "medium", "hard", "normal", "challenging")
    specs = [Annotations(f"Union14M-L/train_annos/mmocr-0.x/train_{level}.jsonl") for level in levels]
    labelled = Sources.open(specs, real_data)
    unlabelled = Sources.open(
        [LmdbWords(f"Union14M-U/{name}_lmdb") for name in ("book32", "cc", "openvino")], real_data
    )
    files = sorted(labelled[index].image for index in range(len(labelled)))
    assert sorted(unlabelled[index].image for index in range(len(unlabelled))) == files


def test_balanced_sources_without_a_weight_share_the_rest_evenly(dataset, make_lmdb):
    specs = [Annotations(LINES), LmdbWords(make_lmdb("few", 3)), LmdbWords(make_lmdb("many", 30))]
    assert Sources.open(specs, dataset, "by_size").proportions is None
    np.testing.assert_allclose(Sources.open(specs, dataset, "balanced").proportions, [1 / 3] * 3)
    specs[0] = Annotations(LINES, weight=0.5)
    np.testing.assert_allclose(Sources.open(specs, dataset, "balanced").proportions, [0.5, 0.25, 0.25])
    np.testing.assert_allclose(Sources.open(specs, dataset, "by_size").proportions, [0.5, 0.5 / 11, 5 / 11])
    specs[0] = Annotations(LINES, weight=1.5)
    with pytest.raises(DataError, match=r"weights sum to 1\.5: nothing is left"):
        Sources.open(specs, dataset, "balanced")
