"""The detector that comes with rapidocr: it finds words where they are, as rapidocr does, and downloads nothing."""

import socket
import sys

import numpy as np
import pytest

from data_pipelines.errors import UserError
from data_pipelines.rendering.scene import compose_scene
from maerec_jax.scenes import detection
from maerec_jax.scenes.detection import load_detector
from maerec_jax.scenes.regions import DetectionConfig, Region, reading_order
from maerec_jax.scenes.scene_reader import SceneReader
from tests.scenes.conftest import Known
from tests.scenes.shapes import iou, rectangle


@pytest.fixture(scope="module")
def detector():
    return load_detector()


@pytest.fixture(scope="module")
def slanting(words):
    return compose_scene(words, 900, 1200, np.random.default_rng(1), slant=25)


@pytest.mark.parametrize("kind", ["scene", "slanting"])
def test_words_are_found_where_they_are(detector, kind, request):
    scene = request.getfixturevalue(kind)
    found = detector.detect(scene.image)
    overlaps = np.array([[iou(polygon, region.polygon_N2) for region in found] for polygon in scene.polygons])
    assert len(scene.polygons) > 12
    assert (overlaps.max(axis=1) > 0.5).mean() > 0.9
    assert len(found) <= 1.1 * len(scene.polygons)
    assert all(0.5 <= region.confidence <= 1 for region in found)


@pytest.mark.parametrize("kind", ["scene", "slanting"])
def test_words_are_found_as_rapidocr_finds_them_with_its_unclip_ratio(detector, kind, request):
    from rapidocr import RapidOCR

    image = request.getfixturevalue(kind).image
    whole = RapidOCR(params={"Global.log_level": "critical"})
    boxes = whole(image[..., ::-1], use_det=True, use_cls=False, use_rec=False).boxes
    found = load_detector(config=DetectionConfig(unclip_ratio=1.6)).detect(image)
    overlaps = np.array([[iou(box, region.polygon_N2) for region in found] for box in boxes])
    assert (overlaps.max(axis=1) > 0.8).mean() > 0.95
    assert (overlaps.max(axis=0) > 0.8).mean() > 0.95


def test_words_that_were_found_are_read_as_their_crops(detector, scene, recognizer):
    found = SceneReader(recognizer, detector).read(scene.image)
    alone = recognizer.read([word.crop for word in found.words])
    assert [word.word.text for word in found.words] == [word.text for word in alone]


@pytest.mark.parametrize("size", [(1, 1), (20, 20), (8, 2000), (1500, 20), (700, 900)])
@pytest.mark.parametrize("value", [0, 255])
def test_nothing_is_found_in_empty_pictures(detector, size, value):
    assert detector.detect(np.full((*size, 3), value, np.uint8)) == []


def test_nothing_is_downloaded(monkeypatch, detector, capfd):
    def refuse(*arguments, **settings):
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    load_detector().detect(np.zeros((64, 64, 3), np.uint8))
    assert capfd.readouterr() == ("", "")


def test_what_is_missing_is_named(monkeypatch):
    def no_package(name):
        raise detection.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(detection.metadata, "files", no_package)
    with pytest.raises(UserError, match=r"pip install -e '\.\[detect\]'"):
        load_detector()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(detection, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs onnxruntime: pip install -e '\.\[detect\]'"):
        load_detector("detector.onnx")


def test_words_are_in_reading_order():
    page = [(0, 0, 40, 20), (50, 3, 90, 21), (100, -2, 180, 24), (5, 30, 60, 50), (70, 33, 130, 55), (0, 70, 300, 160)]
    regions = [Region(np.array([(x, y), (x2, y), (x2, y2), (x, y2)], np.float32), 1.0) for x, y, x2, y2 in page]
    for seed in range(5):
        mixed = [regions[i] for i in np.random.default_rng(seed).permutation(len(regions))]
        assert reading_order(mixed) == regions
    assert reading_order([]) == []
    # Lines that rise are lines still.
    rising = [Region(rectangle((60 * i, 200 - 8 * i), (50, 30), -7.6).astype(np.float32), 1.0) for i in range(6)]
    assert reading_order(rising[::-1]) == rising


def test_any_object_that_detects_is_a_detector(scene):
    found = Known(scene.polygons)
    assert isinstance(found.detect(scene.image)[0], Region)
