"""Charset and scoring."""

import json
import unicodedata
import warnings

import numpy as np
import pytest

from data_pipelines.charset import UNKNOWN_TEXT, Charset, without_symbols
from maerec_jax.reading.scoring import (
    ALL_LETTERS,
    HEADLINE,
    Scores,
    all_letters,
    dropped_by,
    edit_similarity,
    verdicts,
)
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


ACCENTED = "AaCéÉÖöüŽ"


@pytest.mark.parametrize("ends", ["", "\n"], ids=["a line", "a character a line"])
def test_a_charset_file_is_the_same_in_every_unicode_form(ends, tmp_path):
    """Also where letters with marks repeat the letters, as an editor that decomposes writes them."""
    told, decomposed = [], [unicodedata.normalize("NFD", c) for c in ACCENTED]
    (tmp_path / "charset.txt").write_text(ends.join(decomposed), encoding="utf-8")
    assert Charset.from_file(tmp_path / "charset.txt", told.append) == Charset(ACCENTED)
    (line,) = told
    assert "charset.txt: 6 characters in decomposed Unicode form" in line
    assert Charset("".join(decomposed)) == Charset(ACCENTED)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (tmp_path / "charset.txt").write_text(ends.join(ACCENTED), encoding="utf-8")
        Charset.from_file(tmp_path / "charset.txt")
    (tmp_path / "charset.txt").write_text(ends.join(decomposed), encoding="utf-8")
    with pytest.warns(UserWarning, match="6 characters"):
        Charset.from_file(tmp_path / "charset.txt")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("abca", "charset.txt:1, character 4: 'a' is there already, at .*charset.txt:1, character 1"),
        ("a\nb\n\nc\n", r"charset.txt:3: '' is not one character"),
        ("a\nb\nc\nb\n", "charset.txt:4: 'b' is there already, at .*charset.txt:2"),
        ("é\ne\u0301\n", "charset.txt:2: 'é' is there already, at .*charset.txt:1"),
        ("a\nq\u0303\n", r"charset.txt:2: 'q\u0303' is not one character but 2, .*U\+0071, U\+0303 each once"),
    ],
)
def test_faults_of_charset_files_are_told_with_their_place(content, told, tmp_path):
    (tmp_path / "charset.txt").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=told):
        Charset.from_file(tmp_path / "charset.txt")


@pytest.mark.parametrize("word", ["Café", "Phở", "Ångström", "서울", "ガ", "क\u093c", "e\u0301\u0323"])
def test_letters_that_a_charset_has_in_parts_are_written_in_parts_and_read_whole(word, tmp_path):
    """Also where the charset was made of the letters of decomposed labels."""
    composed, parts = (unicodedata.normalize(form, word) for form in ("NFC", "NFD"))
    (tmp_path / "charset.txt").write_text("".join(sorted(set(parts))), encoding="utf-8")
    for charset in (Charset("".join(sorted(set(parts)))), Charset.from_file(tmp_path / "charset.txt", print)):
        assert set(composed) <= set(charset.written)
        ids = charset.encode(composed, 20)
        assert np.array_equal(ids, charset.encode(parts, 20))
        assert charset.unknown not in ids
        text, places = charset.decode(ids[1:])
        assert text == composed
        assert len(places) == len(text)


def test_signs_that_are_letters_in_composed_form_have_their_class():
    """The ångström sign, and an Indic letter that composed text writes as two characters."""
    charset = Charset("A\u212b\u0958")
    for given, read in (("\u212b", "Å"), ("Å", "Å"), ("A\u030a", "Å"), ("\u0958", "\u0915\u093c")):
        ids = charset.encode(given, 4)
        assert charset.unknown not in ids
        text, places = charset.decode(ids[1:])
        assert (text, len(places)) == (read, len(read))
    assert set("AÅ\u0915\u093c") <= set(charset.written)
    assert charset.encode("é", 3).tolist() == [3, charset.unknown, 3]


def test_compatible_characters_stay_what_they_are():
    text = "ﬁ①Ａ²"  # which NFKC would change
    assert Charset(text).decode(Charset(text).encode(text, 9)[1:])[0] == text


OTHER_SCRIPTS = ["МОСКВА", "Καφές", "مرحبا", "서울", "ひらがな", "กรุงเทพ", "नमस्ते", "café"]  # noqa: RUF001


@pytest.mark.parametrize("truth", OTHER_SCRIPTS)
def test_a_metric_counts_the_letters_of_every_script(truth):
    dropped = {HEADLINE, "word_accuracy_36_characters", "edit_similarity"}
    assert set(dropped_by(truth)) == dropped
    nothing, near = verdicts("", truth), verdicts(truth[:-1], truth)
    assert nothing[ALL_LETTERS] == near[ALL_LETTERS] == 0
    assert verdicts(truth.upper() + "!", truth)[ALL_LETTERS] == 1
    scores = Scores()
    scores.add("", truth)
    scores.add("word", "word")
    assert scores.dropped == dict.fromkeys(dropped, 1)


@pytest.mark.parametrize("pair", METRICS["pairs"], ids=lambda p: f"{p['pred']!r}-{p['gt']!r}")
def test_it_is_the_paper_s_where_texts_have_no_other_letters(pair):
    if not dropped_by(pair["gt"]) and all_letters(pair["pred"]) == without_symbols(pair["pred"]):
        found = verdicts(pair["pred"], pair["gt"])
        assert found[ALL_LETTERS] == found[HEADLINE]


def test_what_each_metric_drops():
    assert dropped_by("漢字") == ["word_accuracy_36_characters"]
    assert dropped_by("a^b €5 ½ 2²!") == dropped_by("") == []
    assert all_letters("A^b-€ É٣ ½") == "a^bé٣"
    assert verdicts("a", "b").keys() == verdicts(None, "b").keys()
