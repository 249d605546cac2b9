"""Corners of words."""

import numpy as np


def clockwise_from_top_left(corners_42: np.ndarray) -> np.ndarray:
    """Four corners of a rectangle, clockwise as one sees it, from the one that begins the uppermost of the sides.

    That is the side that is nearest to the horizontal, of the two that are it the upper one.
    """
    middle = corners_42.mean(axis=0)
    around = corners_42[np.argsort(np.arctan2(*(corners_42 - middle).T[::-1]), kind="stable")]  # y is down: clockwise
    sides = np.roll(around, -1, axis=0) - around
    # The side that goes to the right most is the upper one of a clockwise rectangle.
    first = int(np.argmax(sides[:, 0] / np.maximum(np.hypot(*sides.T), 1e-6)))
    return np.roll(around, -first, axis=0).astype(np.float32)
