"""Pictures that words are laid on: where they are said to be, with hard edges or fading into the background."""

import cv2
import numpy as np
import pytest

from data_pipelines.rendering.scene import compose_scene

SIDE = 300


def composed(fade, slant=0.0):
    white = [np.full((40, 90, 3), 255, np.uint8)]
    return compose_scene(white, SIDE, SIDE, np.random.default_rng(2), slant, fade)


@pytest.mark.parametrize("fade", [0.0, 0.02, 0.5])
def test_words_are_copied_exactly_where_their_polygons_are(fade):
    scene = composed(fade)
    (left, top), (right, bottom) = scene.polygons[0][[0, 2]].astype(int)
    assert (right - left, bottom - top) == (90, 40)
    assert (scene.image[top:bottom, left:right] == 255).all()
    assert (scene.image[top - 2 : bottom + 2, left - 2 : right + 2] == 255).mean() < 1


@pytest.mark.parametrize("slant", [0.0, 25.0])
def test_the_background_comes_back_by_and_by(slant):
    hard, soft = composed(0.0, slant), composed(0.5, slant)

    def steepest(scene):
        grey = scene.image.astype(float).mean(axis=-1)
        return max(np.abs(np.diff(grey, axis=axis)).max() for axis in (0, 1))

    assert steepest(soft) < 0.5 * steepest(hard)
    for word in (hard, soft):
        assert word.polygons[0].min() > 0
        assert word.polygons[0].max() < SIDE


def test_turned_words_do_not_overlap_on_a_full_picture():
    words = [np.full((80, 200, 3), 255, np.uint8)] * 30
    for seed in range(10):
        scene = compose_scene(words, 460, 1200, np.random.default_rng(seed), slant=10, fade=0.35)
        count = np.zeros((460, 1200), np.uint8)
        for polygon in scene.polygons:
            count += cv2.fillConvexPoly(np.zeros_like(count), np.rint(polygon).astype(np.int32), 1)
        assert count.max() == 1, seed
