"""Sheets of rendered words, alone and beside real ones."""

import subprocess
import sys

import cv2
import numpy as np


def draw_sheet(folder, *flags):
    command = [sys.executable, "-m", "data_pipelines.rendering", "--out", folder / "s.png", "--count", "5", *flags]
    told = subprocess.run(command, capture_output=True, text=True)
    return told.stderr.strip(), cv2.imread(str(folder / "s.png"))


def test_contact_sheet(tmp_path):
    told, sheet = draw_sheet(tmp_path, "--seed", "3")
    assert not told
    assert sheet.shape == (82, 1600, 3)


def test_a_sheet_beside_real_words(tmp_path):
    """Every other row shows these, from first to last; lists with fewer words than asked for show each once."""
    lines = []
    for i, grey in enumerate((90, 120, 150)):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((60, 100, 3), grey, np.uint8))
        lines.append(f"{i}.png word")
    (tmp_path / "words.txt").write_text("\n".join(lines))
    told, sheet = draw_sheet(tmp_path, "--columns", "4", "--data", tmp_path, "--beside", "words.txt")
    assert not told
    assert sheet.shape == (4 * 82 - 82, 800, 3)  # rows of 4 rendered, 3 others, and 1 rendered
    assert sheet[82 + 30, 50::200].tolist() == [[grey] * 3 for grey in (90, 120, 150, 255)]
    (tmp_path / "1.png").write_text("no image")
    told, _ = draw_sheet(tmp_path, "--data", tmp_path, "--beside", "words.txt")
    assert told.startswith("error: 1.png: ")
    told, _ = draw_sheet(tmp_path, "--data", tmp_path, "--beside", "none.txt")
    assert told.startswith("error: ")
    assert "none.txt" in told
    told, _ = draw_sheet(tmp_path, "--out", "", "--folder", tmp_path / "words", "--beside", "words.txt")
    assert told == "error: --beside needs --out, the sheet that shows these words"


def test_the_command_lists_what_it_heeds():
    command = [sys.executable, "-m", "data_pipelines.rendering", "--help"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "--difficulty" in told
    assert "--kind" not in told
    assert "--weight" not in told
