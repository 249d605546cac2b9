"""The DB detector: shapes in a map are found where they were drawn, at any size of the picture; bad files are named."""

import cv2
import numpy as np
import pytest

from data_pipelines.errors import UserError
from maerec_jax.scenes.db_detector import DBDetector
from maerec_jax.scenes.db_regions import regions_of, unclip
from maerec_jax.scenes.detection import load_detector
from maerec_jax.scenes.regions import DetectionConfig
from tests.scenes.shapes import iou, rectangle

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}  # the map of a test network is the picture's brightness


def drawn(polygons, size=(300, 400), values=0.9):
    """A map of probabilities with polygons in it."""
    made = np.zeros(size, np.float32)
    for polygon, value in zip(polygons, np.broadcast_to(values, len(polygons)), strict=True):
        cv2.fillPoly(made, [np.rint(np.array(polygon) - 0.5).astype(np.int32)], float(value))
    return made


@pytest.mark.parametrize("shape", ["quadrilateral", "polygon"])
@pytest.mark.parametrize("ratio", [0.0, 1.0, 1.6])
def test_shapes_are_found_and_moved_out(shape, ratio):
    places = [
        ((80, 60), (100, 30), 0),
        ((250, 80), (120, 24), 20),
        ((120, 200), (90, 40), -40),
        ((300, 210), (20, 120), 5),
    ]
    settings = DetectionConfig(shape=shape, unclip_ratio=ratio).settings("db")
    found = regions_of(drawn([rectangle(*place) for place in places]), settings)
    assert len(found) == 4
    for middle, (w, h), degrees in places:
        distance = w * h * ratio / (2 * (w + h))
        expected = rectangle(middle, (w + 2 * distance, h + 2 * distance), degrees)
        region = max(found, key=lambda region: iou(cv2.convexHull(region.polygon_N2), expected))
        assert region.confidence == pytest.approx(0.9, abs=0.07)
        # Polygons have round corners; contours go through the middles of pixels, half a pixel within what was drawn.
        assert iou(cv2.convexHull(region.polygon_N2), expected) > (0.9 if shape == "quadrilateral" else 0.8)
        area = cv2.contourArea(region.polygon_N2)
        assert area == pytest.approx(
            (w + 2 * distance) * (h + 2 * distance), rel=0.1 if shape == "quadrilateral" else 0.16
        )


def test_outlines_move_by_area_times_ratio_over_perimeter():
    polygon = np.array([(10, 10), (110, 10), (110, 50), (10, 50)], np.float32)
    moved = unclip(polygon, 1.5)
    distance = 100 * 40 * 1.5 / 280
    np.testing.assert_allclose(moved.min(axis=0), 10 - distance, atol=0.05)
    np.testing.assert_allclose(moved.max(axis=0), (110 + distance, 50 + distance), atol=0.05)
    # A straight outline all around, and a quarter of a circle at each corner.
    expected = 4000 + 280 * distance + np.pi * distance**2
    assert cv2.contourArea(moved) == pytest.approx(expected, rel=0.002)
    np.testing.assert_allclose(unclip(polygon[::-1], 1.5).min(axis=0), moved.min(axis=0), atol=0.05)


def test_bent_shapes_keep_their_outline():
    around = np.linspace(-2.6, -0.6, 20)
    arc = np.concatenate([[(200 + r * np.cos(a), 260 + r * np.sin(a)) for a in angles]
                          for r, angles in ((180, around), (140, around[::-1]))])  # fmt: skip
    (found,) = regions_of(drawn([arc]), DetectionConfig(shape="polygon", unclip_ratio=0).settings("db"))
    assert cv2.contourArea(found.polygon_N2) == pytest.approx(cv2.contourArea(arc.astype(np.float32)), rel=0.08)
    (box,) = regions_of(drawn([arc]), DetectionConfig(unclip_ratio=0, min_confidence=0.3).settings("db"))
    assert len(box.polygon_N2) == 4
    assert cv2.contourArea(box.polygon_N2) > 1.5 * cv2.contourArea(found.polygon_N2)


def test_what_is_faint_small_or_too_much_is_left_out():
    shapes = [rectangle((60 + 90 * i, 60), (60, 20), 0) for i in range(4)]
    shapes.append(rectangle((100, 200), (40, 1), 0))
    probability = drawn(shapes, values=[0.9, 0.8, 0.4, 0.7, 0.9])

    def confidences(**changes):
        return [round(r.confidence, 2) for r in regions_of(probability, DetectionConfig(**changes).settings("db"))]

    assert confidences() == [0.9, 0.8, 0.7]
    assert confidences(min_confidence=0.35) == [0.9, 0.8, 0.7, 0.4]
    assert confidences(threshold=0.75) == [0.9, 0.8]
    assert confidences(max_words=1) == [0.9]
    assert confidences(min_size=30) == []
    assert len(confidences(min_size=1)) == 4


def test_words_in_the_hole_of_another_are_found_once():
    ring = drawn([rectangle((200, 150), (300, 200), 0)])
    ring[70:230, 70:330] = 0
    ring[140:160, 150:250] = 0.9
    found = regions_of(ring, DetectionConfig(shape="polygon", min_confidence=0.0).settings("db"))
    assert len(found) == 2


def test_no_words_in_empty_maps():
    assert regions_of(np.zeros((1, 1), np.float32), DetectionConfig().settings("db")) == []
    assert regions_of(np.zeros((64, 64), np.float32), DetectionConfig().settings("db")) == []
    for size in ((1, 1), (1, 50), (2, 2), (64, 64)):  # or everywhere
        for shape in ("quadrilateral", "polygon"):
            regions_of(np.ones(size, np.float32), DetectionConfig(shape=shape, min_size=1).settings("db"))


@pytest.fixture(scope="module")
def bright(tmp_path_factory):
    """Writes a network that takes for words what is bright."""
    from tests.scenes.onnx_files import write_detector

    folder = tmp_path_factory.mktemp("networks")
    return lambda name="detector.onnx", **changes: write_detector(folder / name, **changes)


def with_boxes(size, boxes):
    image = np.zeros((*size, 3), np.uint8)
    for left, top, right, bottom in boxes:
        image[top:bottom, left:right] = 255
    return image


KINDS = {
    "plain": {},
    "three axes": {"rank": 3},
    "a quarter of the size": {"shrink": 4},
    "one size only": {"size": (640, 800)},
    "float16": {"dtype": 10, "half": True},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("factor", [0.25, 1, 3.3])
def test_words_are_found_in_pictures_of_any_size(bright, kind, factor):
    detector = DBDetector(bright(**KINDS[kind]), DetectionConfig(unclip_ratio=0, **PLAIN))
    boxes = [
        [int(factor * side) for side in box] for box in ((600, 50, 900, 120), (40, 60, 300, 130), (100, 500, 700, 620))
    ]
    found = detector.detect(with_boxes((int(factor * 700), int(factor * 1000)), boxes))
    assert len(found) == 3
    for (left, top, right, bottom), region in zip((boxes[1], boxes[0], boxes[2]), found, strict=True):
        assert region.polygon_N2.dtype == np.float32
        assert iou(region.polygon_N2, [(left, top), (right, top), (right, bottom), (left, bottom)]) > 0.85
        assert region.confidence > 0.9


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (2000, 2), (31, 33), (9, 40_000), (5000, 4000)])
def test_pictures_of_strange_sizes(bright, size):
    detector = DBDetector(bright(), DetectionConfig(**PLAIN))
    assert detector.detect(np.zeros((*size, 3), np.uint8)) == []
    for region in detector.detect(np.full((*size, 3), 255, np.uint8)):
        assert (region.polygon_N2 >= 0).all()
        assert (region.polygon_N2 <= size[::-1]).all()


def test_channels_are_in_the_order_of_the_settings(bright):
    image = with_boxes((700, 1000), [(100, 100, 500, 200)])
    image[..., 1:] = 0
    for channels, bright_in_red in (("rgb", (0.4, 1.0, 1.0)), ("bgr", (1.0, 1.0, 0.4))):
        config = DetectionConfig(channels=channels, mean=PLAIN["mean"], std=bright_in_red)
        assert len(DBDetector(bright(), config).detect(image)) == 1
        config = DetectionConfig(channels=channels, mean=PLAIN["mean"], std=bright_in_red[::-1], min_confidence=0.4)
        assert DBDetector(bright(), config).detect(image) == []


def test_what_is_no_detector_is_refused(bright, tmp_path):
    image = np.full((64, 64, 3), 255, np.uint8)
    (tmp_path / "text.onnx").write_text("hello")
    for path, reason in (
        (tmp_path / "none.onnx", "no such file"),
        (tmp_path, "no such file"),
        (tmp_path / "text.onnx", "not a usable ONNX file"),
        (bright("grey.onnx", channels=1), "a detector takes float images"),
        (bright("integers.onnx", dtype=7), "a detector takes float images"),
    ):
        with pytest.raises(UserError, match=reason) as refusal:
            load_detector(str(path))
        assert str(refusal.value).startswith(str(path))
        assert "\n" not in str(refusal.value)
    with pytest.raises(UserError, match="outside 0 to 1"):
        DBDetector(bright("scores.onnx", scale=5.0), DetectionConfig(**PLAIN)).detect(image)
    with pytest.raises(UserError, match="outside 0 to 1"):
        DBDetector(bright("nan.onnx", scale=np.nan), DetectionConfig(**PLAIN)).detect(image)
    with pytest.raises(UserError, match="not a map of probabilities"):
        DBDetector(bright("whole.onnx", as_int=True), DetectionConfig(**PLAIN)).detect(image)


@pytest.mark.parametrize(
    ("field", "value"),
    [("threshold", 1.5), ("min_confidence", -0.1), ("unclip_ratio", -1), ("max_words", 0), ("min_size", 0),
     ("short_side", 5000), ("long_side", 100_000), ("short_side", 8), ("std", (1.0, 0.0, 1.0))],
)  # fmt: skip
def test_settings_out_of_range_are_refused(field, value):
    with pytest.raises(UserError, match=f"detection.*{field}"):
        DetectionConfig(**{field: value})


def test_limits_are_those_of_the_method():
    for config in (DetectionConfig(short_side=3000), DetectionConfig(short_side=3000, method="dbnetpp")):
        assert config.settings("dbnetpp").short_side == 3000
    with pytest.raises(UserError, match="short_side must be 32 to 2000"):
        DetectionConfig(short_side=3000).settings("db")
    with pytest.raises(UserError, match="short_side must be 32 to 2000"):
        DetectionConfig(short_side=3000, method="db")


def test_what_is_too_small_in_the_picture_is_no_word(bright):
    """A crop is enlarged to 16 times its size, so that a speck of one pixel is large in the map."""
    detector = DBDetector(bright(), DetectionConfig(unclip_ratio=0, **PLAIN))
    image = with_boxes((46, 108), [(10, 10, 60, 30), (70, 10, 72, 11), (80, 20, 81, 40), (90, 5, 100, 7)])
    (found,) = detector.detect(image)
    assert iou(found.polygon_N2, [(10, 10), (60, 10), (60, 30), (10, 30)]) > 0.85
    small = DBDetector(bright(), DetectionConfig(unclip_ratio=0, min_size=1, **PLAIN))
    assert len(small.detect(image)) > 1
