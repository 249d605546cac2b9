"""Words are what detectors agree on, whatever their order; everything else is counted by the reason."""

import json
from itertools import permutations

import cv2
import numpy as np
import pytest

from data_pipelines.construct import __main__ as construct
from data_pipelines.construct.agreement import agreements
from data_pipelines.images.decoding import decode_image
from data_pipelines.sources.archives import read_file


def box(x, y, w=40, h=20):
    return [(x, y), (x + w, y), (x + w, y + h), (x, y + h)]


def test_the_nearest_polygons_are_one_word():
    """The middle one of three in a row agrees with both others; it belongs to the one that it covers most."""
    first, second = [box(0, 0), box(7, 0)], [box(5, 0)]
    words = agreements([first, second])
    assert [word.polygons for word in words] == [{0: box(7, 0), 1: box(5, 0)}, {0: box(0, 0)}]
    assert words[0].overlap == pytest.approx(38 / 42)


def test_each_two_have_to_agree():
    """Each neighbour of a chain overlaps by 0.78, the ends by 0.6."""
    chain = [[box(0, 0)], [box(5, 0)], [box(10, 0)]]
    assert [len(word.polygons) for word in agreements(chain)] == [2, 1]
    assert [len(word.polygons) for word in agreements([[box(0, 0)], [box(5, 0)], [box(3, 0)]])] == [3]


def test_words_do_not_depend_on_the_order_of_the_detectors():
    rng = np.random.default_rng(0)
    places = [(x, y) for x in range(0, 300, 60) for y in range(0, 120, 30)]
    found = [[box(*(p + rng.uniform(-2.5, 2.5, 2))) for p in places if rng.random() < 0.8] for _ in range(3)]

    def sets(order):
        words = agreements([found[k] for k in order])
        return {frozenset((order[k], tuple(map(tuple, p))) for k, p in word.polygons.items()) for word in words}

    assert len({frozenset(sets(order)) for order in permutations(range(3))}) == 1
    assert {len(word) for word in sets((0, 1, 2))} == {1, 2, 3}
    assert sum(map(len, sets((0, 1, 2)))) == sum(map(len, found))


def test_crossed_polygons_are_repaired_and_those_without_an_area_are_no_words():
    bow = [(0, 0), (40, 20), (40, 0), (0, 20)]
    assert [word.polygons for word in agreements([[bow], [box(0, 0)], [bow]])] == [{0: bow, 2: bow}, {1: box(0, 0)}]
    assert agreements([[[(0, 0), (5, 5), (9, 9)]], [[(0, 0), (5, 5), (9, 9)]]]) == []
    assert agreements([[], []]) == []


WORDS = {"a": box(10, 10), "low": box(60, 10, 40, 6), "out": box(500, 500), "unsure": box(10, 60)}


@pytest.fixture
def found(tmp_path):
    """Three detectors on three pictures, one of which does not decode; the second has them in another order."""
    (tmp_path / "photos").mkdir()
    picture = np.random.default_rng(0).integers(0, 255, (100, 120, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "photos" / "0.png"), picture)
    cv2.imwrite(str(tmp_path / "photos" / "1.png"), picture)
    (tmp_path / "photos" / "2.png").write_bytes(b"no picture")
    for k in range(3):
        moved = [[(x + k, y) for x, y in polygon] for polygon in WORDS.values()]
        lines = [
            {"img": "0.png", "polygons": moved, "scores": [0.9, 0.9, 0.9, 0.9 if k else 0.2]},
            {"img": "1.png", "polygons": moved[:1] if k < 2 else [], "scores": [0.9] if k < 2 else []},
            {"img": "2.png", "polygons": moved[:1], "scores": [0.9]},
        ]
        write(tmp_path / f"{k}.jsonl", lines[::-1] if k == 1 else lines)
    return tmp_path


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def run(folder):
    files = [str(folder / f"{k}.jsonl") for k in range(3)]
    arguments = [
        "find-unlabelled",
        str(folder / "photos"),
        "--detections",
        *files,
        "--out",
        str(folder / "words.jsonl"),
    ]
    return construct.main([*arguments, "--min-scores", "0.5", "0.5", "0.5", "--images", "archives", "--workers", "0"])


def test_words_that_all_detectors_found_are_cut_out_and_the_rest_is_counted(found):
    assert run(found) == 0
    (word,) = [json.loads(line) for line in (found / "words.jsonl").read_text().splitlines()]
    assert (word["picture"], word["text"], word["source"]) == ("0.png", None, "words")
    # The smallest rectangle around all three polygons.
    assert word["filename"] == "words/000000000.zip/000000000_0000.jpg"
    assert decode_image(read_file(str(found / word["filename"]))).shape == (20, 42, 3)
    assert json.loads((found / "words.report.json").read_text())["dropped"] == {
        "found by 2 of 3 detectors": 2,
        "picture cannot be read": 1,
        "a side of less than 8 pixels": 1,
        "polygon outside of the picture": 1,
    }


@pytest.mark.parametrize(
    ("number", "change", "told"),
    [
        (1, lambda lines: lines[1:], "1.jsonl: has no line about 2.png"),
        (2, lambda lines: [*lines, {"img": "9.png", "polygons": [], "scores": []}], "2.jsonl: has 1 pictures that"),
        (0, lambda lines: [{"img": "../0.png", "polygons": [], "scores": []}], "0.jsonl:1: img: "),
        (0, lambda lines: [{"img": "0.png", "polygons": [[[0, 0], [1, 1]]], "scores": [1]}], "0.jsonl:1: polygons.0: "),
        (2, lambda lines: [lines[0] | {"scores": []}], "2.jsonl:1: line: Value error, has 4 polygons and 0 scores"),
        (2, lambda lines: [lines[0] | {"polygons": [[[0, float("nan")]] * 3]}], "2.jsonl:1: polygons.0.0.1: "),
        (0, lambda lines: [], "0.jsonl: holds no pictures"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_in_a_line(number, change, told, found, capsys):
    path = found / f"{number}.jsonl"
    write(path, change([json.loads(line) for line in path.read_text().splitlines()]))
    assert run(found) == 1
    assert told in capsys.readouterr().err


def test_numbers_of_detectors(found, capsys):
    one = ["find-unlabelled", str(found), "--out", str(found / "w.jsonl"), "--detections", str(found / "0.jsonl")]
    assert construct.main(one) == 1
    assert "at least two detectors" in capsys.readouterr().err
    assert construct.main([*one, str(found / "1.jsonl"), "--min-scores", "1"]) == 1
    assert "a number for each of the 2 detectors" in capsys.readouterr().err
