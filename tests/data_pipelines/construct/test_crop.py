"""Cutting words out of pictures: what is cut, what is left out and why; and that being killed changes nothing."""

import json
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest

from data_pipelines.construct import crop as crop_step
from data_pipelines.construct.__main__ import main
from data_pipelines.construct.cutting import cut_out, fault_of
from data_pipelines.images.decoding import decode_image
from data_pipelines.sources.files import Annotations
from tests.data_pipelines.killing import kill_9


def corners(left, top, right, bottom):
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def picture(seed, height=60, width=120):
    """Noise of low frequencies, which JPEG keeps."""
    noise = np.random.default_rng(seed).integers(0, 255, (6, 12, 3), np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def marked(tmp_path):
    """A function that writes pictures and a PPOCRLabel file of the words in them; returns crop's arguments."""

    def mark(words_of, ending=".png"):
        (tmp_path / "pictures").mkdir(exist_ok=True)
        for number, name in enumerate(words_of):
            if not name.startswith(("no", "..")):
                data = cv2.imencode(ending, picture(number))[1].tobytes()
                (tmp_path / "pictures" / name).write_bytes(data if "broken" not in name else data[:60])
        lines = [
            f"{name}\t{json.dumps([{'points': p, 'transcription': t, **more} for p, t, more in words])}\n"
            for name, words in words_of.items()
        ]
        (tmp_path / "Label.txt").write_text("".join(lines), encoding="utf-8")
        where = ["--pictures", str(tmp_path / "pictures"), "--out", str(tmp_path / "words/shops.jsonl")]
        return ["crop", str(tmp_path / "Label.txt"), "--format", "ppocr", *where]

    return mark


def listed(tmp_path):
    return [json.loads(line) for line in (tmp_path / "words/shops.jsonl").read_text().splitlines()]


def dropped(tmp_path):
    return json.loads((tmp_path / "words/shops.report.json").read_text())["dropped"]


BOX = corners(10, 20, 60, 40)
WORDS = {
    "a.png": [(BOX, "Shop 1", {}), ([[12.4, 3], [70.2, 5.5], [69, 18], [11, 17]], "open", {}), (BOX, "###", {})],
    "no picture.png": [(BOX, "x", {}), (BOX, "y", {})],
    "broken.png": [(BOX, "x", {})],
    "../c.png": [(BOX, "x", {})],
    "b.png": [
        (BOX[:2], "two corners", {}),
        ([[float("nan"), 1], *BOX], "NaN", {}),
        (corners(10, 20, 10, 40), "no width", {}),
        (corners(-50, 20, -1, 40), "left of it", {}),
        (corners(100, 50, 1e30, 70), "edge", {}),
        (BOX, "日本", {}),
        (BOX, " ", {}),
        (BOX, "ignored", {"difficult": True}),
        (BOX, "*", {}),
    ],
}


def test_words_are_cut_out_and_the_others_counted(marked, tmp_path, capsys):
    assert main([*marked(WORDS), "--workers", "0"]) == 0
    shop, opened, edge = words = listed(tmp_path)
    assert [word["text"] for word in words] == ["Shop 1", "open", "edge"]
    assert (shop["source"], shop["picture"], shop["polygon"]) == ("shops", "a.png", BOX)
    cut = decode_image((tmp_path / "words" / opened["filename"]).read_bytes())
    assert cut.shape == (18 - 3, 71 - 11, 3)
    original = cv2.cvtColor(picture(0), cv2.COLOR_BGR2RGB)[3:18, 11:71]
    assert np.abs(cut.astype(int) - original).mean() < 4
    assert decode_image((tmp_path / "words" / edge["filename"]).read_bytes()).shape == (10, 20, 3)
    assert dropped(tmp_path) == {
        "picture not found": 2,
        "marked as illegible": 2,
        "no polygon of at least 3 corners": 2,
        "picture cannot be read": 1,
        "picture outside of the folder of pictures": 1,
        "polygon without an area": 1,
        "polygon outside of the picture": 1,
        "characters outside of the charset": 1,
        "empty label": 1,
        "marked as ignored": 1,
    }
    told = capsys.readouterr().out
    assert "left out: marked as illegible" in told
    assert len(Annotations("shops.jsonl").open(tmp_path / "words")) == 3


def test_what_is_left_out_can_be_kept(marked, tmp_path):
    flags = ["--ignored", "keep", "--illegible", "keep", "--other-characters", "keep", "--illegible-marks", "no width"]
    assert main([*marked({"b.png": WORDS["b.png"]}), *flags, "--workers", "0", "--source", "mine"]) == 0
    assert [word["text"] for word in listed(tmp_path)] == ["edge", "日本", "ignored", None]
    assert {word["source"] for word in listed(tmp_path)} == {"mine"}
    assert dropped(tmp_path)["polygon without an area"] == 1  # without a label


def test_links_lead_out_of_the_folder_no_more_than_names_do(marked, tmp_path):
    arguments = marked({"a.png": [(BOX, "in", {})], "b.png": [(BOX, "out", {})]})
    (tmp_path / "pictures/b.png").rename(tmp_path / "secret.png")
    (tmp_path / "pictures/b.png").symlink_to(tmp_path / "secret.png")
    assert main([*arguments, "--workers", "0"]) == 0
    assert dropped(tmp_path) == {"picture outside of the folder of pictures": 1}


def test_annotations_of_other_pictures_are_refused(marked, capsys):
    assert main([*marked({"no a.png": [], "no b.png": [(BOX, "x", {})]}), "--workers", "0"]) == 1
    assert "none of its first pictures (no a.png, ...) is in" in capsys.readouterr().err


def test_the_style_of_cutting():
    """A word that is drawn level, turned with its polygon, and cut out again is what it was."""
    level = np.zeros((200, 200, 3), np.uint8)
    level[90:110, 60:140] = cv2.resize(picture(5), (80, 20))
    for angle in (0, 20, -35, 60):
        matrix = cv2.getRotationMatrix2D((99.5, 99.5), angle, 1)
        turned = cv2.warpAffine(level, matrix, (200, 200), flags=cv2.INTER_LINEAR)
        polygon = cv2.transform(np.array([corners(60, 90, 140, 110)], float) - 0.5, matrix)[0] + 0.5
        assert not fault_of(polygon, 200, 200)
        for style in ("rotated", "rectified"):
            word = cut_out(turned, polygon, style)
            assert abs(word.shape[0] - 20) <= 1, (angle, style)
            assert abs(word.shape[1] - 80) <= 1
            inner = cv2.resize(word, (80, 20))[3:-3, 3:-3]
            assert np.abs(inner.astype(int) - level[93:107, 63:137]).mean() < 12, (angle, style)
        box = cut_out(turned, polygon, "box")
        assert box.shape[0] == int(np.ceil(polygon[:, 1].max()) - np.floor(polygon[:, 1].min()))


def test_a_rotated_word_is_black_outside_of_the_picture_only():
    white = np.full((60, 120, 3), 255, np.uint8)
    slanted = np.array([[20, 20], [80, 22], [70, 40], [24, 36]], float)
    assert cut_out(white, slanted, "rotated").min() == 255
    assert cut_out(white, np.array([[0, 0], [50, 20], [46, 30], [0, 14]], float), "rotated").min() == 0


def test_words_in_archives_are_those_in_files(marked, tmp_path, monkeypatch):
    monkeypatch.setattr(crop_step, "_PART", 2)
    arguments = [*marked({f"{n}.png": [(BOX, f"w{n}", {}), (BOX, "x", {})] for n in range(5)}), "--workers", "0"]
    assert main(arguments) == 0
    source = Annotations("shops.jsonl").open(tmp_path / "words")
    words = [source[n] for n in range(10)]
    shutil.rmtree(tmp_path / "words")
    arguments += ["--images", "archives"]
    assert main(arguments) == 0
    packed = Annotations("shops.jsonl").open(tmp_path / "words")
    assert [packed[n] for n in range(10)] == words
    assert packed.name(3) == "shops/000000000.zip/000000001_0001.jpg"
    whole = tree(tmp_path / "words")
    assert len([name for name in whole if name.endswith(".zip")]) == 3

    # Stopped when an archive is there, and its part is not, it makes the archive again.
    shutil.rmtree(tmp_path / "words")
    with monkeypatch.context() as patched:
        patched.setattr("data_pipelines.construct.steps.words_as_lines", lambda words: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            main(arguments)
    assert (tmp_path / "words/shops/000000000.zip").exists()
    assert main(arguments) == 0
    assert tree(tmp_path / "words") == whole

    # What follows finds them there.
    lists = [str(tmp_path / f"words/{name}.jsonl") for name in ("shops", "unique")]
    assert main(["deduplicate", lists[0], "--out", lists[1], "--root", str(tmp_path), "--workers", "0"]) == 0
    assert main(["write", lists[1], "--out", str(tmp_path / "set"), "--workers", "0"]) == 0
    names = [json.loads(line)["filename"] for line in (tmp_path / "words/unique.jsonl").read_text().splitlines()]
    made = tmp_path / "set/full_images/unique" / names[0].replace(".zip/", "/")
    assert made.read_bytes() == words[0].image


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_kill_9_changes_nothing_and_costs_no_finished_part(marked, tmp_path):
    words = {f"{number:04d}.png": [(BOX, f"w{number}", {}), (BOX, "*", {})] for number in range(64 * 8)}
    arguments = marked(words)
    assert main([*arguments, "--workers", "0"]) == 0
    (tmp_path / "words").rename(tmp_path / "whole")

    command = [sys.executable, "-m", "data_pipelines.construct", *arguments, "--workers", "1"]
    parts = tmp_path / "words/.shops.unfinished"
    finished = kill_9(command, parts, "words-??????", lambda: _stats(parts))
    assert 3 <= len(finished) < 8
    assert not (tmp_path / "words/shops.jsonl").exists()
    (tmp_path / "words/shops/000000/000000000_0000.jpg").unlink()  # nothing of a finished part is made again
    assert main([*arguments, "--workers", "0"]) == 0
    assert not parts.exists()
    assert not (tmp_path / "words/shops/000000/000000000_0000.jpg").exists()
    (tmp_path / "whole/shops/000000/000000000_0000.jpg").unlink()
    assert tree(tmp_path / "words") == tree(tmp_path / "whole")


def _stats(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("words-??????")}


def test_a_full_disk_is_one_line(marked):
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700));"
        "from data_pipelines.construct.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = marked({"a.png": [(corners(0, 0, 120, 60), "x", {})]})
    done = subprocess.run([sys.executable, "-c", script, *arguments, "--workers", "0"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "repeat the command when that is mended" in done.stderr


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (["--out", "words"], "give the name of a list that ends with .jsonl"),
        (["--workers", "-1"], "--workers must not be negative"),
        (["--charset", "gone.txt"], "gone.txt: No such file"),
    ],
)
def test_mistakes_are_one_line(change, told, marked, capsys):
    assert main([*marked({"a.png": []}), *change]) == 1
    assert told in capsys.readouterr().err


def test_steps_are_listed(capsys):
    assert main(["--help"]) == 0
    assert "crop" in capsys.readouterr().out
    assert main(["nosuch"]) == 1
    assert "there is no step 'nosuch'" in capsys.readouterr().err
