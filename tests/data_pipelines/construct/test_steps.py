"""Running a step in parts: stopped anywhere and repeated, it makes the same list and does nothing twice."""

import json
from collections import Counter

import pytest

from data_pipelines.construct.records import Word, read_words, spans_of, words_as_lines
from data_pipelines.construct.report import IN, OUT, Report
from data_pipelines.construct.steps import Outcome, Running, run_step
from data_pipelines.errors import DataError

WORDS = [Word(filename=f"w/{n}.jpg", text=str(n), rank=n) for n in range(10)]


@pytest.fixture
def listed(tmp_path):
    path = tmp_path / "words.jsonl"
    path.write_bytes(b"".join(words_as_lines(WORDS)))
    return path


def keep_even(span):
    words = list(read_words(span))
    kept = [word for word in words if word.rank % 2 == 0]
    return Outcome(kept, Counter({IN: len(words), OUT: len(kept), "odd": len(words) - len(kept)}))


def run(listed, out, step=keep_even, workers=0):
    return run_step(step, lambda _: spans_of(listed, 3), out, {"step": "even", "words": 10}, Running(workers=workers))


def test_what_a_step_makes_and_reports(listed, tmp_path):
    report = run(listed, tmp_path / "even.jsonl", workers=2)
    (span,) = spans_of(tmp_path / "even.jsonl", 99)
    assert list(read_words(span)) == WORDS[::2]
    assert json.loads((tmp_path / "even.report.json").read_text())["dropped"] == {"odd": 5} == report.dropped
    with pytest.raises(AssertionError, match="has lost words"):
        Report({"step": "even"}, Counter({IN: 2, OUT: 1}))


@pytest.mark.parametrize("stop", range(4))
def test_a_stopped_step_goes_on_where_it_was(stop, listed, tmp_path):
    done = []

    def stopped(span):
        if len(done) == stop:
            raise KeyboardInterrupt
        done.append(span.first)
        return keep_even(span)

    out = tmp_path / "even.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run(listed, out, stopped)
    assert not out.exists()
    before, stop = len(done), 99
    run(listed, out, stopped)
    assert done == [0, 3, 6, 9]
    assert before < 4
    run(listed, out, stopped)  # a finished list is left as it is
    assert len(done) == 4
    run(listed, tmp_path / "whole.jsonl")
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert {path.name for path in tmp_path.iterdir() if path.name.startswith(".")} == set()


def test_other_settings_are_refused(listed, tmp_path):
    out = tmp_path / "even.jsonl"
    other = {"step": "even", "words": 11, "list": "f" * 64}

    def fail(span):
        return keep_even(span) if span.first == 0 else 1 / 0

    with pytest.raises(ZeroDivisionError):  # before anything is finished, they may change
        run_step(lambda span: 1 / 0, lambda _: spans_of(listed, 3), out, other, Running(workers=0))
    with pytest.raises(ZeroDivisionError):
        run(listed, out, fail)
    for made in (tmp_path / ".even.unfinished", out):
        told = rf"was made with other settings \(words: 10, now 11; list has changed\).* delete {made}$"
        with pytest.raises(DataError, match=told):
            run_step(keep_even, lambda _: [], out, other, Running(workers=0))
        run(listed, out)
    (tmp_path / "even.report.json").unlink()
    with pytest.raises(DataError, match="is there, without a report"):
        run(listed, out)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"filename": "../a.jpg", "text": "a"}', "words.jsonl:11: filename: .*within its folder"),
        ('{"filename": "a.jpg"}', "words.jsonl:11: text: Field required"),
        ('{"filename": "a.jpg", "text": "a", "polygon": [[1, NaN]]}', r"words.jsonl:11: polygon.0.1: "),
        ("{", "words.jsonl:11: JSON: "),
    ],
)
def test_a_line_that_is_no_word_is_named(line, told, listed):
    with listed.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=told):
        [*read_words(spans_of(listed, 5)[-1])]
