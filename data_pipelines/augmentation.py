"""Augmentation for fine-tuning: geometry, resolution and noise, colour; the recipe of MAERec (arXiv 2307.08723)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

cv2.setNumThreads(1)  # see decoding.py

_PYRAMID_BASE = (512, 128)  # width and height of the pyramid's largest level


@dataclass(frozen=True)
class Augmentation:
    """Changes a word image at random. Call it with uint8 RGB ``(h, w, 3)`` and a generator; the size stays the same.

    The same generator state gives the same image. What a geometric change brings in from outside of the image repeats
    the image's border: black corners would tell where the border was.
    """

    geometry_probability: float = 0.5
    """How often the image is rotated, or affinely distorted, or distorted in perspective (one of them)."""
    degradation_probability: float = 0.25
    """How often the image loses resolution, and then perhaps gets noise and motion blur."""
    noise_probability: float = 0.5
    """How often a degraded image gets noise."""
    blur_probability: float = 0.5
    """How often a degraded image gets motion blur."""
    color_probability: float = 0.25
    """How often brightness, contrast, saturation and hue change."""
    rotation: float = 15.0
    """Largest rotation, in degrees."""
    translation: float = 0.3
    """Largest affine shift, as a fraction of the width and height."""
    scale: tuple[float, float] = (0.5, 2.0)
    """Smallest and largest affine scale."""
    shear: float = 45.0
    """Largest affine slant, in degrees."""
    distortion: float = 0.5
    """How far a corner moves in perspective, at most, as a fraction of the way to the middle."""
    halvings: int = 4
    """How often the resolution is halved at most, starting from 512 x 128."""
    noise_variance: float = 20.0
    """Variance of the noise, in squared grey levels of 255."""
    blur_size: int = 7
    """Longest motion blur, in pixels; odd."""
    color_range: float = 0.5
    """Brightness, contrast and saturation change by a factor of up to 1 minus and 1 plus this."""
    hue_range: float = 0.1
    """Largest change of hue, as a fraction of the colour circle."""

    def __post_init__(self) -> None:
        if self.blur_size < 3 or self.blur_size % 2 == 0:
            raise ValueError(f"blur_size must be odd and at least 3, not {self.blur_size}")
        for name in ("geometry", "degradation", "noise", "blur", "color"):
            if not 0 <= getattr(self, f"{name}_probability") <= 1:
                raise ValueError(f"{name}_probability must be in [0, 1]")

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Augment uint8 RGB ``(h, w, 3)``; the result is a new array, or the image itself where nothing changed."""
        if rng.random() < self.geometry_probability:
            image = self._move(image, rng)
        if rng.random() < self.degradation_probability:
            image = _halve(image, int(rng.integers(self.halvings + 1)))
            if rng.random() < self.noise_probability:
                noise = rng.standard_normal(image.shape, np.float32) * math.sqrt(self.noise_variance)
                image = _to_uint8(image + noise)
            if rng.random() < self.blur_probability:
                image = _blur(image, self.blur_size, rng)
        if rng.random() < self.color_probability:
            image = self._recolor(image, rng)
        return image

    def _move(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        height, width = image.shape[:2]
        choice = rng.integers(3)
        if choice == 0:
            matrix = affine_matrix(width, height, angle=rng.uniform(-self.rotation, self.rotation))
        elif choice == 1:
            matrix = affine_matrix(
                width,
                height,
                angle=rng.uniform(-self.rotation, self.rotation),
                shift_x=width * rng.uniform(-self.translation, self.translation),
                shift_y=height * rng.uniform(-self.translation, self.translation),
                scale=rng.uniform(*self.scale),
                shear=rng.uniform(-self.shear, self.shear),
            )
        else:
            # Corners of the outermost pixels, not their centres: these would coincide in an image one pixel wide.
            corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
            inward = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]], np.float32) * (width / 2, height / 2)
            moved = corners + inward * rng.uniform(0, self.distortion, (4, 2))
            half = np.float32(0.5)
            matrix = cv2.getPerspectiveTransform(corners - half, moved.astype(np.float32) - half)
        return cv2.warpPerspective(image, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)

    def _recolor(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        def factor() -> float:
            return rng.uniform(1 - self.color_range, 1 + self.color_range)

        changes: Sequence[Callable[[np.ndarray], np.ndarray]] = (
            lambda x: cv2.convertScaleAbs(x, alpha=factor()),
            lambda x: _blend(x, np.full_like(x, round(float(_gray(x).mean()))), factor()),
            lambda x: _blend(x, cv2.cvtColor(_gray(x), cv2.COLOR_GRAY2RGB), factor()),
            lambda x: _turn_hue(x, rng.uniform(-self.hue_range, self.hue_range)),
        )
        for number in rng.permutation(len(changes)).tolist():
            image = changes[number](image)
        return image


def affine_matrix(
    width: int,
    height: int,
    *,
    angle: float = 0.0,
    shift_x: float = 0.0,
    shift_y: float = 0.0,
    scale: float = 1.0,
    shear: float = 0.0,
) -> np.ndarray:
    """The 3 x 3 matrix that slants, scales, turns and shifts an image about its middle, in this order.

    ``angle`` (clockwise) and ``shear`` (of vertical lines, to the left at the bottom) are in degrees, shifts in pixels.
    """
    turn, slant = math.radians(angle), math.tan(math.radians(shear))
    linear = scale * np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    linear = linear @ np.array([[1, -slant], [0, 1]])
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = middle - linear @ middle + (shift_x, shift_y)
    return matrix


def _halve(image: np.ndarray, halvings: int) -> np.ndarray:
    """The image as it looks after its resolution has been halved from that of the pyramid's base."""
    small = cv2.resize(image, _PYRAMID_BASE)
    for _ in range(halvings):
        small = cv2.pyrDown(small)
    return cv2.resize(small, (image.shape[1], image.shape[0]))


def _blur(image: np.ndarray, largest: int, rng: np.random.Generator) -> np.ndarray:
    """Smear the image along a random line."""
    size = int(rng.choice(range(3, largest + 1, 2)))
    start, end = 0, 0
    while start == end:
        start, end = rng.integers(size * size, size=2).tolist()
    kernel = np.zeros((size, size), np.uint8)
    cv2.line(kernel, divmod(start, size), divmod(end, size), 1)
    return cv2.filter2D(image, -1, kernel / np.float32(kernel.sum()), borderType=cv2.BORDER_REPLICATE)


def _gray(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def _blend(image: np.ndarray, other: np.ndarray, factor: float) -> np.ndarray:
    return cv2.addWeighted(image, factor, other, 1 - factor, 0)


def _turn_hue(image: np.ndarray, turn: float) -> np.ndarray:
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    # The full circle is 256 steps, so that overflow is what turning needs.
    hsv[..., 0] += np.uint8(round(turn * 256) % 256)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def _to_uint8(image: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)
