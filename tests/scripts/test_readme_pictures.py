"""README's pictures and its first command: drawn anew they are as committed, and the words are read as it says."""

import re

import numpy as np
from PIL import Image

from maerec_jax import predict
from tests.conftest import REPOSITORY

PICTURES = REPOSITORY / "docs" / "pictures"


def test_the_pictures_are_drawn_by_the_script(script_module, tmp_path):
    script_module("readme_pictures").main(tmp_path)
    for path in {*PICTURES.iterdir()} - {PICTURES / "trace.png"}:  # which shows another program
        committed, drawn = (np.asarray(Image.open(folder / path.name), int) for folder in (PICTURES, tmp_path))
        assert drawn.shape == committed.shape, path.name
        assert np.abs(drawn - committed).mean() < 2, path.name


def test_the_first_command_reads_what_the_readme_shows(capsys):
    assert predict.main([str(PICTURES / "street.jpg"), "--detect"]) == 0
    told = re.findall(r"%  (\S+)", capsys.readouterr().out)
    shown = re.findall(r"^  +[\d.]+%  (\S+)", (REPOSITORY / "README.md").read_text(), re.MULTILINE)
    assert shown == told[: len(shown)]
    assert len(shown) >= 3
