"""Words cut out of a picture."""

from typing import Literal

import cv2
import numpy as np

from data_pipelines.images.polygons import STEEP, level_corners, long_sides, points_at, within_reach
from data_pipelines.images.resizing import turn_image

Crops = Literal["box", "rectified", "app"]
"""How words are cut out: "box" by the smallest upright rectangle around the polygon, as the words of Union14M are;
"rectified", so that the text lies level; or "app" by that rectangle with the margins of the original demo app."""

_LONGEST = 32766  # sides that OpenCV can warp


def crop(image_HWC: np.ndarray, polygon_N2: np.ndarray, how: Crops = "box") -> np.ndarray:
    """Cut a word out of a picture.

    Rectified, quadrilaterals are mapped to rectangles, and longer polygons straightened along their two long sides.
    Text runs to the right then; where it is nearly upright, the crop is upright, too, so that it can be read in three
    ways (``ReadingConfig.turn``). Polygons that cannot be rectified are cut out by their boxes.

    Args:
      image_HWC: uint8 RGB, at least one pixel.
      polygon_N2: the word's corners (x, y), where pixel i reaches from i to i + 1. It may reach beyond the picture.
      how: by its upright box, rectified, or by its box with margins.

    Returns:
      uint8 RGB (height, width, 3), at least one pixel whatever the polygon is.
    """
    height, width = image_HWC.shape[:2]
    if how == "rectified":
        rectified = _rectified(image_HWC, within_reach(polygon_N2, height, width))
        if rectified is not None:
            return rectified
    left, top, right, bottom = upright(polygon_N2, height, width, how)
    return np.ascontiguousarray(image_HWC[top:bottom, left:right])


def upright(polygon_N2: np.ndarray, height: int, width: int, how: Crops) -> tuple[int, int, int, int]:
    """Left, upper, right and lower edge of the upright rectangle that is cut out, of words that are not rectified."""
    polygon = within_reach(polygon_N2, height, width)
    return (_with_margins if how == "app" else _box)(polygon, height, width)


def _box(polygon_N2: np.ndarray, height: int, width: int, margin: int = 0) -> tuple[int, int, int, int]:
    """Left, upper, right and lower edge of the smallest upright rectangle, and some more, within a picture."""
    left, top = np.clip(np.floor(polygon_N2.min(axis=0)) - margin, 0, (width - 1, height - 1)).astype(int)
    right, bottom = np.clip(np.ceil(polygon_N2.max(axis=0)) + margin, (left + 1, top + 1), (width, height)).astype(int)
    return int(left), int(top), int(right), int(bottom)


def _with_margins(polygon_N2: np.ndarray, height: int, width: int) -> tuple[int, int, int, int]:
    """Edges as of ``_box``, further out by 0.4 of the shorter side at the two ends, by 0.2 along them."""
    first, last = polygon_N2.min(axis=0).astype(float), polygon_N2.max(axis=0).astype(float)
    w, h = last - first
    margin = min(w, h) * np.array((0.4, 0.2) if w > h else (0.2, 0.4))
    # Cut off to whole pixels, towards 0.
    left, top = np.clip((first - margin).astype(int), 0, (width - 1, height - 1))
    right, bottom = np.clip((last + margin).astype(int), (left + 1, top + 1), (width, height))
    return int(left), int(top), int(right), int(bottom)


def _rectified(image_HWC: np.ndarray, polygon_N2: np.ndarray) -> np.ndarray | None:
    """The word made level; None where its polygon or the picture is too strange for that."""
    left, top, right, bottom = _box(polygon_N2, image_HWC.shape[0], image_HWC.shape[1], margin=2)
    image, polygon = image_HWC[top:bottom, left:right], (polygon_N2 - (left, top)).astype(np.float32)
    if max(image.shape) > _LONGEST or len(polygon) < 3:
        return None
    most = image.shape[0] * image.shape[1]
    sides = long_sides(polygon) if len(polygon) > 4 else None
    if sides is not None:
        return _straightened(image, *sides, most)
    hull = cv2.convexHull(polygon)[:, 0]
    quadrilateral = hull if len(polygon) == len(hull) == 4 else cv2.boxPoints(cv2.minAreaRect(polygon))
    return _levelled(image, level_corners(quadrilateral), most)


def _levelled(image: np.ndarray, corners_42: np.ndarray, most: int) -> np.ndarray | None:
    """A quadrilateral as a rectangle, its sides as long as they are in the mean."""
    lengths = np.linalg.norm(np.roll(corners_42, -1, axis=0) - corners_42, axis=1)
    w, h = round(float(lengths[0] + lengths[2]) / 2), round(float(lengths[1] + lengths[3]) / 2)
    if not _sensible(w, h, most):
        return None
    target = np.array([(0, 0), (w, 0), (w, h), (0, h)], np.float32)
    matrix = cv2.getPerspectiveTransform(corners_42 - 0.5, target - 0.5)  # OpenCV counts from the middle of a pixel
    if not np.isfinite(matrix).all():
        return None
    return cv2.warpPerspective(image, matrix, (w, h), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _straightened(image: np.ndarray, upper_K2: np.ndarray, lower_K2: np.ndarray, most: int) -> np.ndarray | None:
    """What is between two lines, as a rectangle: each column is what is between two points of them."""
    w = round(float(sum(np.linalg.norm(np.diff(side, axis=0), axis=1).sum() for side in (upper_K2, lower_K2))) / 2)
    h = round(float(np.linalg.norm(upper_K2 - lower_K2, axis=1).mean()))
    if not _sensible(w, h, most):
        return None
    along = (np.arange(w) + 0.5) / w * (len(upper_K2) - 1)
    upper, lower = points_at(upper_K2, along), points_at(lower_K2, along)
    across = ((np.arange(h) + 0.5) / h)[:, None, None]
    x, y = np.moveaxis(upper + across * (lower - upper) - 0.5, -1, 0).astype(np.float32)
    made = cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    run = upper_K2[-1] - upper_K2[0]
    return turn_image(made, 3) if abs(run[0]) < STEEP * np.hypot(*run) else made


def _sensible(w: int, h: int, most: int) -> bool:
    return 1 <= w <= _LONGEST and 1 <= h <= _LONGEST and w * h <= most
