"""A recogniser of a few thousand parameters, words to read, and a detector that knows where they are."""

import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from data_pipelines.rendering.fonts import find_fonts
from data_pipelines.rendering.picture import render
from maerec_jax.demo_page.desk import Desk
from maerec_jax.scenes.regions import Region
from maerec_jax.weights.finding import load_recognizer
from tests.conftest import REPOSITORY
from tests.training.conftest import unbroken  # noqa: F401

# Gradio writes there when it is imported; servers that tests start have folders of their own.
os.environ.setdefault("GRADIO_TEMP_DIR", str(REPOSITORY / ".pytest_cache" / "gradio"))

WORDS = ("mango", "river", "stone7", "pixel", "amber", "cloud9", "tiger", "lemon", "paper", "ninth")


def draw_word(word, seed=3):
    """A word, uint8 RGB."""
    return render(word, find_fonts(None), 0.3, np.random.default_rng(seed))


class Halves:
    """A detector that finds a word in each half of a picture, the right one first on its side."""

    def detect(self, image_HWC):
        height, width = image_HWC.shape[:2]
        left = np.array([(0, 0), (width / 2, 0), (width / 2, height), (0, height)], np.float32)
        return [Region(left, 0.9), Region(left + np.array([width / 2, 0], np.float32), 0.8)]


@pytest.fixture(scope="session")
def desk(unbroken):  # noqa: F811
    return Desk(load_recognizer(unbroken), batch_size=4, detector=Halves())


@pytest.fixture(scope="session")
def word_files(tmp_path_factory):
    """Ten pictures of different words."""
    folder = tmp_path_factory.mktemp("words")
    for word in WORDS:
        Image.fromarray(draw_word(word)).save(folder / f"{word}.png")
    return {word: folder / f"{word}.png" for word in WORDS}


@contextmanager
def served(workdir, folder, *flags):
    """The command on a free port, ended as a terminal or a service manager would; gives its process and address."""
    command = [sys.executable, "-m", "maerec_jax.demo", "--checkpoint", str(workdir), "--port", "0", *flags]
    environment = os.environ | {"TMPDIR": str(folder), "HOME": str(folder / "home")}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1"}
    (folder / "home").mkdir(exist_ok=True)
    with subprocess.Popen(command, cwd=REPOSITORY, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            told = []
            for line in process.stderr:
                told.append(line)
                if found := re.search(r"open (http://[^ ]+) ", line):
                    break
            else:
                pytest.fail("the demo did not start: " + "".join(told))
            yield process, found[1] + "/"
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)


@pytest.fixture(scope="session")
def address(unbroken, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("demo")
    with served(unbroken, folder, "--max-megabytes", "9") as (_, url):
        FOLDERS[url] = folder
        yield url


FOLDERS = {}
"""Of each server, by its address."""
