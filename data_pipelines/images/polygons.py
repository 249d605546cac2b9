"""Which corners of a polygon are the ends of its text, and which of its sides is the upper one."""

import cv2
import numpy as np

_LONG = 1.5  # text runs along the longer side of what is at least so many times as long as high
STEEP = float(np.cos(np.deg2rad(75)))
"""Text whose direction has a smaller horizontal part is nearly upright: nobody knows whether to the left or right."""

# Points of an outline, lines across the text between two of its ends that are tried, and points of a side.
_AROUND, _ALONG, _SIDE = 128, 24, 64


def within_reach(polygon_N2: np.ndarray, height: int, width: int) -> np.ndarray:
    """A polygon in whose corners are no numbers that would spoil what is calculated from them.

    Returns:
      float32 (N, 2), at least one corner, none of which is further from the picture than its longer side.
    """
    polygon = np.asarray(polygon_N2, np.float32).reshape(-1, 2)
    polygon = polygon if len(polygon) else np.zeros((1, 2), np.float32)
    return np.clip(np.nan_to_num(polygon), -max(height, width), 2 * max(height, width))


def shorter_side(polygon_N2: np.ndarray) -> float:
    """The shorter side of the smallest rectangle around a polygon, float32 (N, 2)."""
    return min(cv2.minAreaRect(polygon_N2)[1])


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

    A band of height h and length l has the area h l and the perimeter 2 (h + l), bent or not, so its height is known.
    The middles of its ends are where the outline has to be cut so that, with h / 2 left out on either side of the
    cuts, the two long sides are everywhere as far from each other as the band is high, straight across it.

    Args:
      polygon_N2: (x, y) of the corners, in order.

    Returns:
      float64 (64, 2) each: points of the upper and of the lower side, evenly along them, to the right, or downwards
      for text that is nearly upright, whose upper side is then the right one. None for a polygon that is not at least
      1.5 times as long as high.
    """
    outline = _evenly(np.concatenate([polygon_N2, polygon_N2[:1]]).astype(np.float64), _AROUND + 1)[:-1]
    area = cv2.contourArea(outline.astype(np.float32), oriented=True)
    if area < 0:
        outline = outline[::-1]
    around = float(np.linalg.norm(np.roll(outline, -1, axis=0) - outline, axis=1).sum())
    height = (around - np.sqrt(max(0.0, around**2 - 16 * abs(area)))) / 4
    if not around or around / 2 - height < _LONG * height:
        return None
    left_out = height / 2 / around * _AROUND
    starts, lengths = np.arange(0, _AROUND, 2.0), np.arange(_AROUND / 4, _AROUND / 2 + 1, 2)
    for finer in (np.arange(-2, 2.5, 0.5), np.arange(-0.5, 0.6, 0.125)):
        start, length = _best_cut(outline, starts, lengths, left_out, height)
        starts, lengths = start + finer, length + finer
    start, length = _best_cut(outline, starts, lengths, left_out, height)
    upper, lower = _sides(outline, np.array(start), np.array(length), left_out, _SIDE)
    upper, lower = _reaching(upper, lower, points_at(outline, np.array(start)))
    upper, lower = _reaching(upper[::-1], lower[::-1], points_at(outline, np.array(start + length)))
    upper, lower = _evenly(upper[::-1], _SIDE), _evenly(lower[::-1], _SIDE)
    run = (upper + lower)[-1] - (upper + lower)[0]
    backwards = run[1] < 0 if abs(run[0]) < STEEP * np.hypot(*run) else run[0] < 0
    # Clockwise, what goes to the right is the upper side, and what goes down is the right one.
    return (lower[::-1], upper[::-1]) if backwards else (upper, lower)


def _best_cut(
    outline_M2: np.ndarray, starts: np.ndarray, lengths: np.ndarray, left_out: float, height: float
) -> tuple[float, float]:
    """Where the outline has to be cut first, and how much further on again, in its points."""
    start, length = np.meshgrid(starts, lengths, indexing="ij")
    upper, lower = _sides(outline_M2, start, length, left_out, _ALONG)
    across = ((upper - lower)[..., 1:, :] + (upper - lower)[..., :-1, :]) / 2
    along = np.diff(upper + lower, axis=-2)
    along /= np.maximum(np.linalg.norm(along, axis=-1, keepdims=True), 1e-9)
    off = (np.linalg.norm(across, axis=-1) - height) ** 2 + (across * along).sum(axis=-1) ** 2
    off = off.mean(axis=-1)
    place = np.unravel_index(np.argmin(off), off.shape)
    return float(start[place]), float(length[place])


def _sides(
    outline_M2: np.ndarray, start: np.ndarray, length: np.ndarray, left_out: float, number: int
) -> tuple[np.ndarray, np.ndarray]:
    """Points (..., number, 2) of the outline from one cut to the other, and of the rest of it, backwards."""
    part = np.linspace(0, 1, number)
    forth = start[..., None] + left_out + np.maximum(length[..., None] - 2 * left_out, 0) * part
    back = start[..., None] - left_out - np.maximum(len(outline_M2) - length[..., None] - 2 * left_out, 0) * part
    return points_at(outline_M2, forth), points_at(outline_M2, back)


def points_at(outline_M2: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Points (..., 2) at places (...) of a closed outline, also between those that it is given by."""
    before = np.floor(place).astype(int)
    share = (place - before)[..., None]
    return outline_M2[before % len(outline_M2)] * (1 - share) + outline_M2[(before + 1) % len(outline_M2)] * share


def _reaching(upper_K2: np.ndarray, lower_K2: np.ndarray, tip_2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two sides with a point before their first ones, as far out as the tip of the text's end, which may be round."""
    outwards = upper_K2[0] - upper_K2[8] + lower_K2[0] - lower_K2[8]
    outwards /= max(np.hypot(*outwards), 1e-9)
    reach = max(0.0, float((tip_2 - (upper_K2[0] + lower_K2[0]) / 2) @ outwards))
    first, second = (np.concatenate([[side[0] + reach * outwards], side]) for side in (upper_K2, lower_K2))
    return first, second


def _evenly(line_N2: np.ndarray, number: int) -> np.ndarray:
    """Points that are evenly spaced along a line."""
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(line_N2, axis=0), axis=1))])
    places = np.linspace(0, along[-1], number)
    return np.stack([np.interp(places, along, line_N2[:, axis]) for axis in (0, 1)], axis=1)
