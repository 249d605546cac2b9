"""From the crop of a word back to the picture."""

from dataclasses import replace

import numpy as np

from data_pipelines.images.crops import Crops, upright
from maerec_jax.reading.word import Word


def in_picture(word: Word, size: tuple[int, int], polygon_N2: np.ndarray, how: Crops) -> Word:
    """A word that was read in a crop of a picture of a height and width, with its boxes in pixels of the picture.

    Rectified words lose theirs: an upright box in the crop is none in the picture.
    """
    if how == "rectified":
        return replace(word, character_boxes=())
    x, y, _, _ = upright(polygon_N2, *size, how)
    boxes = tuple((x + left, y + top, x + right, y + bottom) for left, top, right, bottom in word.character_boxes)
    return replace(word, character_boxes=boxes)
