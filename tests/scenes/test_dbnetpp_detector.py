"""DBNet++ finds the same words in a picture alone and among others, run by JAX and as an ONNX file."""

import json

import cv2
import numpy as np
import PIL.Image
import pytest

from data_pipelines.command import run_command
from data_pipelines.errors import UserError
from maerec_jax.interop.onnx_detector import write_onnx_detector
from maerec_jax.predict import PredictArguments, predict
from maerec_jax.scenes.dbnetpp_detector import DBNetPPDetector
from maerec_jax.scenes.dbnetpp_networks import JaxNetwork
from maerec_jax.scenes.detection import load_detector
from maerec_jax.scenes.regions import DetectionConfig
from maerec_jax.scenes.scene_reader import SceneReader
from maerec_jax.weights.detector_files import load_detector_params, write_detector
from tests.scenes.dbnetpp_weights import formula_weights

SMALL = {"short_side": 64, "long_side": 128, "min_confidence": 0.2}


@pytest.fixture(scope="module")
def state():
    return formula_weights()


@pytest.fixture(scope="module")
def file(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "dbnetpp.safetensors"
    write_detector(path, state)
    return path


@pytest.fixture(scope="module")
def onnx(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "dbnetpp.onnx"
    write_onnx_detector(path, state)
    return path


@pytest.fixture(scope="module")
def network(file):
    return JaxNetwork(load_detector_params(file), DetectionConfig(**SMALL), batch_size=4)


@pytest.fixture(scope="module")
def pictures():
    """Pictures of several sizes, which lie in two frames."""
    rng = np.random.default_rng(0)
    sizes = [(70, 70), (90, 180), (33, 66), (60, 60), (64, 64), (49, 49)]
    return [cv2.resize(rng.integers(0, 256, (9, 12, 3), np.uint8), size[::-1]) for size in sizes]


@pytest.fixture(scope="module")
def alone(network, pictures):
    detector = DBNetPPDetector(network, DetectionConfig(**SMALL))
    return [detector.detect(picture) for picture in pictures]


def assert_same(found, wanted):
    """The same words but for rounding, by which the order of their corners may change, too."""
    assert [len(words) for words in found] == [len(words) for words in wanted]
    assert sum(map(len, wanted)) > len(wanted)  # there is something to be found
    for words, others in zip(found, wanted, strict=True):
        for one, other in zip(words, others, strict=True):
            assert one.confidence == pytest.approx(other.confidence, abs=1e-4)
            np.testing.assert_allclose(one.polygon_N2, other.polygon_N2, atol=1e-2)


def test_many_pictures_are_searched_as_each_alone(network, pictures, alone):
    detector = DBNetPPDetector(network, DetectionConfig(**SMALL))
    assert_same(list(detector.detect_all(pictures)), alone)
    assert list(detector.detect_all([])) == []
    assert len(network._programs) == 3  # two frames, for one picture, and one of them also for four


def test_onnx_files_make_the_same_maps_and_find_the_same_words(onnx, network, pictures, alone):
    detector = load_detector(str(onnx), DetectionConfig(**SMALL))
    assert isinstance(detector, DBNetPPDetector)  # the file says what it is
    images = [pictures[4], pictures[1][:30, :100]]  # the second in a frame that is larger than it needs
    for found, expected in zip(detector._network(images), network(images), strict=True):
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, atol=2e-5)
    assert_same(list(detector.detect_all(pictures)), alone)


def test_files_are_loaded_as_any_detector(file, pictures, alone, recognizer):
    detector = load_detector(config=DetectionConfig(detector=str(file), method="dbnetpp", **SMALL))
    assert_same([detector.detect(pictures[0])], alone[:1])
    scene = SceneReader(recognizer, detector, "app").read(pictures[0])
    assert len(scene.words) == len(alone[0])


def test_commands_read_with_it(file, pictures, alone, recognizer, tmp_path, capsys):
    PIL.Image.fromarray(pictures[0]).save(tmp_path / "picture.png")
    recognizer.save(tmp_path / "tiny.safetensors")
    settings = [f"--detection.{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    arguments = [str(tmp_path / "picture.png"), "--checkpoint", str(tmp_path / "tiny.safetensors"), "--detect"]
    arguments += ["--detection.detector", str(file), "--detection.method", "dbnetpp", "--crops", "app", *settings]
    assert run_command(PredictArguments, predict, "predict", [*arguments, "--format", "jsonl"]) == 0
    found = json.loads(capsys.readouterr().out)
    polygons = [word["polygon"] for word in found["words"]]
    np.testing.assert_allclose(polygons, [region.polygon_N2 for region in alone[0]], atol=0.07)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1)])
def test_pictures_of_strange_sizes(network, size):
    for region in DBNetPPDetector(network, DetectionConfig(**SMALL)).detect(np.full((*size, 3), 255, np.uint8)):
        assert np.isfinite(region.polygon_N2).all()


def test_what_does_not_fit_is_told(file, tmp_path):
    from tests.scenes.onnx_files import write_detector as write_bright

    fixed = write_bright(tmp_path / "fixed.onnx", size=(64, 64))
    quarter = write_bright(tmp_path / "quarter.onnx", shrink=4)
    for path, changes, reason in (
        ("", {"method": "dbnetpp"}, "name the file of the network in --detection.detector"),
        (str(file), {"method": "db"}, "leave out --detection.method"),
        (str(file), {"mean": (0.0,) * 3, "channels": "bgr"}, "leave out --detection.mean, --detection.channels"),
        (fixed, {"method": "dbnetpp"}, "takes images of 64 x 64 only"),
        (str(tmp_path / "none.safetensors"), {}, "no such file"),
        ("dbnetpp.pth", {}, "maerec import dbnetpp.pth dbnetpp.safetensors"),
    ):
        with pytest.raises(UserError, match=reason) as refusal:
            load_detector(path, DetectionConfig(**changes))
        assert "\n" not in str(refusal.value)
    plain = DetectionConfig(method="dbnetpp", mean=(0.0,) * 3, std=(1.0,) * 3, **SMALL)
    with pytest.raises(UserError, match=r"which DBNet\+\+ does not: give"):
        load_detector(quarter, plain).detect(np.zeros((64, 64, 3), np.uint8))
