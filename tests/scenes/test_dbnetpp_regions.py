"""What is found in maps of DBNet++, how words are cut out, and the sizes of pictures are those of the original."""

import cv2
import numpy as np
import pytest

from data_pipelines.images.crops import crop
from maerec_jax.scenes.db_regions import regions_of
from maerec_jax.scenes.dbnetpp_detector import DBNetPPDetector, network_size
from maerec_jax.scenes.dbnetpp_networks import frames, whole
from maerec_jax.scenes.regions import DetectionConfig
from tests.scenes.dbnetpp_weights import reference
from tests.scenes.shapes import iou, rectangle

SETTINGS = DetectionConfig().settings("dbnetpp")


@pytest.fixture(scope="module")
def expected():
    return reference()


class Given:
    """A network that makes one map, whatever the picture is."""

    at_once = 1

    def __init__(self, probability_HW):
        self.probability_HW = probability_HW

    def __call__(self, images):
        return [self.probability_HW for _ in images]


def corners(polygon):
    """The corners in an order of their own: versions of OpenCV begin at different ones."""
    return sorted((round(float(x), 3), round(float(y), 3)) for x, y in np.reshape(polygon, (-1, 2)))


def drawn(*polygons, value=0.9, size=(200, 300)):
    made = np.zeros(size, np.float32)
    for polygon in polygons:
        cv2.fillPoly(made, [np.rint(polygon).astype(np.int32)], value)
    return made


def test_polygons_and_scores_are_those_of_the_original(expected):
    scale = expected["post_scale_factor_wh"]
    found = regions_of(expected["post_prob_map"], SETTINGS, "dbnetpp")
    polygons, scores = expected["post_polygons_rescaled"], expected["post_scores"]
    assert len(found) == len(polygons) == 7
    for region in found:
        nearest = int(np.abs(scores - region.confidence).argmin())
        assert region.confidence == pytest.approx(float(scores[nearest]), abs=1e-6)
        np.testing.assert_allclose(corners(region.polygon_N2 / scale), corners(polygons[nearest]), atol=2e-3)


def test_detections_are_in_pixels_of_the_picture(expected):
    """A picture of 80 x 120 whose long side is brought to 240, and its short one to 160: both twice as long."""
    config = DetectionConfig(short_side=160, long_side=240)
    detector = DBNetPPDetector(Given(expected["post_prob_map"]), config)
    found = detector.detect(np.zeros((80, 120, 3), np.uint8))
    scale = expected["post_scale_factor_wh"] / 2
    wanted = sorted(corners(polygon.reshape(4, 2) * scale) for polygon in expected["post_polygons_rescaled"])
    np.testing.assert_allclose(sorted(corners(r.polygon_N2) for r in found), wanted, atol=2e-3)


def test_crops_are_those_of_the_app(expected):
    picture = np.random.default_rng(0).integers(0, 256, (100, 120, 3), np.uint8)
    boxes = expected["crop_xyxy_in_120x100_image"]
    for polygon, (left, top, right, bottom) in zip(expected["post_polygons_rescaled"], boxes, strict=True):
        made = crop(picture, polygon.reshape(4, 2), "app")
        np.testing.assert_array_equal(made, picture[top:bottom, left:right])


def test_sizes_are_those_of_the_original(expected):
    for size, resized, padded in zip(
        *(expected[f"{n}_hw"] for n in ("resize_in", "resize_out", "padded")), strict=True
    ):
        assert network_size(*size, SETTINGS) == tuple(resized)
        assert whole(resized) == tuple(padded)


@pytest.mark.parametrize("size", [(1, 1), (1, 60_000), (60_000, 1), (31, 4000), (4068, 1024), (700, 701)])
def test_pictures_of_any_size_fit_one_of_a_few_frames(size):
    for config in (DetectionConfig(), DetectionConfig(short_side=100, long_side=130), DetectionConfig(long_side=1024)):
        settings = config.settings("dbnetpp")
        small = network_size(*size, settings)
        assert min(small) >= 1
        assert any(small[0] <= height and small[1] <= width for height, width in frames(settings))
        assert len(frames(settings)) <= 11
        assert all(side % 32 == 0 for frame in frames(settings) for side in frame)


@pytest.mark.parametrize("size", [(480, 640), (1080, 1920), (2000, 3000), (1024, 1024), (640, 480)])
def test_usual_pictures_fill_their_frames(size):
    padded = whole(network_size(*size, SETTINGS))
    assert padded in frames(SETTINGS)


def test_holes_are_words_too():
    ring = drawn(rectangle((150, 100), (200, 120), 0)) - drawn(rectangle((150, 100), (120, 60), 0))
    assert len(regions_of(ring, SETTINGS, "dbnetpp")) == 1  # the mean inside of the hole is 0
    ring[ring == 0] = 0.29
    found = regions_of(ring, SETTINGS, "dbnetpp")
    assert len(found) == 2  # the edge of the ring is a part of what is inside of the hole
    assert len(regions_of(ring, DetectionConfig(min_confidence=0.2).settings("db"))) == 1


def test_outlines_need_four_corners_and_a_shorter_side_of_five_pixels():
    assert regions_of(drawn(np.array([(20, 20), (120, 20), (20, 120)])), SETTINGS, "dbnetpp") == []
    thin, thick = rectangle((150, 50), (100, 2), 0), rectangle((150, 150), (100, 4), 0)
    (found,) = regions_of(drawn(thin, thick), SETTINGS, "dbnetpp")
    assert found.polygon_N2[:, 1].min() > 130
    assert len(regions_of(drawn(thin, thick), DetectionConfig(min_size=1).settings("dbnetpp"), "dbnetpp")) == 2


def test_polygons_can_be_asked_for():
    word = rectangle((150, 100), (140, 40), 12)
    (quadrilateral,) = regions_of(drawn(word), SETTINGS, "dbnetpp")
    (polygon,) = regions_of(drawn(word), DetectionConfig(shape="polygon").settings("dbnetpp"), "dbnetpp")
    assert len(quadrilateral.polygon_N2) == 4 < len(polygon.polygon_N2)
    box = cv2.boxPoints(cv2.minAreaRect(polygon.polygon_N2))
    assert iou(box, quadrilateral.polygon_N2) > 0.99


def test_what_lies_outside_of_the_picture_is_no_word():
    """The map of a picture of 100 x 100 in a network that has it in 128 x 128."""
    made = drawn(rectangle((40, 40), (50, 20), 0), rectangle((118, 118), (14, 14), 0), size=(128, 128))
    detector = DBNetPPDetector(Given(made), DetectionConfig(short_side=100, long_side=100))
    (found,) = detector.detect(np.zeros((100, 100, 3), np.uint8))
    assert found.polygon_N2.max() < 100


def test_what_is_lower_than_a_pixel_of_the_picture_is_no_word():
    """The map of a picture of 10 x 20 that the network has in 160 x 320."""
    made = drawn(rectangle((160, 80), (200, 60), 0), rectangle((40, 20), (60, 7), 0), size=(160, 320))
    config = DetectionConfig(short_side=160, long_side=320, unclip_ratio=0.1)
    assert len(regions_of(made, config.settings("dbnetpp"), "dbnetpp")) == 2
    (found,) = DBNetPPDetector(Given(made), config).detect(np.zeros((10, 20, 3), np.uint8))
    assert found.polygon_N2[:, 1].max() > 5


@pytest.mark.parametrize("value", [0, 1])
@pytest.mark.parametrize("size", [(1, 1), (2, 64), (64, 64)])
def test_maps_of_one_colour(value, size):
    for shape in ("quadrilateral", "polygon"):
        settings = DetectionConfig(shape=shape, min_size=1, unclip_ratio=0).settings("dbnetpp")
        regions_of(np.full(size, value, np.float32), settings, "dbnetpp")
