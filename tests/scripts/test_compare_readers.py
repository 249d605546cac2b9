"""scripts/weights/compare_readers.py: what it counts, and that both readers read real files."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from data_pipelines.rendering import RenderedWords
from tests.conftest import REPOSITORY
from tests.scripts.conftest import printed_words, write_list

SCRIPT = REPOSITORY / "scripts" / "weights" / "compare_readers.py"


@pytest.fixture(scope="module")
def compare_readers(script_module):
    """The script as a module."""
    return script_module("weights/compare_readers")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A data root with a set of four plainly printed words, one of which is no image."""
    folder = tmp_path_factory.mktemp("root")
    write_list(folder / "words.jsonl", printed_words(folder, 4, 4, 6))
    (folder / "3.png").write_bytes(b"no image")
    return folder


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("SALE", ["4-6 long", "UPPER"]),
        ("Don't", ["4-6 long", "Title", "with punctuation"]),
        ("no", ["1-3 long", "lower"]),
        ("iPhones", ["7-10 long", "miXed"]),
        ("2,500", ["4-6 long", "no letters", "with punctuation"]),
        ("FISH and chips", ["11 and longer", "miXed", "several words"]),
    ],
)
def test_a_word_belongs_to_a_length_and_a_case(compare_readers, text, kinds):
    assert list(compare_readers.kinds_of(text)) == kinds
    assert set(kinds) <= set(compare_readers.KINDS)


def test_full_width_punctuation_is_plain(compare_readers):
    assert compare_readers.normal("\uff08OPEN\uff1a7\uff09") == "(OPEN:7)"
    assert compare_readers.normal(None) is None


def test_every_word_counts_once_in_its_set_and_in_all(compare_readers):
    tally = compare_readers.Tally()
    for measured, reading, truth in (("a", "SALE", "SALE"), ("a", "sale", "SALE"), ("b", None, "7")):
        tally.add(measured, reading, truth)
    told = tally.summary()
    assert [told["sets"][name]["words"] for name in ("a", "all", "b")] == [2, 3, 1]
    assert told["sets"]["a"]["word_accuracy"] == 0.5
    assert told["sets"]["a"]["word_accuracy_ignore_case"] == 1
    assert told["sets"]["all"]["word_accuracy"] == pytest.approx(1 / 3)
    assert told["kinds"]["UPPER"]["words"] == 2
    assert told["milliseconds_a_word"] is None


@pytest.fixture
def run(call, compare_readers, root):
    """Calls the command on the set, on any core: the choice of one would stay with this process."""
    where = ["--data", root, "--sets", "words.jsonl", "--core", "-1"]
    return lambda *arguments: call(compare_readers.compare, *where, *arguments)


def test_words_that_training_shows_too_are_counted_by_themselves(run, tmp_path):
    (tmp_path / "overlaps.jsonl").write_text('{"train": "other.png", "benchmark": "2.png"}')
    arguments = ["--readers", "ours", "--overlaps", tmp_path / "overlaps.jsonl", "--json", tmp_path / "told.json"]
    status, told = run(*arguments)
    assert status == 0, told
    kinds = json.loads((tmp_path / "told.json").read_text())["ours"]["kinds"]
    assert kinds["copy in training"]["words"] == 1
    assert kinds["no copy"]["words"] == 3
    (tmp_path / "overlaps.jsonl").write_text('{"train": "other.png", "benchmark": "elsewhere/2.png"}')
    status, told = run(*arguments)
    assert status == 1
    assert "names no word of these sets" in told


def test_ours_reads_print_with_the_weights_of_the_package(compare_readers, root):
    source = RenderedWords(difficulty=0.0, min_length=4, max_length=6, size=4).open()
    read = compare_readers.open_ours(compare_readers.ReaderArguments(data=str(root)))
    assert sum(read(source[i].image).casefold() == source.text(i).casefold() for i in range(4)) >= 3


def test_pp_ocr_reads_print_and_what_cannot_be_decoded_is_wrong(run, tmp_path):
    files = ["--json", tmp_path / "told.json", "--misread", tmp_path / "misread.jsonl"]
    status, told = run("--readers", "rapidocr", *files)
    assert status == 0, told
    assert re.search(r"^rapidocr [\d.]+: PP-OCR\S+ \w+$", told, re.MULTILINE)
    assert "words.jsonl" in told
    told = json.loads((tmp_path / "told.json").read_text())["rapidocr"]
    assert told["sets"]["words.jsonl"]["words"] == 4
    assert 0.5 <= told["sets"]["words.jsonl"]["word_accuracy_36_characters"] <= 0.75
    assert told["milliseconds_a_word"] > 0
    assert any(json.loads(line)["rapidocr"] is None for line in (tmp_path / "misread.jsonl").read_text().splitlines())


def test_a_portrait_crop_is_turned_for_pp_ocr(compare_readers):
    read = compare_readers.open_rapidocr()
    pixels = np.asarray(RenderedWords(difficulty=0.0, min_length=5, max_length=6).open()[1].image)
    assert read(pixels) == read(np.rot90(pixels, -1)) != ""


def test_an_unknown_reader_is_an_error(run):
    status, told = run("--readers", "tesseract")
    assert status == 2
    assert "invalid choice 'tesseract'" in told


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes choose no cores here")
def test_a_core_that_there_is_not_is_an_error(root):
    command = [sys.executable, SCRIPT, "--data", root, "--readers", "ours", "--core", "100000"]
    made = subprocess.run(command, capture_output=True, text=True)
    assert made.returncode == 1
    assert made.stderr.startswith("error: --core 100000 is not available; available: ")
