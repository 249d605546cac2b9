"""Scenes of rendered words, and a recogniser that has learnt nothing: what it reads still depends on the pixels."""

import jax
import numpy as np
import pytest

from data_pipelines.rendering import RenderedWords
from data_pipelines.rendering.scene import compose_scene
from maerec_jax import Recognizer
from maerec_jax.scenes.regions import Region
from tests.training.conftest import recogniser_config


@pytest.fixture(scope="session")
def words():
    """Images of words that are easy to read, none of them small."""
    source = RenderedWords(size=120, seed=3, difficulty=0.2, min_length=3, max_length=9).open()
    images = [source[i].image for i in range(120)]
    return [image for image in images if image.shape[0] >= 28][:40]


@pytest.fixture(scope="session")
def scene(words):
    """A picture with words that lie level."""
    return compose_scene(words, 900, 1200, np.random.default_rng(0))


class Known:
    """A detector that knows where the words are."""

    def __init__(self, polygons):
        self.regions = [Region(np.asarray(polygon, np.float32), 0.9) for polygon in polygons]

    def detect(self, image_HWC):
        return self.regions


@pytest.fixture(scope="session")
def recognizer():
    config = recogniser_config("")
    params = jax.jit(config.model.init)(jax.random.key(0))
    # Larger weights than at the start of a training, so that not all images are read alike.
    params = jax.tree.map(lambda leaf: np.asarray(4 * leaf if leaf.ndim > 1 else leaf), params)
    return Recognizer(config, params, batch_size=8)
