"""Levels are what counting votes one by one gives, whatever the form and order of the files of readings."""

import json
from fractions import Fraction

import cv2
import numpy as np
import pytest

from data_pipelines.charset import composed
from data_pipelines.construct import __main__ as construct
from data_pipelines.construct import readings, vote
from data_pipelines.construct.vote import level_of
from data_pipelines.sources.files import Annotations
from maerec_jax.evaluation.predictions import Prediction
from maerec_jax.reading.scoring import HEADLINE, verdicts

LABELS = ["Hello!", "B", "STOP", "caf\u00e9", "12:30", "WRONG", "dark"]
READ = [  # what five recognisers read in each
    ["hello", "HELLO", "Hello!", "hell0", "hello."],
    ["8", "B", "8", "8", "8"],
    ["STOP", "SLOP", "STEP", "STUP", "STAP"],
    ["cafe\u0301", "cafe", "caf", "x", "y"],
    ["1230", "12.30", "12:30", "1230", "12 30"],
    ["right", "Right", "RIGHT", "right!", "right"],
    [None, "", "", "", ""],
]
NAMES = [f"w/{n}.png" for n in range(len(LABELS))]
EXPECTED = ["easy", "hard", "hard", "medium", "easy", "challenging", "challenging"]


def as_predicted(k, prefix=""):
    for n, name in enumerate(NAMES):
        read = READ[n][k]
        outcome = "used" if read is not None else "unreadable"
        yield Prediction("s", n, prefix + name, LABELS[n], read or "", 0.5, (), 8, 16, outcome).to_line()


def write_files(folder):
    """A file of readings in each form: in order, in another order, with folders before the names, as text."""
    (folder / "w").mkdir(parents=True)
    for name in NAMES:
        cv2.imwrite(str(folder / name), np.full((8, 16, 3), 99, np.uint8))
    words = [{"filename": name, "text": label} for name, label in zip(NAMES, LABELS, strict=True)]
    lists = {"words.jsonl": map(json.dumps, words)}
    lists["0.jsonl"] = as_predicted(0)
    lists["1.jsonl"] = [*reversed([*as_predicted(1)]), json.dumps({"file": "another.png", "reading": "x"})]
    first, upright, *rest = as_predicted(2, "data/")
    lists["2.jsonl"] = [first, *rest, upright]  # evaluate reads words that stand upright last
    lists["3.jsonl"] = (json.dumps({"file": f"/a/{n}", "text": r[3]}) for n, r in zip(NAMES, READ, strict=True))
    lists["4.tsv"] = (f"{n}\t{r[4]}" for n, r in zip(NAMES, READ, strict=True))
    for name, lines in lists.items():
        (folder / name).write_text("\n".join(lines) + "\n")
    return sorted(str(folder / name) for name in lists if name[0].isdigit())


def run(folder, files, *flags):
    words, out = str(folder / "words.jsonl"), str(folder / "voted.jsonl")
    return construct.main(["vote", words, "--readings", *files, "--out", out, "--workers", "0", *flags])


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def short_spans(monkeypatch):
    monkeypatch.setattr(readings, "_PART", 3)


@pytest.mark.usefixtures("short_spans")
def test_levels_do_not_depend_on_the_files(tmp_path, capsys):
    files = write_files(tmp_path)
    assert run(tmp_path, files) == 0
    assert "1.jsonl: 1 of its lines are about images that" in capsys.readouterr().err
    voted = lines_of(tmp_path / "voted.jsonl")
    told = [[read and composed(read) for read in each] for each in READ]
    right = [sum(verdicts(read, label)[HEADLINE] for read in each) for label, each in zip(LABELS, told, strict=True)]
    assert [word["right"] for word in voted] == right
    assert [word["level"] for word in voted] == EXPECTED
    for level in vote.LEVELS:
        listed = lines_of(tmp_path / f"train_{level}.jsonl")
        assert [word["filename"] for word in listed] == [n for n, e in zip(NAMES, EXPECTED, strict=True) if e == level]
    assert [Annotations("train_hard.jsonl").open(tmp_path).text(n) for n in range(2)] == ["B", "STOP"]


def test_a_label_that_all_contradict_alike_is_listed_and_drawn(tmp_path):
    assert run(tmp_path, write_files(tmp_path)) == 0
    (listed,) = lines_of(tmp_path / "voted.contradicted.jsonl")
    assert (listed["text"], listed["contradicted"]) == ("WRONG", "right")
    assert cv2.imread(str(tmp_path / "voted.contradicted.png")).shape == (82, 1000, 3)


def test_levels_of_an_earlier_vote_are_forgotten_and_lists_of_others_kept(tmp_path, capsys):
    files = write_files(tmp_path)
    words = lines_of(tmp_path / "words.jsonl")
    old = [word | {"level": "easy", "contradicted": "x", "right": 9} for word in words]
    (tmp_path / "words.jsonl").write_text("".join(json.dumps(word) + "\n" for word in old))
    (tmp_path / "train_hard.jsonl").write_text("another list")
    assert run(tmp_path, files) == 1
    assert "train_hard.jsonl: is there, and vote would write its own" in capsys.readouterr().err
    (tmp_path / "train_hard.jsonl").unlink()
    assert run(tmp_path, files) == 0
    assert [word["level"] for word in lines_of(tmp_path / "voted.jsonl")] == EXPECTED
    assert len(lines_of(tmp_path / "voted.contradicted.jsonl")) == 1


@pytest.mark.parametrize("recognisers", [1, 2, 3, 13, 26])
def test_thresholds_are_the_papers_shares(recognisers):
    levels = [level_of(right, recognisers) for right in range(recognisers + 1)]
    shares = [Fraction(right * 13, recognisers) for right in range(recognisers + 1)]
    names = ("challenging", "hard", "medium", "normal", "easy")
    assert levels == [names[sum(share > most for most in (0, 4, 7, 10))] for share in shares]


def lose(lines):
    return [line for line in lines if NAMES[4] not in line]


@pytest.mark.usefixtures("short_spans")
@pytest.mark.parametrize(
    ("number", "change", "told"),
    [
        (0, lose, f"0.jsonl: has no line about {NAMES[4]}"),
        (2, lose, f"2.jsonl: has no line about data/{NAMES[4]}"),
        (1, lambda lines: [*lines, lines[2]], f"1.jsonl: has two lines about {NAMES[4]}"),
        (
            3,
            lambda lines: [line.replace("w/", "v/") for line in lines],
            "3.jsonl: has no line about w/0.png, the first",
        ),
        (0, lambda lines: [lines[0], lines[2], *lines[2:]], "0.jsonl:2: is about w/2.png, where w/1.png was"),
        (0, lambda lines: [*lines[:4], "{", *lines[5:]], "0.jsonl:5: Invalid JSON"),
        (0, lambda lines: ['{"file": "a"}'], "0.jsonl:1: has none of the fields reading, prediction"),
        (4, lambda lines: ["w/0.png"], "4.tsv:1: has no tab"),
        (
            0,
            lambda lines: [line.replace('"reading": "', '"reading": 3, "x": "') for line in lines],
            "0.jsonl:1: has no",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_told_in_a_line(number, change, told, tmp_path, capsys):
    files = write_files(tmp_path)
    with open(files[number], encoding="utf-8") as file:
        lines = change(file.read().splitlines())
    with open(files[number], "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    assert run(tmp_path, files) == 1
    assert told in capsys.readouterr().err


def test_words_without_labels_are_refused(tmp_path, capsys):
    files = write_files(tmp_path)
    (tmp_path / "words.jsonl").write_text('{"filename": "w/0.png", "text": null}\n')
    assert run(tmp_path, files) == 1
    assert "words.jsonl: w/0.png has no label" in capsys.readouterr().err
    assert run(tmp_path, [str(tmp_path / "none.jsonl")]) == 1
    assert "none.jsonl" in capsys.readouterr().err
