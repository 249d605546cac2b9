"""Images that keep their aspect ratio are resized and filled up as the reference does it."""

import json

import numpy as np
import pytest

from data_pipelines.images.batch_decoder import BatchDecoder
from data_pipelines.images.resizing import KeepRatio, resize_image
from data_pipelines.sources.records import Record
from maerec_jax.models.nrtr import NRTRConfig

NRTR, SAR = NRTRConfig.keep_ratio, KeepRatio(smallest=48, divisor=4, reading_divisor=4)
POLICIES = {"nrtr_train": (NRTR, True), "nrtr_test": (NRTR, False), "sar": (SAR, False)}


@pytest.fixture(scope="module")
def cases(fixtures):
    found = json.loads((fixtures / "baselines" / "resize_policy.json").read_text())
    assert len(found) == 58
    return found


@pytest.mark.parametrize("name", POLICIES)
def test_widths_are_those_of_the_reference(name, cases):
    policy, training = POLICIES[name]
    for case in cases:
        height, largest = case[name]["padded_shape"]
        width = policy.width((case["h"], case["w"]), height, largest, training)
        assert width == case[name]["resized_width"], case
        assert width / largest == pytest.approx(case[name]["valid_ratio"])
        assert SAR.width((case["h"], case["w"]), 48, 160, True) == case["sar"]["resized_width"]


@pytest.mark.parametrize("name", POLICIES)
def test_batches_are_filled_up_with_black(name, cases):
    policy, training = POLICIES[name]
    rng = np.random.default_rng(0)
    images = [rng.integers(1, 256, (case["h"], case["w"], 3), np.uint8) for case in cases]
    records = [(i, Record(image=image, text="")) for i, image in enumerate(images)]
    height, largest = cases[0][name]["padded_shape"]
    decoder = BatchDecoder(height, largest, keep_ratio=policy)
    batch = decoder(records, 60, (0, 0) if training else None)
    widths = [case[name]["resized_width"] for case in cases]
    assert batch["image"].shape == (60, height, largest, 3)
    np.testing.assert_array_equal(batch["width"], [*widths, largest, largest])
    for made, image, width in zip(batch["image"], images, widths, strict=False):
        np.testing.assert_array_equal(made[:, :width], resize_image(image, height, width, "bilinear"))
        assert not made[:, width:].any()
