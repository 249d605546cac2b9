"""What cameras and files do to a picture: blur, low resolution, noise, uneven light, JPEG."""

from functools import lru_cache

import cv2
import numpy as np

from data_pipelines.rendering.colours import cut_noise

_LEAST_SPAN = 40  # Of 255, between the darkest and the lightest pixel of some channel.


@lru_cache(maxsize=256)
def _motion_kernel(length: int, direction: int) -> np.ndarray:
    """A line through the middle, float32 ``(length, length)``; ``direction`` in steps of a sixteenth of a half turn."""
    kernel = np.zeros((length, length), np.float32)
    middle = (length - 1) / 2
    angle = np.pi * direction / 16
    across, up = middle * np.cos(angle), middle * np.sin(angle)
    start, end = (round(middle - across), round(middle - up)), (round(middle + across), round(middle + up))
    cv2.line(kernel, start, end, 1.0, 1)
    return kernel / kernel.sum()


def expose(picture: np.ndarray, difficulty: float, rng: np.random.Generator) -> np.ndarray:
    """Change light, its colour and the contrast of a float32 picture ``(h, w, 3)`` in place, and add noise.

    Returns it as uint8.
    """
    height, width = picture.shape[:2]
    if rng.random() < 0.35 * difficulty:  # shade at one side; never more light, which would wash letters out
        corners = (1 - 0.5 * difficulty * rng.random((2, 2))).astype(np.float32)
        picture *= cv2.resize(corners, (width, height))[:, :, None]
    if rng.random() < min(0.85, 1.5 * difficulty):  # dusk, haze and glass, and light that is not white
        strength = min(1.0, 1.3 * difficulty)
        gain = 1.15 - 0.8 * strength * rng.random() ** 1.3
        haze = 0.55 * strength * rng.random() ** 2
        warm, green = 0.12 * strength * rng.standard_normal(), 0.05 * strength * rng.standard_normal()
        light = gain * np.array([1 + warm, 1 + green, 1 - warm])
        picture *= (light * (1 - haze)).astype(np.float32)
        picture += (light * (255 * haze * rng.random())).astype(np.float32)
    if rng.random() < 0.65 * difficulty:
        amount = np.float32(difficulty * 22 * rng.random() ** 2)
        noise = cut_noise(height, width, rng)
        picture += amount * (noise if rng.random() < 0.5 else noise[:, :, :1])
    np.clip(picture, 0, 255, out=picture)
    return picture.astype(np.uint8)


def blur(picture: np.ndarray, letter_height: float, difficulty: float, rng: np.random.Generator) -> np.ndarray:
    """Defocus, motion, or too few pixels, in proportion to ``letter_height`` so that the text stays readable."""
    if rng.random() > min(0.85, 1.2 * difficulty):
        return _sharpened(picture, difficulty * rng.random()) if rng.random() < 0.25 * difficulty else picture
    kind = rng.random()
    if kind < 0.4:
        sigma = difficulty * 0.1 * letter_height * rng.random()
        return cv2.GaussianBlur(picture, (0, 0), sigma) if sigma > 0.3 else picture
    if kind < 0.6:
        length = 1 + round(difficulty * 0.25 * letter_height * rng.random())
        return cv2.filter2D(picture, -1, _motion_kernel(length, int(rng.integers(16)))) if length > 1 else picture
    height, width = picture.shape[:2]
    # Letters keep at least 8 pixels.
    factor = max(1 - 0.9 * difficulty * rng.random(), min(1.0, 8 / letter_height))
    smaller = max(2, round(width * factor)), max(2, round(height * factor))
    small = cv2.resize(picture, smaller, interpolation=cv2.INTER_AREA)
    up = cv2.INTER_CUBIC if rng.random() < 0.5 else cv2.INTER_LINEAR
    if rng.random() < 0.4 * difficulty:  # Cameras and scanners sharpen what they have, which leaves bright rims.
        small = _sharpened(small, difficulty * (0.5 + rng.random()))
    return cv2.resize(small, (width, height), interpolation=up)


def _sharpened(picture: np.ndarray, amount: float) -> np.ndarray:
    """A picture plus ``amount`` times what a slight blur takes from it."""
    return cv2.addWeighted(picture, 1 + amount, cv2.GaussianBlur(picture, (0, 0), 1.0), -amount, 0)


def keep_visible(picture: np.ndarray) -> np.ndarray:
    """Stretch the contrast of the rare picture in which thin letters, pale colours and blur came together."""
    sample = picture[::2, ::2].reshape(-1, 3)
    low, high = sample.min(axis=0), sample.max(axis=0)
    span = int((high - low).max())
    if span >= _LEAST_SPAN:
        return picture
    gain = _LEAST_SPAN / max(span, 1)
    middle = (low.astype(np.float32) + high) / 2
    # Away from black and white, where the stretched values would not fit.
    centre = np.clip(middle, _LEAST_SPAN / 2, 255 - _LEAST_SPAN / 2)
    return np.clip((picture - middle) * gain + centre, 0, 255).astype(np.uint8)


def compress(picture: np.ndarray, difficulty: float, rng: np.random.Generator) -> np.ndarray:
    """Through JPEG and back, sometimes at a low quality."""
    if rng.random() > 0.35 * difficulty:
        return picture
    quality = int(95 - 75 * difficulty * rng.random())
    encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    # OpenCV means BGR, which changes which colours JPEG keeps sharp: of no interest here.
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))
