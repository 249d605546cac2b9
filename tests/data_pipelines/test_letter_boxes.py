"""Rendered words are known to be where they are drawn."""

import numpy as np
import pytest

from data_pipelines.rendering.fonts import find_fonts
from data_pipelines.rendering.layout import bend, draw_column, draw_line
from data_pipelines.rendering.picture import render, render_located


@pytest.mark.parametrize("turned", ["straight", "arched", "sagging", "column"])
def test_the_boxes_of_letters_hold_their_ink(turned):
    face = find_fonts(None).faces[0]
    line = (
        draw_column("Hill", face, 4) if turned == "column" else draw_line("Hi ll", face, 6, 0, np.random.default_rng(0))
    )
    if turned in ("arched", "sagging"):
        line = bend(line, 0.8 if turned == "arched" else -0.8)
    assert line.letters.shape == (4, 4, 2)
    outside = line.mask.copy()
    for corners in line.letters:
        (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
        box = slice(int(top) - 1, int(bottom) + 2), slice(int(left) - 1, int(right) + 2)
        assert line.mask[box].max() > 100
        outside[box] = 0
    assert not outside.any()


def test_pictures_are_drawn_with_the_boxes_of_their_letters():
    picture, boxes = render_located("Hi ll", find_fonts(None), 0.0, np.random.default_rng(3))
    assert len(boxes) == 4
    dark = picture.min(axis=2) < 100
    rows, columns = dark.any(axis=1).nonzero()[0], dark.any(axis=0).nonzero()[0]
    np.testing.assert_allclose(
        [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1],
        [*boxes[:, :2].min(axis=0), *boxes[:, 2:].max(axis=0)],
        atol=2,
    )
    np.testing.assert_array_equal(picture, render("Hi ll", find_fonts(None), 0.0, np.random.default_rng(3)))
