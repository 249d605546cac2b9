"""scripts/read_exported.py prepares images as the package does; tests/interop/test_onnx.py reads with it."""

import json
from itertools import product

import numpy as np
import pytest

from data_pipelines.images.buckets import WORD_SHAPES, nearest_shape
from data_pipelines.images.resizing import resize_image
from maerec_jax.config import DataConfig, TrainConfig
from maerec_jax.interop.reading_facts import reading_facts
from maerec_jax.models.maerec import MAERecConfig
from maerec_jax.models.nrtr import NRTRConfig
from maerec_jax.models.sar import SARConfig
from maerec_jax.models.vit import ViTConfig

SIZES = [np.array(size) for size in product((1, 13, 32, 40, 90), (1, 20, 40, 80, 128, 500))]


@pytest.mark.parametrize("shapes", [((32, 128), (64, 64)), WORD_SHAPES, ()])
def test_the_size_that_is_nearest_in_shape(script_module, shapes):
    """Also of images that lie between two."""
    model = MAERecConfig.tiny(encoder=ViTConfig.tiny(position_table="grid"))
    run = TrainConfig(model=model, data=DataConfig(buckets=shapes))
    about = json.loads(json.dumps(reading_facts(run, 0, "float32")))
    for size in SIZES:
        (image,) = script_module("read_exported").prepare(np.zeros((*size, 3), np.uint8), about)
        assert image.shape[1:3] == nearest_shape(tuple(size), shapes or ((32, 128),)), size


@pytest.mark.parametrize("interpolation", ["bilinear", "area"])
def test_images_are_resized_as_the_model_has_learnt_to_see_them(script_module, interpolation):
    for size in SIZES:
        image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
        resized = script_module("read_exported").resized(image, 32, 128, {"interpolation": interpolation})
        np.testing.assert_array_equal(resized, resize_image(image, 32, 128, interpolation))


@pytest.mark.parametrize("model", [NRTRConfig.tiny(), SARConfig.tiny()], ids=["nrtr", "sar"])
def test_widths_that_keep_the_aspect_ratio(script_module, model):
    about = json.loads(json.dumps(reading_facts(TrainConfig(model=model), 0, "float32")))
    for size in SIZES:
        image, width = script_module("read_exported").prepare(np.full((*size, 3), 9, np.uint8), about)
        assert width == model.keep_ratio.width(tuple(size), *model.image_size, training=False), size
        assert image.shape[1:3] == tuple(model.image_size)
        assert image[:, :, : width[0]].all()
        assert not image[:, :, width[0] :].any()


def test_letters_and_marks_that_are_characters_of_their_own_are_composed(script_module):
    about = {"characters": ["e", "\u0301"], "start_end": 2, "padding": 3, "unknown": 4, "unknown_text": "<UKN>"}
    text, *_ = script_module("read_exported").text_of(np.array([0, 1, 2]), np.ones(3), about)
    assert text == "\u00e9"
