"""A picture with the words that were found and read in it."""

from math import ceil

import cv2
import numpy as np
from PIL import Image, ImageDraw

from data_pipelines.rendering.captions import caption_font
from maerec_jax.reading.pictures import confidence_colour
from maerec_jax.reading.word import Word
from maerec_jax.scenes.scene_reader import Scene

_LONG_SIDE = (1000, 2400)  # the picture is shown with a longer side within these


def annotated_scene(image_HWC: np.ndarray, scene: Scene) -> np.ndarray:
    """Draw outlines and texts of the words, coloured by confidence from orange (0 %) to dark blue (100 %).

    Args:
      image_HWC: uint8 RGB, the picture that was read.
      scene: what was read in it.

    Returns:
      uint8 RGB (height, width, 3), the picture in a size that shows the texts: small ones grow, huge ones shrink.
    """
    height, width = image_HWC.shape[:2]
    scale = float(np.clip(max(height, width), *_LONG_SIDE)) / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    picture = Image.fromarray(cv2.resize(image_HWC, size, interpolation=way) if scale != 1 else image_HWC)
    draw = ImageDraw.Draw(picture)
    line = max(2, round(max(size) / 500))
    for word in scene.words:
        corners = [(float(x), float(y)) for x, y in word.polygon_N2 * scale]
        around = [*corners, *corners[:2]]  # over the first corner again, so that it is joined, too
        draw.line(around, "white", 3 * line, joint="curve")  # seen on dark pictures, and the colour on light ones
        draw.line(around, confidence_colour(word.word.confidence), line, joint="curve")
    # Where outlines, and later texts, are: what is written next keeps off.
    taken_HW = np.zeros(size[::-1], np.uint8)
    for word in scene.words:
        cv2.fillPoly(taken_HW, [np.rint(word.polygon_N2 * scale).astype(np.int32)], 1)
    for word in scene.words:
        _label(draw, word.polygon_N2 * scale, word.word, taken_HW)
    return np.asarray(picture)


def _label(draw: ImageDraw.ImageDraw, polygon_N2: np.ndarray, word: Word, taken_HW: np.ndarray) -> None:
    """Write a word at its outline: above it, or where it hides the least."""
    longer, text = max(taken_HW.shape), word.text or "(nothing)"
    high = int(np.clip(0.5 * min(cv2.minAreaRect(polygon_N2)[1]), longer / 70, longer / 35))
    font, pad = caption_font(text, high), max(3, high // 6)
    x0, y0, x1, y1 = draw.textbbox((0, 0), text, font)
    w, h = ceil(x1 - x0) + 2 * pad, ceil(y1 - y0) + 2 * pad
    (left, top), (right, bottom) = polygon_N2.min(axis=0), polygon_N2.max(axis=0)
    first, last = polygon_N2[0], polygon_N2[-1]  # of a quadrilateral the left end of its upper and of its lower side
    gap = 2 * pad
    places = [
        (left, top - h - gap),
        (first[0] - w / 2, first[1] - h - gap),
        (left, bottom + gap),
        (last[0] - w / 2, last[1] + gap),
        (right + gap, top),
        (left - w - gap, top),
        (left, top - 2 * h - 2 * gap),
        (left, bottom + h + 2 * gap),
    ]
    most = np.array([taken_HW.shape[1] - w - 1, taken_HW.shape[0] - h - 1])
    corners = np.clip(np.rint(places), 0, np.maximum(most, 0)).astype(int)
    x, y = min(corners, key=lambda corner: taken_HW[corner[1] : corner[1] + h, corner[0] : corner[0] + w].sum())
    taken_HW[y : y + h, x : x + w] = 1
    draw.rounded_rectangle((x, y, x + w, y + h), pad, confidence_colour(word.confidence), "white")
    draw.text((x + pad - x0, y + pad - y0), text, "white", font)
