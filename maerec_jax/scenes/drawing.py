"""A picture with the words that were found and read in it."""

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from maerec_jax.pictures import confidence_colour
from maerec_jax.scenes.scene_reader import Scene, SceneWord

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
    for word in scene.words:
        corners = [(float(x), float(y)) for x, y in word.polygon_N2 * scale]
        draw.line([*corners, corners[0], corners[1]], "white", 6, joint="curve")
        draw.line([*corners, corners[0], corners[1]], confidence_colour(word.word.confidence), 3, joint="curve")
    taken: list[tuple[float, float, float, float]] = []
    for word in scene.words:
        _label(draw, word, scale, size, taken)
    return np.asarray(picture)


def _label(
    draw: ImageDraw.ImageDraw,
    word: SceneWord,
    scale: float,
    size: tuple[int, int],
    taken: list[tuple[float, float, float, float]],
) -> None:
    """Write a word beside its outline, where it hides no other text."""
    left, top = word.polygon_N2.min(axis=0) * scale
    bottom = word.polygon_N2[:, 1].max() * scale
    text = word.word.text or "(nothing)"
    font = ImageFont.load_default(int(np.clip(0.5 * (bottom - top), 14, 32)))
    x0, y0, x1, y1 = draw.textbbox((0, 0), text, font)
    w, h = x1 - x0 + 8, y1 - y0 + 6
    x = min(max(0.0, left), max(0.0, size[0] - w))
    places = [(x, min(max(0.0, y), max(0.0, size[1] - h))) for y in (top - h - 3, bottom + 3, top - 2 * h - 6, top)]
    x, y = min(places, key=lambda place: sum(_shared((*place, place[0] + w, place[1] + h), other) for other in taken))
    taken.append((x, y, x + w, y + h))
    draw.rectangle((x, y, x + w, y + h), confidence_colour(word.word.confidence), "white")
    draw.text((x + 4 - x0, y + 3 - y0), text, "white", font)


def _shared(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> float:
    """The area that two boxes share."""
    w = min(one[2], other[2]) - max(one[0], other[0])
    h = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, w) * max(0.0, h)
