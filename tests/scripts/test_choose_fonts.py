"""scripts/weights/choose_fonts.py and get_words.py: what is kept, and in which order."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from data_pipelines.rendering.fonts import find_fonts
from tests.conftest import REPOSITORY

SCRIPTS = REPOSITORY / "scripts" / "weights"


@pytest.fixture(scope="module")
def scripts(script_module):
    """The two scripts as modules."""
    return script_module("weights/choose_fonts"), script_module("weights/get_words")


@pytest.fixture(scope="module")
def candidates(scripts):
    """The installed fonts, and what their letters look like."""
    choose_fonts, _ = scripts
    faces = [face for face in find_fonts(None).faces if face.can_draw(choose_fonts.LETTERS[: choose_fonts.CAPITALS])]
    shapes = [np.stack([choose_fonts.letter_shape(face, c) for c in choose_fonts.LETTERS]) for face in faces]
    return faces, np.stack(shapes)


def test_print_is_legible_and_mixed_up_letters_are_not(scripts, candidates):
    choose_fonts, _ = scripts
    faces, shapes_FLP = candidates
    mixed_up = np.roll(shapes_FLP[:1], 5, axis=1)  # a font with each letter in the place of another
    share_F = choose_fonts.legibility(np.concatenate([shapes_FLP, mixed_up]))
    by_family = {face.family: share for face, share in zip(faces, share_F, strict=False)}
    assert by_family["Roboto"] > 0.85
    assert by_family["Lato"] > 0.85
    assert share_F[-1] < 0.3


def test_bars_without_serifs_are_told_from_others(scripts, candidates):
    choose_fonts, _ = scripts
    found = {face.family: choose_fonts.is_sans(face) for face in candidates[0] if face.style == "Regular"}
    assert found["Roboto"]
    assert not found["Caladea"]


def test_styles_are_limited_and_families_kept(scripts, candidates):
    choose_fonts, _ = scripts
    faces, shapes_FLP = candidates
    share_F = choose_fonts.legibility(shapes_FLP)
    kept = [faces[i] for i in choose_fonts.choose(faces, share_F, 0.4, 0.2, 2)]
    families = [face.family for face in kept]
    assert max(families.count(family) for family in families) == 2
    assert {"Roboto", "Lato"} <= set(families)
    everything = choose_fonts.choose(faces, np.zeros(len(faces)), 0.4, 0.2, 2)
    assert not everything, "nothing is legible"


@pytest.mark.parametrize(("count", "expected"), [(1, [0]), (2, [0, 9]), (4, [0, 3, 6, 9]), (99, list(range(10)))])
def test_evenly(scripts, count, expected):
    assert scripts[0].evenly(list(range(10)), count) == expected


def test_copies_are_written_with_a_list(tmp_path):
    (tmp_path / "all").mkdir()
    faces = [face for face in find_fonts(None).faces if face.family in ("Lato", "Roboto", "Source Sans Pro")][:12]
    for number, face in enumerate(faces):
        shutil.copy(face.path, tmp_path / "all" / f"{number}.ttf")
    (tmp_path / "all" / "broken.otf").write_bytes(b"no font")
    command = [sys.executable, SCRIPTS / "choose_fonts.py", tmp_path / "all", tmp_path / "chosen"]
    subprocess.run(command, check=True, capture_output=True)
    rows = json.loads((tmp_path / "chosen" / "fonts.json").read_text())
    assert {row["file"] for row in rows} == {p.name for p in (tmp_path / "chosen").glob("*.ttf")}
    assert find_fonts(tmp_path / "chosen").faces, "RenderedWords can use them"
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 1
    assert "exists" in again.stderr


@pytest.mark.parametrize(
    ("word", "expected"), [("café", "cafe"), ("don't", "don't"), ("x-ray", "x-ray"), ("3d", ""), ("東", ""), ("'s", "")]
)
def test_words_are_written_plainly(scripts, word, expected):
    assert scripts[1].plain(word) == expected


def test_words_of_other_languages_come_in_turn(scripts):
    mixed = scripts[1].mix([f"e{i}" for i in range(10)], [["a0", "a1"], ["b0"]])
    assert mixed == ["e0", "e1", "e2", "e3", "a0", "e4", "e5", "e6", "e7", "b0", "e8", "e9"]


@pytest.mark.parametrize("arguments", [[], ["--large"], ["FOLDER", "--larg"], ["FOLDER", "--large", "more"]])
def test_nothing_is_downloaded_for_arguments_that_mean_nothing(tmp_path, arguments):
    made = subprocess.run(["bash", SCRIPTS / "get_fonts.sh", *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert made.returncode == 2
    assert "FOLDER [--large]" in made.stderr
    assert not any(tmp_path.iterdir())


@pytest.fixture
def debian(tmp_path):
    """Stands in for Debian's tools: one known package, with one font. What Python would be run with is printed."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, script in {
        "apt-cache": "echo fonts-lato",
        "apt-get": "touch fonts-lato_2_all.deb",
        "dpkg-deb": "cd $(mktemp -d) && touch lato.ttf && tar -c lato.ttf",
        "python": 'echo "$@"',
    }.items():
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(0o755)
    return {"PATH": f"{tools}:/usr/bin:/bin", "PYTHON": "python", "TMPDIR": str(tmp_path)}


def test_fonts_of_others_are_not_touched(tmp_path, debian):
    folder = tmp_path / "fonts"
    for name in ("packages/mine.deb", "chosen/mine.ttf"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("mine")
    command = ["bash", SCRIPTS / "get_fonts.sh", folder]
    made = subprocess.run(command, capture_output=True, text=True, env=debian)
    assert made.returncode == 1
    assert made.stderr == f"error: {folder}/chosen exists: move it away, or give another folder\n"
    (folder / "chosen").rename(folder / "kept")
    made = subprocess.run(command, capture_output=True, text=True, env=debian)
    assert made.returncode == 0, made.stderr
    assert made.stdout.splitlines()[-1].endswith(f"choose_fonts.py {folder}/all {folder}/chosen")
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {"packages/mine.deb", "kept/mine.ttf", "all/fonts-lato/lato.ttf"}
