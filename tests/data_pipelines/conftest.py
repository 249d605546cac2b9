"""Small synthetic data sets."""

import json
import os

import cv2
import lmdb
import numpy as np
import pytest

from tests.data_pipelines.planting import write_lines

WORDS = ["red", "Green", "blue!", "x", "two words", "42", "a-b", "ZZZ", "q", "end", "more", "last"]


def _jpeg(number):
    """An image that tells its number: one grey level, and a size that depends on it too."""
    image = np.full((20 + number, 50 + 3 * number, 3), 10 * number, np.uint8)
    return cv2.imencode(".jpg", image)[1].tobytes()


@pytest.fixture
def jpeg():
    return _jpeg


@pytest.fixture
def words():
    return list(WORDS)


@pytest.fixture
def dataset(tmp_path):
    """Twelve labelled images under ``set/full_images`` and both kinds of annotation file, under a data root."""
    root = tmp_path / "set"
    images = root / "full_images" / "made"
    images.mkdir(parents=True)
    annotations = root / "train_annos" / "mmocr1.0"
    annotations.mkdir(parents=True)
    names = [f"full_images/made/{number:02d}.jpg" for number in range(len(WORDS))]
    for number, name in enumerate(names):
        (root / name).write_bytes(_jpeg(number))
    lines = [json.dumps({"filename": name, "text": text}) for name, text in zip(names, WORDS, strict=True)]
    (annotations / "train.jsonl").write_text("\n".join(lines) + "\n")
    entries = [{"img_path": n, "instances": [{"text": t}]} for n, t in zip(names, WORDS, strict=True)]
    (annotations / "train.json").write_text(json.dumps({"metainfo": {"task_name": "textrecog"}, "data_list": entries}))
    return tmp_path


@pytest.fixture
def permissions(tmp_path):
    """For tests that take permissions away; they are skipped where that takes nothing away, as from root."""
    (tmp_path / "closed").write_text("")
    (tmp_path / "closed").chmod(0)
    if os.access(tmp_path / "closed", os.R_OK):
        pytest.skip("this user may read files without permission")
    (tmp_path / "closed").unlink()


@pytest.fixture
def make_lmdb(tmp_path):
    """A function that writes an LMDB and returns its name under ``tmp_path``."""

    def make(name, count, *, labelled=False, stated=None, missing=()):
        with lmdb.open(str(tmp_path / name), map_size=2**24) as environment, environment.begin(write=True) as writer:
            writer.put(b"num-samples", str(count if stated is None else stated).encode())
            for number in range(1, count + 1):
                if number not in missing:
                    writer.put(b"image-%09d" % number, _jpeg(number % len(WORDS)))
                    if labelled:
                        writer.put(b"label-%09d" % number, f"word{number}".encode())
        return name

    return make


@pytest.fixture
def training(tmp_path, jpeg):
    """Union14M-L with twelve sound easy records, and their list of names and labels."""
    folder = tmp_path / "Union14M-L"
    (folder / "full_images/made").mkdir(parents=True)
    records = [(f"full_images/made/{number:02d}.jpg", f"word{number}") for number in range(12)]
    for number, (name, _) in enumerate(records):
        (folder / name).write_bytes(jpeg(number))
    write_lines(folder / "train_annos/mmocr-0.x/train_easy.jsonl", records)
    return folder, records
