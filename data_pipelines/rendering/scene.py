"""Whole pictures out of images of words: these laid on a background of soft colours, each at a place that is known."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

_TRIES = 40  # places that are tried for a word
_GAP = 12  # pixels between words, at least


class ComposedScene(NamedTuple):
    """A picture that words were laid on."""

    image: np.ndarray  # uint8 RGB (height, width, 3)
    polygons: list[np.ndarray]  # of placed words, float32 (4, 2): corners (x, y), clockwise from the upper left
    words: list[int]  # which of the images each is


def compose_scene(
    images: Sequence[np.ndarray],
    height: int,
    width: int,
    rng: np.random.Generator,
    slant: float = 0.0,
    fade: float = 0.0,
) -> ComposedScene:
    """Lay images of words on a background, apart from each other; those for which there is no room are left out.

    They are uint8 RGB (h, w, 3), and keep their size; height and width are the picture's, in pixels. ``slant`` is the
    most degrees by which words are turned to either side; those that are not are copied exactly. ``fade`` is how far
    they run out into the background, as a share of their height.
    """
    picture = soft_background(height, width, rng)
    taken = np.zeros((height, width), np.uint8)
    polygons, words = [], []
    for number, image in enumerate(images):
        for _ in range(_TRIES):
            margin = round(fade * image.shape[0])
            angle = np.deg2rad(rng.uniform(-slant, slant)) if slant else 0.0
            turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            h, w = image.shape[:2]
            corners = np.array([(0, 0), (w, 0), (w, h), (0, h)]) @ turn.T
            around = corners + margin * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) @ turn.T
            low, high = around.min(axis=0), around.max(axis=0)
            room = np.array([width, height]) - (high - low) - 2 * _GAP
            if room.min() < 0:
                break
            shift = _GAP + np.floor(rng.uniform(0, 1, 2) * (room + 1)) - low
            if not slant:
                shift = np.rint(shift)
            corners = (corners + shift).astype(np.float32)
            left, top = np.maximum(np.floor(low + shift).astype(int) - _GAP, 0)  # -1 by rounding would mean the end
            right, bottom = np.ceil(high + shift).astype(int) + _GAP
            if taken[top:bottom, left:right].any():
                continue
            taken[top:bottom, left:right] = 1
            _lay(picture, image, np.column_stack([turn, shift]), margin)
            polygons.append(corners)
            words.append(number)
            break
    return ComposedScene(picture, polygons, words)


def soft_background(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Blurred shapes in muted colours and a little noise, as what a camera does not focus on; uint8 RGB."""
    colour = rng.uniform(60, 190, 3)
    picture = np.broadcast_to(colour, (height, width, 3)).astype(np.float32)
    for cells, strength in ((3, 38.0), (7, 14.0), (25, 4.0)):
        grey = rng.normal(size=(cells, cells, 1)) + 0.35 * rng.normal(size=(cells, cells, 3))
        picture += strength * cv2.resize(grey.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    picture += rng.normal(0, 3, (height, width, 1)).astype(np.float32)
    return np.clip(picture, 0, 255).astype(np.uint8)


def _lay(picture: np.ndarray, image: np.ndarray, matrix_23: np.ndarray, margin: int) -> None:
    """Lay an image on a picture, in place; the matrix maps the edges of its pixels, ``margin`` is that of the fade."""
    centres = matrix_23.copy()
    centres[:, 2] += matrix_23[:, :2] @ (0.5 - margin, 0.5 - margin) - 0.5  # OpenCV counts from the middle of a pixel
    size = picture.shape[1], picture.shape[0]
    opaque = np.full(image.shape[:2], 255, np.uint8)
    if margin:
        image, opaque = _faded(image, margin)
    warped = cv2.warpAffine(image, centres, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    share = cv2.warpAffine(opaque, centres, size, flags=cv2.INTER_LINEAR)[..., None] / np.float32(255)
    picture[:] = np.rint(picture * (1 - share) + warped * share).astype(np.uint8)


def _faded(image: np.ndarray, margin: int) -> tuple[np.ndarray, np.ndarray]:
    """An image continued on all sides, blurred there, and how opaque it is: fully within, ever less outside."""
    within = slice(margin, -margin), slice(margin, -margin)
    wide = cv2.copyMakeBorder(image, margin, margin, margin, margin, cv2.BORDER_REPLICATE)
    soft = cv2.GaussianBlur(wide, (0, 0), max(margin / 4, 0.1))
    soft[within] = image
    outside = np.ones(wide.shape[:2], np.uint8)
    outside[within] = 0
    away = cv2.distanceTransform(outside, cv2.DIST_L2, 5)
    return soft, (255 * np.clip(1 - away / margin, 0, 1)).astype(np.uint8)
