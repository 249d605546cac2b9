"""Every copy is left out and named, the better list keeps its word, and nothing else is left out."""

import json
from itertools import combinations

import cv2
import numpy as np
import pytest

from data_pipelines.construct import __main__ as construct
from data_pipelines.construct import deduplicate
from data_pipelines.construct.copies import LOOKS, find_copies
from data_pipelines.overlaps import search
from data_pipelines.overlaps.hashing import hash_views, short_hashes, thumbnail
from data_pipelines.overlaps.list_file import read_list


def test_near_copies_are_those_that_comparing_all_pairs_finds():
    rng = np.random.default_rng(0)
    looks = np.zeros(400, LOOKS)
    looks["hash"] = rng.integers(1, 2**63, 40)[rng.integers(0, 40, 400)]
    for _ in range(6):
        looks["hash"] ^= np.where(rng.random(400) < 0.5, 1 << rng.integers(0, 64, 400, dtype=np.uint64), 0).astype("u8")
    looks["text"] = rng.integers(0, 4, 400)
    looks["pixels"] = np.arange(400) + 1
    stays = np.ones(400, bool)
    copies = find_copies(looks, stays)["near"]
    expected = np.ones(400, bool)
    for a, b in combinations(range(400), 2):
        same = looks["text"][a] == looks["text"][b] != 0
        if expected[a] and same and int(looks["hash"][a] ^ looks["hash"][b]).bit_count() <= 4:
            expected[b] = False
    assert 20 < (~expected).sum() < 380
    assert stays.tolist() == expected.tolist()
    assert sorted(copies.word.tolist()) == np.flatnonzero(~expected).tolist()
    assert expected[copies.of].all()


def test_words_in_the_same_place_are_those_of_other_lists_only():
    looks = np.zeros(5, LOOKS)
    looks["pixels"], looks["picture"], looks["list"] = np.arange(5) + 1, [7, 7, 7, 7, 8], [0, 0, 1, 1, 1]
    looks["box"] = [(0, 0, 40, 20), (2, 0, 42, 20), (4, 0, 44, 20), (20, 0, 60, 20), (0, 0, 40, 20)]
    stays = np.ones(5, bool)
    (copies,) = (c for c in find_copies(looks, stays).values() if len(c.word))
    assert stays.tolist() == [True, True, False, True, True]
    assert (copies.word.tolist(), copies.of.tolist()) == ([2], [0])
    assert copies.likeness[0] == pytest.approx(36 / 44)


def test_words_without_labels_are_of_pictures_without_labelled_words():
    looks = np.zeros(6, LOOKS)
    looks["pixels"], looks["list"] = np.arange(6) + 1, [0, 0, 1, 1, 1, 1]
    looks["picture"], looks["text"] = [7, 8, 7, 7, 8, 0], [5, 0, 0, 6, 0, 0]
    looks["box"][:, 0] = np.arange(6) * 100
    looks["box"][:, 2:] = 99
    stays = np.ones(6, bool)
    copies = find_copies(looks, stays)["picture"]
    assert (copies.word.tolist(), copies.of.tolist()) == ([2], [0])
    assert stays.tolist() == [True, True, False, True, True, True]


def paler(image):
    return cv2.convertScaleAbs(image, alpha=0.9, beta=9)


def drawn(text):
    blank = np.full((32, 20 * len(text), 3), 220, np.uint8)
    return cv2.putText(blank, text, (4, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (20, 40, 60), 2)


TEXTS = ("Bakery", "HOTEL", "fresh", "Station", "Coffee", "PARKING", "Books")
IMAGES = [drawn(text) for text in TEXTS]


def test_the_hash_of_a_changed_copy_is_near():
    small = [thumbnail(image) for image in IMAGES]
    ones, others = short_hashes(np.stack(small)), short_hashes(np.stack([thumbnail(paler(image)) for image in IMAGES]))
    assert (np.bitwise_count(ones ^ others) <= 4).all()
    assert (np.bitwise_count(ones[:, None] ^ ones) <= 4).sum() == len(TEXTS)
    # Of a single image, too, which NumPy lays out otherwise.
    assert short_hashes(small[0][None]) == ones[0]
    assert (hash_views(small[0][None])[0] == hash_views(np.stack(small))[0][:1]).all()


@pytest.fixture
def lists(tmp_path):
    """Two lists with copies of all kinds, and a benchmark."""

    def save(name, image):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name), image)

    place = {"picture": "train/0123456789abcdef.jpg", "polygon": [[0, 0], [50, 0], [50, 20], [0, 20]]}
    moved = {"picture": "0123456789abcdef.png", "polygon": [[1, 1], [50, 0], [50, 20], [0, 20]]}
    words = {
        "a/0.png": (0, {}),
        "a/1.png": (1, place),
        "a/2.png": (2, {}),
        "b/0.png": (0, {}),  # equal pixels
        "b/1.png": (3, moved),  # the same place
        "b/2.png": (2, {}),  # a near copy
        "b/3.png": (4, {}),  # of the benchmark
        "b/4.png": (5, place | {"picture": "another.jpg"}),
        "b/5.png": (6, {}),
    }
    for name, (number, _) in words.items():
        save(name, paler(IMAGES[number]) if name == "b/2.png" else IMAGES[number])
    (tmp_path / "b/5.png").write_bytes(b"no image")
    lines = {name: {"filename": name, "text": TEXTS[number], **more} for name, (number, more) in words.items()}
    for letter in "ab":
        write(tmp_path / f"{letter}.jsonl", [line for name, line in lines.items() if name[0] == letter])
    save("test/4.png", IMAGES[4])
    write(tmp_path / "test.jsonl", [{"filename": "test/4.png", "text": TEXTS[4]}])
    return tmp_path


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def run(folder, *lists):
    out = str(folder / "unique.jsonl")
    flags = ["--out", out, "--root", str(folder), "--benchmark", "test.jsonl", "--workers", "0"]
    return construct.main(["deduplicate", *lists, *flags])


def test_copies_are_left_out_and_named(lists, capsys):
    assert run(lists, "a.jsonl", "b.jsonl") == 0
    assert "left out: b/5.png: " in capsys.readouterr().err
    kept = [json.loads(line) for line in (lists / "unique.jsonl").read_text().splitlines()]
    assert [word["filename"] for word in kept] == ["a/0.png", "a/1.png", "a/2.png", "b/4.png"]
    assert kept[1]["polygon"][1] == [50, 0]
    removed = {each.train: (each.benchmark, each.kind) for each in read_list(lists / "unique.removed.jsonl")}
    assert removed == {
        "b/0.png": ("a/0.png", "equal"),
        "b/1.png": ("a/1.png", "place"),
        "b/2.png": ("a/2.png", "near"),
        "b/3.png": ("test/4.png", "bytes"),
    }
    assert json.loads((lists / "unique.report.json").read_text())["dropped"] == {
        "image cannot be read": 1,
        "benchmark image": 1,
        "equal pixels": 1,
        "same place of the same picture": 1,
        "near copy with the same label": 1,
    }


def test_unlabelled_words_of_labelled_pictures_are_left_out(lists):
    lines = [json.loads(line) for line in (lists / "b.jsonl").read_text().splitlines()]
    unlabelled = {"text": None, "polygon": [[90, 90], [99, 90], [99, 99]]}
    words = [(lines[2], "0123456789abcdef.png"), (lines[4], "new.jpg")]
    write(lists / "b.jsonl", [line | unlabelled | {"picture": picture} for line, picture in words])
    assert run(lists, "a.jsonl", "b.jsonl") == 0
    kept = [json.loads(line) for line in (lists / "unique.jsonl").read_text().splitlines()]
    assert [(word["filename"], word["text"]) for word in kept[3:]] == [("b/4.png", None)]
    dropped = {"without a label, of a picture with labelled words": 1}
    assert json.loads((lists / "unique.report.json").read_text())["dropped"] == dropped


def test_the_better_list_keeps_its_words(lists):
    assert run(lists, "b.jsonl", "a.jsonl") == 0
    kept = [json.loads(line)["filename"] for line in (lists / "unique.jsonl").read_text().splitlines()]
    assert kept == ["b/0.png", "b/1.png", "b/2.png", "b/4.png"]


def test_lists_must_be_there_and_in_one_folder(lists, capsys):
    assert run(lists, "a.jsonl", "test/none.jsonl") == 1
    assert "none.jsonl: is not in the folder of" in capsys.readouterr().err
    assert run(lists, "a.jsonl", "none.jsonl") == 1
    assert "none.jsonl" in capsys.readouterr().err


def test_a_stopped_run_does_not_read_the_benchmark_again(lists, monkeypatch):
    look_at, read = search.look_at, []

    def counted(source, start, stop):
        read.append(source.name(start))
        return look_at(source, start, stop)

    monkeypatch.setattr(search, "look_at", counted)
    with monkeypatch.context() as patch:
        patch.setattr(deduplicate, "look_at", interrupted)
        assert run(lists, "a.jsonl") == 1
    assert read == ["test/4.png"]
    assert run(lists, "a.jsonl") == 0
    assert read == ["test/4.png"]


def interrupted(*_):
    raise KeyboardInterrupt
