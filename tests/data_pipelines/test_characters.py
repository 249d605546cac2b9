"""Labels outside the dictionary are counted, listed, and dropped, kept or refused as asked."""

import json

import numpy as np
import pytest

from data_pipelines.charset import Charset
from data_pipelines.errors import DataError
from data_pipelines.sources.combining import Labels, Sources, drop_unknown_characters
from data_pipelines.sources.files import Annotations, Folder, LmdbWords
from data_pipelines.sources.records import Record

KNOWN = "abcdefghijklmnopqrstuvwxyzé"


def drop(source, characters, action):
    sources, report = drop_unknown_characters(Sources([source]), Labels(characters, 99, action))
    return sources.sources[0], report


class Labelled:
    """Records with the given labels and no images."""

    def __init__(self, labels):
        self._texts = labels

    def __len__(self):
        return len(self._texts)

    def __getitem__(self, index):
        return Record(b"", self._texts[index])

    def text(self, index):
        return self._texts[index]

    def name(self, index):
        return f"record {index}"


class Rendered(Labelled):
    """Too many records to look at."""

    characters = KNOWN

    def __len__(self):
        return 10**9


TEXTS = ["plain", "Caps", "", "café", "naïve", "日本", "two words", "end"]


def test_drop_leaves_the_records_that_can_be_written():
    source, report = drop(Labelled(TEXTS), KNOWN, "drop")
    assert [source.text(index) for index in range(len(source))] == ["plain", "café", "end"]
    assert (source.name(1), source[1].text) == ("record 3", "café")
    assert (report.checked, report.empty, report.unknown) == (8, 1, 4)
    assert report.characters == {"C": 1, "ï": 1, "日": 1, "本": 1, " ": 1}
    assert report.examples == [(f"record {index}", TEXTS[index]) for index in (1, 4, 5, 6)]
    assert "left out" in str(report)
    assert "record 5: '日本'" in str(report)


def test_keep_leaves_out_only_empty_labels():
    source, report = drop(Labelled(TEXTS), KNOWN, "keep")
    assert [source.text(index) for index in range(len(source))] == [text for text in TEXTS if text]
    assert (report.empty, report.unknown) == (1, 4)


def test_labels_of_spaces_are_empty():
    texts = ["a", " ", "", "\t\n", "\u3000", "\u00a0\u00a0", " a", "é", ""]
    source, report = drop(Labelled(texts), KNOWN + " ", "keep")
    assert [source.text(index) for index in range(len(source))] == ["a", " a", "é"]
    assert (report.empty, report.unknown) == (6, 0)


def test_error_names_the_line_of_the_label(dataset):
    path = "set/train_annos/mmocr1.0/train.jsonl"
    (dataset / path).write_text("\n\n" + (dataset / path).read_text().replace("blue!", "naïve"))
    source = Annotations(path).open(dataset)
    with pytest.raises(DataError, match=r"train\.jsonl:5: set/full_images/made/02\.jpg: label 'naïve' holds 'ï'"):
        drop(source, "".join(map(chr, range(32, 127))), "error")
    source = Annotations(path.replace(".jsonl", ".json")).open(dataset)
    with pytest.raises(DataError, match=r"train\.json: data_list\[1\]: set/full_images/made/01\.jpg: label 'Green'"):
        drop(source, KNOWN, "error")


def test_error_names_the_first_record():
    with pytest.raises(DataError, match="record 1: label 'Caps' holds 'C'"):
        drop(Labelled(TEXTS), KNOWN, "error")
    known = Labelled(["plain", "end"])
    assert drop(known, KNOWN, "error")[0] is known


def test_the_choice_is_that_of_a_plain_loop():
    rng = np.random.default_rng(0)
    alphabet = list("abcXé日 ")
    texts = ["".join(rng.choice(alphabet, rng.integers(0, 4))) for _ in range(2000)]
    source, report = drop(Labelled(texts), KNOWN, "drop")
    expected = [text for text in texts if text.strip() and set(text) <= set(KNOWN)]
    assert [source.text(index) for index in range(len(source))] == expected
    assert report.unknown == sum(bool(text.strip() and set(text) - set(KNOWN)) for text in texts)
    assert report.empty == sum(not text.strip() for text in texts)


def test_no_record_left_is_an_error():
    with pytest.raises(DataError, match="no label within the charset"):
        drop(Labelled(["A", ""]), KNOWN, "drop")


def test_words_that_are_known_by_construction_are_not_looked_at():
    source = Rendered([])
    assert drop(source, KNOWN, "error")[0] is source
    with pytest.raises(DataError, match="'é'"):
        drop(Rendered(["a"]), KNOWN.replace("é", ""), "drop")


def test_sources_are_treated_one_by_one(dataset, make_lmdb):
    lines = "set/train_annos/mmocr1.0/train.jsonl"
    specs = [Annotations(lines, weight=2), LmdbWords(make_lmdb("words", 3, labelled=True)), Folder("set")]
    sources, report = drop_unknown_characters(Sources.open(specs, dataset), Labels(KNOWN + "0123456789", 99))
    assert [len(source) for source in sources.sources] == [7, 3, 12]
    assert sources.weights == (2, None, None)
    assert report.checked == 12 + 3
    expected = ["red", "x", "42", "q", "end", "more", "last"]
    assert [sources.text(index) for index in range(7)] == expected


def test_an_lmdb_without_known_labels_is_refused(tmp_path, make_lmdb):
    source = LmdbWords(make_lmdb("words", 3, labelled=True)).open(tmp_path)
    with pytest.raises(DataError, match="words:image-000000001"):
        drop(source, KNOWN, "drop")


def test_real_labels_are_writable_but_for_those_reported(real_data):
    path = "Union14M-L/train_annos/mmocr1.0/train_challenging.json"
    source = Annotations(path).open(real_data)
    characters = "".join(map(chr, range(32, 127)))
    kept, report = drop(source, characters, "drop")
    entries = json.loads((real_data / path).read_text())["data_list"]
    texts = [entry["instances"][0]["text"] for entry in entries]
    assert [kept.text(index) for index in range(len(kept))] == [t for t in texts if t and set(t) <= set(characters)]
    assert len(kept) + report.unknown + report.empty == len(source)


def test_capitals_are_learnt_as_small_letters_in_lower_case():
    charset = Charset("019abé\u00b5\u00df", lower_case=True)
    assert charset.written == "019abé\u00b5\u00dfABÉ"  # of the others there is no single capital that goes back
    assert charset.encode("BÉ1", 5).tolist() == [8, 4, 5, 1, 8]
    assert charset.encode("C", 3).tolist() == [8, charset.unknown, 8]
    source, report = drop(Labelled(["Ab", "É0", "aC"]), charset.written, "drop")
    assert [source.text(index) for index in range(len(source))] == ["Ab", "É0"]
    assert report.characters == {"C": 1}
    plain = Charset("ab")
    assert (plain.written, plain.encode("B", 3).tolist()) == ("ab", [2, plain.unknown, 2])
    with pytest.raises(ValueError, match=r"a charset in lower case has no capitals, but \['A'\]"):
        Charset("aA", lower_case=True)
