"""Labels are the same in composed (NFC) and decomposed (NFD) form, from whatever they are read."""

import json
import unicodedata

import pytest

from data_pipelines.checking.inspecting import Findings, Rules, inspect, open_place
from data_pipelines.opening import open_sources
from data_pipelines.packed_strings import PackedStrings
from data_pipelines.prepared import Records
from data_pipelines.rendering.lexicon import word_tiers
from data_pipelines.sources.combining import Labels, compose_labels
from data_pipelines.sources.files import Annotations, LmdbWords
from data_pipelines.sources.records import read_records
from data_pipelines.union14m.catalogue import Collection, Place, WordSet
from tests.data_pipelines.planting import write_lmdb
from tests.data_pipelines.preparing import run

WORDS = ["MÜNCHEN", "Café", "Đường", "TARİH", "Phở", "Ångström", "plain", "서울"]
NFD = [unicodedata.normalize("NFD", word) for word in WORDS]
CHANGED = sum(nfd != word for nfd, word in zip(NFD, WORDS, strict=True))


@pytest.fixture
def lists(tmp_path, jpeg):
    """A list of each make with decomposed labels, and an LMDB."""
    for number in range(len(WORDS)):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(number))
    pairs = [(f"{number}.jpg", text) for number, text in enumerate(NFD)]
    (tmp_path / "tab.txt").write_text("".join(f"{name}\t{text}\n" for name, text in pairs), encoding="utf-8")
    (tmp_path / "space.txt").write_text("".join(f"{name} {text}\n" for name, text in pairs), encoding="utf-8")
    lines = [json.dumps({"filename": name, "text": text}) for name, text in pairs]
    (tmp_path / "lines.jsonl").write_text("\n".join(lines))
    (tmp_path / "object.json").write_text(json.dumps(dict(pairs)))
    entries = [{"img_path": name, "instances": [{"text": text}]} for name, text in pairs]
    (tmp_path / "list.json").write_text(json.dumps({"metainfo": {}, "data_list": entries}))
    images = {number: jpeg(number) for number in range(1, len(WORDS) + 1)}
    write_lmdb(tmp_path / "words", images, {number: text.encode() for number, text in enumerate(NFD, 1)})
    return [*map(Annotations, ("tab.txt", "space.txt", "lines.jsonl", "object.json", "list.json")), LmdbWords("words")]


def test_every_source_has_composed_labels_and_tells_how_many_were_not(lists, tmp_path):
    for spec in lists:
        told = []
        sources = open_sources((spec,), tmp_path, told.append, Labels("".join(WORDS), 40))
        assert [sources.text(index) for index in range(len(sources))] == WORDS, spec
        assert [record.text for record in read_records(sources, range(len(WORDS)))] == WORDS
        assert [sources[index].text for index in range(len(sources))] == WORDS
        assert f"{CHANGED} labels in decomposed Unicode form (NFD)" in "\n".join(told)
        assert "0 with unknown characters" in told[0]


def test_prepared_sets_have_composed_labels(lists, tmp_path, capsys):
    for number, spec in enumerate(lists[-2:]):
        assert run(tmp_path, "--sources", spec.path, "--out", tmp_path / f"out{number}") == 0
        assert f"{CHANGED} labels in decomposed Unicode form (NFD)" in capsys.readouterr().err
        (folder,) = (tmp_path / f"out{number}").iterdir()
        source = Records(str(folder.relative_to(tmp_path))).open(tmp_path)
        assert list(source.labels) == WORDS
        assert [source[index].text for index in range(len(source))] == WORDS


def test_prepared_sets_of_earlier_versions_are_composed_when_they_are_read(lists, tmp_path):
    assert run(tmp_path, "--sources", "lines.jsonl") == 0
    source = Records("out/lines").open(tmp_path)
    source.labels = PackedStrings.pack(NFD)
    assert [source.text(index) for index in range(len(source))] == WORDS
    assert [source[index].text for index in range(len(source))] == WORDS
    composed, changed = compose_labels(source.labels)
    assert (list(composed), changed) == (WORDS, CHANGED)


def test_the_check_counts_them_and_compares_lists_by_their_texts(lists, tmp_path):
    (tmp_path / "nfc.jsonl").write_text(
        "".join(json.dumps({"filename": f"{i}.jpg", "text": text}) + "\n" for i, text in enumerate(WORDS))
    )
    found = Findings(listed=3)
    paths = ("lines.jsonl", "nfc.jsonl")
    source = open_place(tmp_path, Place(Collection("", ()), WordSet("", None), "annotations", paths), found)
    found += inspect(source, range(len(source)), Rules("".join(NFD), 40, 3))
    assert (found.counts["decomposed"], found.counts["differing"]) == (CHANGED, 0)
    assert found.counts["outside_charset"] == 0


def test_words_to_be_drawn_are_composed(tmp_path):
    (tmp_path / "words.txt").write_text("\n".join([*NFD, *WORDS]), encoding="utf-8")
    _, *tiers = word_tiers(tmp_path / "words.txt")
    assert [word for tier in tiers for word in tier] == [unicodedata.normalize("NFC", word.lower()) for word in WORDS]


def test_labels_that_are_composed_are_not_copied():
    for texts in (["plain", ""], WORDS, []):
        labels = PackedStrings.pack(texts)
        assert compose_labels(labels) == (labels, 0)
        assert compose_labels(labels)[0] is labels
    beside = PackedStrings.pack(["e", "\u0301a"])  # two labels are not composed with each other
    assert list(compose_labels(beside)[0]) == ["e", "\u0301a"]
    assert compose_labels(beside)[1] == 0
