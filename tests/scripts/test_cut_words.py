"""scripts/cut_words.py: pieces show what their labels say, and whatever is left out is counted."""

import json
import subprocess
import sys

import numpy as np
import pytest

from data_pipelines.errors import UserError
from data_pipelines.sources.files import Annotations
from maerec_jax import Recognizer
from tests.conftest import REPOSITORY
from tests.scripts.conftest import printed_words, write_list

SCRIPT = REPOSITORY / "scripts" / "cut_words.py"


@pytest.fixture(scope="module")
def cut_words(script_module):
    """The script as a module."""
    return script_module("cut_words")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A data root with twelve plainly printed words; then one that is no image, a short one, and a wrong label."""
    folder = tmp_path_factory.mktemp("root")
    records = printed_words(folder, 13, 5, 8)
    (folder / "bad.png").write_bytes(b"no image")
    records[12]["text"] = "somethingelse"
    records += [{"filename": "bad.png", "text": "lost"}, {"filename": "0.png", "text": "no"}]
    write_list(folder / "words.jsonl", records)
    return folder


def test_pieces_of_printed_words(root):
    command = [sys.executable, SCRIPT, "--data", root, "--lists", "words.jsonl"]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert finished.returncode == 0, finished.stderr
    assert "left out: words.jsonl, record 13" in finished.stdout
    for expected in ("words: 15", "words left out: unreadable: 1", "words left out: short, portrait or with spaces: 1"):
        assert expected in finished.stdout
    source = Annotations("pieces/pieces.jsonl").open(root)
    assert len(source) >= 20
    labels = [json.loads(line)["text"] for line in (root / "words.jsonl").read_text().splitlines()]
    texts = [source.text(i) for i in range(len(source))]
    assert all(any(text in label and text != label for label in labels[:12]) for text in texts)
    read = Recognizer.load(batch_size=64).read([root / source.name(i) for i in range(len(source))])
    assert sum(word.text == text for word, text in zip(read, texts, strict=True)) > 0.8 * len(texts)
    again = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert again.returncode == 1
    assert "is there already" in again.stderr
    outside = subprocess.run([*command, "--output", "../pieces"], capture_output=True, text=True, cwd=REPOSITORY)
    assert outside.returncode == 1
    assert "is not inside of the data root" in outside.stderr


def test_pieces_of_a_folder_within_another_are_its_own(root, cut_words):
    """Both have an image of the same name; each list means its own."""
    for output, lists in (("one", "words.jsonl"), ("one/two", "other.jsonl")):
        lines = (root / "words.jsonl").read_text().splitlines()[:4]
        (root / "other.jsonl").write_text("\n".join(reversed(lines)))
        assert cut_words.cut_words(cut_words.CutArguments(data=str(root), lists=(lists,), output=output)) == 0
    words = {json.loads(line)["text"] for line in lines}
    inner = Annotations("one/two/pieces.jsonl").open(root)
    for i in range(len(inner)):
        assert inner.name(i).startswith("one/two/images/")
        assert any(inner.text(i) in word for word in words)


def test_nothing_to_cut_is_an_error(root, cut_words):
    (root / "short.jsonl").write_text('{"filename": "0.png", "text": "no"}')
    with pytest.raises(UserError, match="no pieces"):
        cut_words.cut_words(cut_words.CutArguments(data=str(root), lists=("short.jsonl",), output="none"))
    assert not [path for path in root.iterdir() if "none" in path.name]


def test_borders_lie_between_characters(cut_words):
    """Off the ink, where the attention leaves room for it; in a plain picture where attention changes hands."""
    maps = np.zeros((3, 32))
    for row, middle in enumerate((4, 15, 27)):
        maps[row, middle - 2 : middle + 2] = 1
    picture = np.full((32, 128, 3), 200, np.uint8)
    for left, right in ((4, 32), (48, 78), (98, 120)):
        picture[8:24, left:right] = 20
    borders = cut_words.character_borders(maps, picture)
    assert borders[[0, -1]].tolist() == [0, 1]
    assert 32 / 128 <= borders[1] <= 48 / 128
    assert 78 / 128 <= borders[2] <= 98 / 128
    plain = cut_words.character_borders(maps, np.full((32, 128, 3), 200, np.uint8))
    assert 6 / 32 <= plain[1] <= 13 / 32
    assert cut_words.character_borders(maps[::-1], picture) is None
    assert cut_words.character_borders(maps[[0, 0, 1]], picture) is None


def test_cuts_depend_on_the_image_and_the_seed(cut_words):
    pixels = np.arange(300, dtype=np.uint8)[None, :, None].repeat(20, 0).repeat(3, 2)
    word = cut_words.Labelled("a_1", "imgs/1.jpg", pixels, "abcdef")
    borders = np.linspace(0, 1, 7)

    def pieces(seed, image="imgs/1.jpg", taken=word):
        return list(cut_words.cut(taken._replace(image=image), borders, 4, seed))

    def texts(*arguments):
        return [piece.text for piece in pieces(*arguments)]

    assert texts(0) == texts(0)
    assert texts(0) != texts(1)
    assert texts(0) != texts(0, "imgs/2.jpg")
    made = [pieces(seed) for seed in range(50)]
    assert max(map(len, made)) == 4
    for piece in (piece for each in made for piece in each):
        first, count = map(int, piece.name.split("_")[2:])
        assert piece.text == "abcdef"[first : first + count]
        height, width = piece.pixels.shape[:2]
        assert (height, count * 50) == (20, pytest.approx(width, abs=2 * 0.15 * 50 + 2))
    assert sum(len(piece.text) for each in made for piece in each) / sum(map(len, made)) > 3


def test_pieces_that_would_be_taken_for_vertical_words_are_left_out(cut_words):
    narrow = cut_words.Labelled("a_1", "imgs/1.jpg", np.zeros((100, 120, 3), np.uint8), "abcdef")
    made = [piece for seed in range(20) for piece in cut_words.cut(narrow, np.linspace(0, 1, 7), 4, seed)]
    assert made
    assert all(len(piece.text) == 1 or piece.pixels.shape[0] < 2 * piece.pixels.shape[1] for piece in made)


def test_readings_off_by_more_than_a_character_tell_of_wrong_cuts(cut_words):
    assert cut_words.nearly("word", "word")
    assert cut_words.nearly("w0rd", "word")
    assert not cut_words.nearly("w0rb", "word")
    assert not cut_words.nearly("ord", "word")
    assert not cut_words.nearly("xb", "ab")
    assert not cut_words.nearly("x", "a")
