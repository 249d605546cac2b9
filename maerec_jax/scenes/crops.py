"""Words cut out of a picture."""

from typing import Literal

import cv2
import numpy as np

from maerec_jax.scenes.polygons import clockwise_from_top_left

Crops = Literal["box", "rectified"]
"""How words are cut out: "box" by the smallest upright rectangle around the polygon, as the words of Union14M are, or
"rectified", so that the text lies level."""


def crop(image_HWC: np.ndarray, polygon_N2: np.ndarray, how: Crops = "box") -> np.ndarray:
    """Cut a word out of a picture.

    Args:
      image_HWC: uint8 RGB, at least one pixel.
      polygon_N2: the word's corners (x, y), where pixel i reaches from i to i + 1. It may reach beyond the picture.
      how: by its upright box, or rectified.

    Returns:
      uint8 RGB (height, width, 3), at least one pixel whatever the polygon is.
    """
    height, width = image_HWC.shape[:2]
    polygon = np.nan_to_num(np.asarray(polygon_N2, np.float64).reshape(-1, 2), posinf=width, neginf=0)
    if not len(polygon):
        polygon = np.zeros((1, 2))
    if how == "rectified" and len(polygon) >= 4:
        rectified = _rectified(image_HWC, polygon)
        if rectified is not None:
            return rectified
    left, top = np.clip(np.floor(polygon.min(axis=0)), 0, (width - 1, height - 1)).astype(int)
    right, bottom = np.clip(np.ceil(polygon.max(axis=0)), (left + 1, top + 1), (width, height)).astype(int)
    return np.ascontiguousarray(image_HWC[top:bottom, left:right])


def _rectified(image_HWC: np.ndarray, polygon_N2: np.ndarray) -> np.ndarray | None:
    """The word warped to a level rectangle; None where that makes no sense."""
    if max(image_HWC.shape) > 32766:  # OpenCV warps no larger ones
        return None
    corners = cv2.boxPoints(cv2.minAreaRect(polygon_N2.astype(np.float32)))
    corners = clockwise_from_top_left(corners)
    w = round(float(np.hypot(*(corners[1] - corners[0]))))
    h = round(float(np.hypot(*(corners[3] - corners[0]))))
    if w < 1 or h < 1 or w * h > image_HWC.size:
        return None
    target = np.array([(0, 0), (w, 0), (w, h), (0, h)], np.float32)
    matrix = cv2.getPerspectiveTransform(corners - 0.5, target - 0.5)
    return cv2.warpPerspective(image_HWC, matrix, (w, h), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
