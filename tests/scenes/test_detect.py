"""Lists of detections have a line for every picture, with what the detector finds in it alone."""

import json

import cv2
import numpy as np
import pytest

pytest.importorskip("onnxruntime")
from data_pipelines.construct.detections import parse_detections
from maerec_jax import detect
from maerec_jax.scenes.detection import load_detector
from maerec_jax.scenes.regions import DetectionConfig
from tests.scenes.onnx_files import write_detector


@pytest.fixture
def detector(tmp_path):
    return write_detector(tmp_path / "bright.onnx")


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for number, name in enumerate(("0.png", "more/1.png", "2.png")):
        picture = np.zeros((64, 96 + 32 * number, 3), np.uint8)
        if number < 2:
            picture[20:36, 10 : 60 + 10 * number] = 255
        cv2.imwrite(str(folder / name), picture)
    return folder


def run(detector, photos):
    arguments = [str(photos), "--out", str(photos.parent / "found.jsonl"), "--detection.detector", detector]
    scale = ["--detection.mean", "0", "0", "0", "--detection.std", "1", "1", "1"]
    return detect.main([*arguments, "--detection.short-side", "64", *scale])


def test_each_picture_has_a_line(detector, photos, monkeypatch):
    monkeypatch.setattr(detect, "_PART", 2)
    assert run(detector, photos) == 0
    lines = (photos.parent / "found.jsonl").read_bytes().splitlines()
    found = dict(map(parse_detections, lines))
    assert list(found) == ["0.png", "2.png", "more/1.png"]
    assert [len(each.polygons) for each in found.values()] == [1, 0, 1]
    config = DetectionConfig(detector, short_side=64, mean=(0, 0, 0), std=(1, 1, 1))
    (region,) = load_detector(config=config).detect(cv2.imread(str(photos / "more/1.png")))
    assert np.allclose(found["more/1.png"].polygons[0], region.polygon_N2, atol=0.05)
    assert found["more/1.png"].scores == [pytest.approx(region.confidence, abs=1e-4)]


def test_pictures_that_cannot_be_read_are_told(detector, photos, capsys):
    (photos / "3.png").write_bytes(b"no picture")
    assert run(detector, photos) == 1
    assert "left out: picture cannot be read" in capsys.readouterr().out
    last = json.loads((photos.parent / "found.jsonl").read_text().splitlines()[2])
    assert (last["img"], last["polygons"]) == ("3.png", [])
    assert "text, not an image" in last["problem"]


def test_mistakes_are_told_before_the_work(detector, photos, capsys):
    assert run(detector, photos / "0.png") == 1
    assert "0.png: is no folder" in capsys.readouterr().err
    assert run(str(photos / "none.onnx"), photos) == 1
    assert "none.onnx: no such file" in capsys.readouterr().err
    assert not (photos.parent / ".found.unfinished").exists()
