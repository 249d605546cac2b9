"""Small synthetic data sets."""

import ctypes
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
    """For tests that take permissions away: root gives up that it may read everything, which Linux lets it do."""
    closed = tmp_path / "closed"
    closed.write_text("")
    closed.chmod(0)
    header, capabilities = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None)
    if os.geteuid() == 0:
        if not hasattr(libc, "capset") or libc.capget(header, capabilities):
            pytest.skip("this user may read files without permission: run it as another one")
        before = capabilities[0]
        capabilities[0] &= ~0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
        libc.capset(header, capabilities)
    with pytest.raises(PermissionError):
        closed.read_bytes()
    closed.unlink()
    yield
    if os.geteuid() == 0:
        capabilities[0] = before
        libc.capset(header, capabilities)


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
