"""Which corners of a polygon are the ends of its text, and which of its sides is the upper one."""

import cv2
import numpy as np

_LONG = 1.5  # text runs along the longer side of what is at least so many times as long as high
STEEP = float(np.cos(np.deg2rad(75)))
"""Text whose direction has a smaller horizontal part is nearly upright: nobody knows whether to the left or right."""

# Points of an outline, lines across the text between two of its ends that are tried, and points of a side.
_AROUND, _ALONG, _SIDE = 128, 24, 64


def level_corners(corners_42: np.ndarray) -> np.ndarray:
    """The corners of a convex quadrilateral in the order upper left, upper right, lower right, lower left of its text.

    Text is taken to run to the right: along the longer sides, unless these are nearly upright or hardly longer; then
    along those that are nearest to the horizontal.

    Args:
      corners_42: (x, y) of the corners in any order.

    Returns:
      float32 (4, 2), clockwise as one sees it.
    """
    away = corners_42 - corners_42.mean(axis=0)
    around = corners_42[np.argsort(np.arctan2(away[:, 1], away[:, 0]), kind="stable")]  # y grows downwards: clockwise
    sides = np.roll(around, -1, axis=0) - around
    lengths = np.maximum(np.hypot(sides[:, 0], sides[:, 1]), 1e-6)
    to_the_right = sides[:, 0] / lengths
    both = lengths[:2] + lengths[2:]
    longer = int(both[1] > both[0])
    # Clockwise, a side that goes to the right has the quadrilateral below it.
    first = int(np.argmax(to_the_right))
    if both[longer] >= _LONG * both[1 - longer] and np.abs(to_the_right[longer::2]).min() > STEEP:
        first = longer + 2 * int(np.argmax(to_the_right[longer::2]))
    return np.roll(around, -first, axis=0).astype(np.float32)


def long_sides(polygon_N2: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The two long sides of a polygon around a line of text, which may be bent.

    The ends of the text are where the outline has to be cut so that the halves are as near to each other as can be,
    point by point; half of the text's height is left out on either side of such a cut.

    Args:
      polygon_N2: (x, y) of the corners, in order.

    Returns:
      float64 (64, 2) each: points of the upper and of the lower side, evenly along them, to the right, or downwards
      for text that is nearly upright, whose upper side is then the right one. None for a polygon that is not at least
      1.5 times as long as high.
    """
    outline = _evenly(np.concatenate([polygon_N2, polygon_N2[:1]]).astype(np.float64), _AROUND + 1)[:-1]
    if cv2.contourArea(outline.astype(np.float32), oriented=True) < 0:
        outline = outline[::-1]
    starts, lengths = np.meshgrid(np.arange(_AROUND), np.arange(_AROUND // 4, _AROUND // 2 + 1), indexing="ij")
    part = (np.arange(_ALONG) + 0.5) / _ALONG
    ahead = np.rint(starts[..., None] + lengths[..., None] * part).astype(int)
    back = np.rint(starts[..., None] - (_AROUND - lengths[..., None]) * part).astype(int)
    gaps = np.linalg.norm(outline[ahead % _AROUND] - outline[back % _AROUND], axis=-1)
    start, place = np.unravel_index(np.argmin((gaps**2).mean(axis=-1)), starts.shape)
    length = int(lengths[start, place])
    height = float(np.median(gaps[start, place]))
    around = float(np.linalg.norm(np.roll(outline, -1, axis=0) - outline, axis=1).sum())
    if not height or around / 2 - height < _LONG * height:
        return None
    forth = outline[np.arange(start, start + length + 1) % _AROUND]
    rest = outline[np.arange(start + length, start + _AROUND + 1) % _AROUND][::-1]
    upper, lower = _evenly(forth, _SIDE, height / 2), _evenly(rest, _SIDE, height / 2)
    upper, lower = _reaching(upper, lower, forth[0])
    upper, lower = _reaching(upper[::-1], lower[::-1], forth[-1])
    upper, lower = _evenly(upper[::-1], _SIDE), _evenly(lower[::-1], _SIDE)
    run = (upper + lower)[-1] - (upper + lower)[0]
    backwards = run[1] < 0 if abs(run[0]) < STEEP * np.hypot(*run) else run[0] < 0
    # Clockwise, what goes to the right is the upper side, and what goes down is the right one.
    return (lower[::-1], upper[::-1]) if backwards else (upper, lower)


def _reaching(upper_K2: np.ndarray, lower_K2: np.ndarray, tip_2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two sides with a point before their first ones, as far out as the tip of the text's end, which may be round."""
    outwards = upper_K2[0] - upper_K2[8] + lower_K2[0] - lower_K2[8]
    outwards /= max(np.hypot(*outwards), 1e-9)
    reach = max(0.0, float((tip_2 - (upper_K2[0] + lower_K2[0]) / 2) @ outwards))
    first, second = (np.concatenate([[side[0] + reach * outwards], side]) for side in (upper_K2, lower_K2))
    return first, second


def _evenly(line_N2: np.ndarray, number: int, leave_out: float = 0) -> np.ndarray:
    """Points that are evenly spaced along a line, but for some length at both ends, at most nearly half."""
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(line_N2, axis=0), axis=1))])
    leave_out = min(leave_out, 0.45 * along[-1])
    places = np.linspace(leave_out, along[-1] - leave_out, number)
    return np.stack([np.interp(places, along, line_N2[:, axis]) for axis in (0, 1)], axis=1)
