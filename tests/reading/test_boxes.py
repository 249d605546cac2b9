"""Boxes of characters: as large as their ink, where the model looked, whichever way the text runs and was turned."""

from dataclasses import replace

import numpy as np
import pytest

from data_pipelines.errors import UserError
from maerec_jax import ReadingConfig, Recognizer
from maerec_jax.reading.boxes import character_boxes
from maerec_jax.reading.word import Word
from tests.serving.conftest import random_recognizer
from tests.training.conftest import words

BOXES = np.array([(10, 8, 18, 24), (22, 10, 30, 22), (31, 4, 50, 28), (60, 20, 64, 24)])


@pytest.fixture(scope="module")
def recognizer():
    return random_recognizer(ReadingConfig(boxes=True), batch_size=4)


def drawn(colour=20, paper=200, columns=128):
    image = np.full((32, columns, 3), paper, np.uint8)
    for left, top, right, bottom in BOXES:
        image[top:bottom, left:right] = colour
    return image


def looks(boxes, columns=32):
    """Where somebody looks who looks a little to both sides of the middles, in patches of 4 columns."""
    middles = boxes[:, [0, 2]].mean(axis=1)
    away = np.arange(columns) * 4 + 2 - middles[:, None]
    return np.exp(-(away**2) / 18)[:, None].astype(np.float32)


@pytest.mark.parametrize(("colour", "paper"), [(20, 200), (255, 90)])
def test_boxes_are_as_large_as_the_ink(colour, paper):
    found = character_boxes(drawn(colour, paper), looks(BOXES), 128)
    np.testing.assert_allclose(found * (128, 32, 128, 32), BOXES)


def test_text_may_run_from_the_right():
    found = character_boxes(drawn(), looks(BOXES[::-1]), 128)
    np.testing.assert_allclose(found * (128, 32, 128, 32), BOXES[::-1])


def test_the_filling_of_an_image_is_not_looked_at():
    image = drawn()
    image[:, 80:] = 0
    np.testing.assert_allclose(character_boxes(image, looks(BOXES), 80) * (80, 32, 80, 32), BOXES)


@pytest.mark.parametrize("number", [0, 1, 2, 26])
def test_without_ink_boxes_are_between_the_neighbours(number):
    maps = np.random.default_rng(0).random((number, 2, 8), np.float32)
    found = character_boxes(np.full((32, 128, 3), 77, np.uint8), maps, 128)
    assert found.shape == (number, 4)
    assert (found >= 0).all()
    assert (found <= 1).all()
    assert (found[:, 2:] > found[:, :2]).all()
    assert (found[:, [1, 3]] == (0, 1)).all()


def test_words_have_the_boxes_of_their_characters_in_the_image_that_was_given(recognizer):
    source = words(3).open(None)
    for word, index in zip(recognizer.read([source[i].image for i in range(3)]), range(3), strict=True):
        height, width = source[index].image.shape[:2]
        assert len(word.character_boxes) == len(word.character_confidences) > 0
        left, top, right, bottom = word.box
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        described = word.described()
        assert described["box"] == tuple(round(edge, 1) for edge in word.box)
        assert len(described["character_boxes"]) == len(word.character_boxes)
    assert Word("", 0.0, ()).box is None


def test_boxes_of_turned_words_are_turned_back(recognizer):
    image = words(1).open(None)[0].image
    level = recognizer.prepare(image)
    (word,) = recognizer.read_prepared([level])
    height, width = image.shape[:2]
    for turns in (1, 3):
        upright = np.ascontiguousarray(np.rot90(image, -turns))  # is read if it is turned so
        given = replace(level, turns=(turns,), size=upright.shape[:2])
        for (x0, y0, x1, y1), box in zip(
            word.character_boxes, recognizer.boxes(given, replace(word, turns=turns)), strict=True
        ):
            expected = (height - y1, x0, height - y0, x1) if turns == 1 else (y0, width - x1, y1, width - x0)
            assert box == pytest.approx(expected)


def test_a_model_without_maps_has_no_boxes(recognizer, monkeypatch):
    monkeypatch.setattr(type(recognizer.reader.config), "has_attention", False)
    with pytest.raises(UserError, match="has no attention maps: leave out --boxes"):
        Recognizer(recognizer._run, recognizer._params, ReadingConfig(boxes=True))
