"""Words cut out of a picture by their polygons, in one of three styles."""

from math import ceil, floor
from typing import Literal

import cv2
import numpy as np

from data_pipelines.images.crops import crop

Style = Literal["box", "rotated", "rectified"]
"""How words are cut out: "box" by the smallest upright rectangle around the polygon, without a margin, as those of
Union14M are; "rotated" by the smallest rectangle of any direction, its longer side laid level by a turn of less than 90
degrees; or "rectified", so that the text lies level, as ``predict --crops rectified`` does."""

_LONGEST = 32766  # pixels a side, that OpenCV can turn and JPEG can hold


def fault_of(polygon_N2: np.ndarray, height: int, width: int) -> str:
    """Why a polygon (x, y) marks nothing that can be cut out of a picture of a size; "" where it marks something."""
    if len(polygon_N2) < 3 or not np.isfinite(polygon_N2).all():
        return "no polygon of at least 3 corners"
    left, top, right, bottom = _extent(polygon_N2)
    if right <= left or bottom <= top:
        return "polygon without an area"
    left, top, right, bottom = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    if right <= left or bottom <= top:
        return "polygon outside of the picture"
    return "more than 32,766 pixels long" if max(right - left, bottom - top) >= _LONGEST else ""


def _extent(polygon_N2: np.ndarray) -> tuple[float, float, float, float]:
    """Left, upper, right and lower end. Python's numbers are faster than NumPy's where they are few."""
    x, y = zip(*polygon_N2.tolist(), strict=True)
    return min(x), min(y), max(x), max(y)


def cut_out(image_HWC: np.ndarray, polygon_N2: np.ndarray, style: Style) -> np.ndarray:
    """A word, uint8 RGB (height, width, 3), of a picture, uint8 RGB, in which its polygon has no fault."""
    if style == "rotated":
        return _rotated(image_HWC, polygon_N2)
    if style == "rectified":
        return crop(image_HWC, polygon_N2, style)
    left, top, right, bottom = _extent(polygon_N2)
    height, width = image_HWC.shape[:2]
    rows = slice(floor(max(top, 0)), ceil(min(bottom, height)))
    return image_HWC[rows, floor(max(left, 0)) : ceil(min(right, width))]


def _rotated(image_HWC: np.ndarray, polygon_N2: np.ndarray) -> np.ndarray:
    """The smallest rectangle of any direction around what of the polygon is in the picture; black outside of that."""
    height, width = image_HWC.shape[:2]
    rectangle = cv2.minAreaRect(np.clip(polygon_N2, 0, (width, height)).astype(np.float32))
    around = np.clip(cv2.boxPoints(rectangle), 0, (width, height))
    left, top = np.floor(around.min(axis=0)).astype(
        int
    )  # what is turned is cut out first: OpenCV turns no long pictures
    right, bottom = np.ceil(around.max(axis=0)).astype(int)
    (x, y), (w, h), angle = rectangle
    if w < h:
        w, h, angle = h, w, angle + 90
    angle = (angle + 90) % 180 - 90  # of the longer side: less than a right angle from the horizontal
    size, middle = (max(1, round(w)), max(1, round(h))), (float(x - left), float(y - top))
    matrix = cv2.getRotationMatrix2D(middle, angle, 1)
    # OpenCV counts from the middle of the first pixel, polygons from its corner.
    matrix[:, 2] += np.array(size) / 2 - middle + (matrix[:, :2] - np.eye(2)).sum(axis=1) / 2
    return cv2.warpAffine(image_HWC[top:bottom, left:right], matrix, size, flags=cv2.INTER_LINEAR)
