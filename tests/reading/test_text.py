"""Charset and scoring."""

import json

import numpy as np
import pytest

from data_pipelines.charset import UNKNOWN_TEXT, Charset
from maerec_jax.reading.scoring import Scores, edit_similarity, without_symbols
from tests.conftest import FIXTURES

METRICS = json.loads((FIXTURES / "metrics.json").read_text())


def test_encode_and_decode_are_inverse():
    charset = Charset()
    assert charset.n_classes == 94
    text = charset.characters[:40]
    ids = charset.encode(text, 48)
    assert ids.dtype == np.int32
    assert ids.shape == (48,)
    assert charset.decode(ids[1:])[0] == text


def test_decode_skips_padding_and_stops_at_the_end():
    charset = Charset("abc")
    text, places = charset.decode([charset.padding, 0, charset.padding, charset.unknown, charset.start_end, 1])
    assert text == "a" + UNKNOWN_TEXT
    assert places.tolist() == [1, 3]


def test_long_texts_are_cut_and_unknown_characters_kept_as_such():
    charset = Charset("abc")
    assert charset.encode("abcabc", 4).tolist() == [charset.start_end, 0, 1, 2]
    assert charset.encode("aé", 5).tolist() == [3, 0, charset.unknown, 3, charset.padding]


def test_charset_needs_every_character_once():
    with pytest.raises(ValueError, match="'a'"):
        Charset("aba")


@pytest.mark.parametrize("content", ["abé ", "a\nb\né\n \n", "\ufeffa\r\nb\r\né\r\n \r\n\r\n"])
def test_charset_files_have_one_line_or_a_character_a_line(content, tmp_path):
    (tmp_path / "charset.txt").write_bytes(content.encode())
    assert Charset.from_file(tmp_path / "charset.txt") == Charset("abé ")


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"a\nbc\n", r"charset.txt:2: 'bc' is not one"), (b"\xff", "not UTF-8"), (b"aba", "'a'"), (b"\n", "empty")],
)
def test_other_charset_files_are_refused(content, told, tmp_path):
    (tmp_path / "charset.txt").write_bytes(content)
    with pytest.raises(ValueError, match=told):
        Charset.from_file(tmp_path / "charset.txt")


@pytest.mark.parametrize("pair", METRICS["pairs"], ids=lambda p: f"{p['pred']!r}-{p['gt']!r}")
def test_verdicts_equal_the_reference(pair):
    scores = Scores()
    scores.add(pair["pred"], pair["gt"])
    found = scores.summary()
    assert found["word_accuracy"] == pair["exact"]
    assert found["word_accuracy_ignore_case"] == pair["ignore_case"]
    assert found["word_accuracy_ignore_case_symbols"] == pair["ignore_case_symbol"]
    assert without_symbols(pair["pred"]) == pair["pred_norm"]
    assert edit_similarity(pair["pred"], pair["gt"]) == pytest.approx(1 - pair["norm_ed"])


def test_totals_equal_the_reference():
    scores = Scores()
    for pair in METRICS["pairs"]:
        scores.add(pair["pred"], pair["gt"])
    found, totals = scores.summary(), METRICS["totals"]
    assert found["words"] == METRICS["n"]
    assert round(found["word_accuracy"], 4) == totals["word_acc"]
    assert round(found["word_accuracy_ignore_case_symbols"], 4) == totals["word_acc_ignore_case_symbol"]
    assert round(found["edit_similarity"], 4) == totals["1-N.E.D"]
