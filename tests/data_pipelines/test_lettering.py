"""Letters of signs: hand-made, solid, and with something in front."""

import cv2
import numpy as np

from data_pipelines.rendering.fonts import Face
from data_pipelines.rendering.layout import draw_line
from data_pipelines.rendering.picture import _cover, _sides
from tests.data_pipelines.test_rendering import roboto


def test_tumbled_letters_are_whole_and_side_by_side():
    face = Face(roboto(), "Roboto", "Regular")
    plain = draw_line("HOHOH", face, 4.0, 0.0, np.random.default_rng(0))
    for seed in range(20):
        line = draw_line("HOHOH", face, 4.0, 0.0, np.random.default_rng(seed), tumble=0.1)
        assert cv2.connectedComponents((line.mask > 100).astype(np.uint8))[0] == 1 + 5  # and the ground
        x0, y0, x1, y1 = line.box
        assert line.mask[y0:y1, x0:x1].sum(dtype=np.int64) == line.mask.sum(dtype=np.int64)
        assert 0.6 < line.mask.sum(dtype=np.int64) / plain.mask.sum(dtype=np.int64) < 1.6
        assert line.mask.shape != plain.mask.shape


def test_sides_lie_beside_the_letters_and_covers_leave_most_to_be_seen():
    rng = np.random.default_rng(0)
    alpha = np.zeros((40, 120), np.float32)
    alpha[10:30, 20:100:20] = 1
    for _ in range(30):
        sides = _sides(alpha, rng)
        assert (sides >= alpha).all()
        assert 1 < sides.sum() / alpha.sum() < 8
        picture = np.full((40, 120, 3), -1, np.float32)
        _cover(picture, rng)
        assert 0 < np.mean(picture[:, :, 0] != -1) < 0.5
