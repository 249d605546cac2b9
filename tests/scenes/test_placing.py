"""Words that were read in crops, in the picture."""

import numpy as np

from maerec_jax.reading.word import Word
from maerec_jax.scenes.placing import in_picture


def test_boxes_of_characters_are_moved_into_the_picture():
    word = Word("ab", 1.0, (1.0, 1.0), character_boxes=((1.0, 2.0, 3.0, 4.0), (5.5, 2.0, 7.0, 9.0)))
    polygon = np.array([(100.4, 50), (150, 50), (150, 70), (100.4, 70)])
    assert in_picture(word, (400, 300), polygon, "box").box == (101, 52, 107, 59)
    assert in_picture(word, (400, 300), polygon, "app").box == (101 - 8, 52 - 4, 107 - 8, 59 - 4)
    assert in_picture(word, (400, 300), polygon, "rectified").box is None
