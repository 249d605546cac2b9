"""From a map of probabilities to words: what is above a threshold and connected, its outline moved out again.

The networks of differentiable binarisation (DB: Liao et al., AAAI 2020; DBNet++: TPAMI 2022) give for each pixel the
probability that it belongs to a word, each word shrunken so that neighbours stay apart.
"""

import cv2
import numpy as np
import pyclipper

from data_pipelines.images.polygons import level_corners
from maerec_jax.scenes.regions import DetectionSettings, Method, Region

_FINE = 256  # Clipper calculates in whole numbers: so many of them to a pixel
_MOST_OUTLINES = 3001  # that the published DBNet++ looks at in a picture


def regions_of(probability_HW: np.ndarray, settings: DetectionSettings, method: Method = "db") -> list[Region]:
    """The words in a map of probabilities, in its pixels, the most confident first.

    Args:
      probability_HW: float32, 0 to 1.
      settings: thresholds and shapes.
      method: "dbnetpp" for what the published DBNet++ finds: holes in words are words, too, corners are those of
        pixels' middles in whole numbers, and what falls apart when it is moved out is left out.
    """
    found = (_published if method == "dbnetpp" else _found)(probability_HW, settings)
    return sorted(found, key=lambda region: -region.confidence)[: settings.max_words]


def _found(probability_HW: np.ndarray, settings: DetectionSettings) -> list[Region]:
    found = []
    mask = (probability_HW >= settings.threshold).astype(np.uint8)
    contours, hierarchy = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    for i, contour in enumerate(contours):
        rectangle = cv2.minAreaRect(contour)
        if hierarchy[0][i][3] >= 0 or min(rectangle[1]) + 1 < settings.min_size:  # the border of a hole, or too small
            continue
        outline = cv2.boxPoints(rectangle)
        if settings.shape == "polygon":
            outline = _outline(contour, 0.005)
        confidence = _mean_inside(probability_HW, outline)
        if len(outline) < 3 or confidence < settings.min_confidence:
            continue
        moved = unclip(outline + 0.5, settings.unclip_ratio)  # contours go through the middles of pixels
        if moved is not None and settings.shape == "quadrilateral":
            moved = level_corners(cv2.boxPoints(cv2.minAreaRect(moved)))
        if moved is not None:
            found.append(Region(moved, confidence))
    return found


def _published(probability_HW: np.ndarray, settings: DetectionSettings) -> list[Region]:
    found = []
    mask = (probability_HW > settings.threshold).astype(np.uint8)
    contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    for contour in contours[:_MOST_OUTLINES]:
        outline = _outline(contour, 0.002)
        if len(outline) < 4 or (confidence := _mean_inside(probability_HW, outline)) < settings.min_confidence:
            continue
        parts = _moved_out(outline, settings.unclip_ratio, fine=1, arc_tolerance=0.25)
        # Several parts of as many corners each pass for one, the first.
        if len({len(part) for part in parts}) != 1:
            continue
        rectangle = cv2.minAreaRect(parts[0])
        if min(rectangle[1]) >= settings.min_size:
            quadrilateral = settings.shape == "quadrilateral"
            found.append(Region(level_corners(cv2.boxPoints(rectangle)) if quadrilateral else parts[0], confidence))
    return found


def unclip(polygon_N2: np.ndarray, ratio: float) -> np.ndarray | None:
    """A polygon with its outline moved out by area * ratio / perimeter (DB, inference).

    Returns:
      float32 (N, 2), the largest part where several come out; None where nothing does.
    """
    parts = _moved_out(polygon_N2.astype(np.float32), ratio, _FINE, arc_tolerance=0.1)
    return max(parts, key=cv2.contourArea) if parts else None


def _moved_out(polygon_N2: np.ndarray, ratio: float, fine: int, arc_tolerance: float) -> list[np.ndarray]:
    """What Clipper makes of it: float32 (N, 2) each, in ``fine`` steps a pixel; round corners are off by the
    tolerance, in pixels, at most."""
    distance = cv2.contourArea(polygon_N2) * ratio / max(cv2.arcLength(polygon_N2, True), 1e-6)
    offset = pyclipper.PyclipperOffset(2.0, arc_tolerance * fine)
    path = np.round(polygon_N2 * fine).astype(np.int64).tolist()
    offset.AddPath(path, pyclipper.JT_ROUND, pyclipper.ET_CLOSEDPOLYGON)
    return [np.array(part, np.float32) / fine for part in offset.Execute(distance * fine)]


def _outline(contour: np.ndarray, tolerance: float) -> np.ndarray:
    """A contour with fewer corners, float32 (N, 2), off by that share of its length at most."""
    return cv2.approxPolyDP(contour, tolerance * cv2.arcLength(contour, True), True)[:, 0].astype(np.float32)


def _mean_inside(probability_HW: np.ndarray, outline_N2: np.ndarray) -> float:
    """Mean probability of the pixels in an outline."""
    height, width = probability_HW.shape
    left, top = np.clip(np.floor(outline_N2.min(axis=0)).astype(int), 0, (width - 1, height - 1))
    right, bottom = np.clip(np.ceil(outline_N2.max(axis=0)).astype(int), 0, (width - 1, height - 1))
    mask = np.zeros((bottom - top + 1, right - left + 1), np.uint8)
    cv2.fillPoly(mask, [np.round(outline_N2 - (left, top)).astype(np.int32)], 1)
    return float(cv2.mean(probability_HW[top : bottom + 1, left : right + 1], mask)[0])
