"""Colours of text and background that differ enough to be read, and backgrounds that are not one flat colour."""

from functools import lru_cache

import cv2
import numpy as np

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
# Red, blue, yellow and brown are common on streets, purple is not. Only their directions from grey count.
_HUES = np.array(
    [
        *([[1, 0.1, 0.1]] * 4 + [[1, 0.5, 0.1]] * 4 + [[1, 0.85, 0.1]] * 4 + [[0.1, 0.3, 1]] * 4),
        *([[0.1, 0.6, 1]] * 2 + [[0.2, 1, 0.3]] * 2 + [[0.1, 0.9, 0.7], [0.6, 0.1, 0.9], [1, 0.2, 0.6]]),
    ],
    np.float32,
)


@lru_cache(maxsize=1)
def noise_tile() -> np.ndarray:
    """Standard normal noise, float32 ``(640, 1280, 3)``: to cut from it is far cheaper than to draw new noise."""
    return np.random.default_rng(20231).standard_normal((640, 1280, 3), dtype=np.float32)


def cut_noise(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A random piece of ``noise_tile``, a float32 view ``(height, width, 3)`` for pieces no larger than the tile."""
    tile = noise_tile()
    y = int(rng.integers(tile.shape[0] - height + 1))
    x = int(rng.integers(tile.shape[1] - width + 1))
    return tile[y : y + height, x : x + width]


def luma(colour: np.ndarray) -> float:
    """Brightness of an RGB colour, 0 to 255."""
    return float(colour @ _LUMA)


def _colour(target: float, saturation: float, rng: np.random.Generator) -> np.ndarray:
    """A random RGB colour, float32 ``(3,)``, of brightness ``target`` as far as its saturation allows."""
    hue = _HUES[int(rng.random() * len(_HUES))] + 0.25 * rng.random(3, dtype=np.float32)
    hue -= hue @ _LUMA  # a direction that leaves the brightness alone
    hue /= max(float(np.abs(hue).max()), 1e-3)
    return np.clip(target + 255 * saturation * hue, 0, 255).astype(np.float32)


def draw_colours(difficulty: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A (text, background) pair of RGB colours, float32 ``(3,)``, whose brightness differs by 90 or more of 255.

    Difficulty 0 gives dark text on a light ground; above, either may be the lighter one, coloured and close. These are
    the colours of the things themselves: what light and camera make of them is done by ``damage.expose``.
    """
    gap = min(255 - (255 - 90) * min(1.0, 1.3 * difficulty) * rng.random(), 235.0)
    low = (255 - gap) * rng.random() ** 1.5 if rng.random() < difficulty else 10 * rng.random()
    high = min(low + gap * (1 + 0.3 * rng.random()), 255)
    # Most surfaces are greyish under some tinted light; signs have strong colours, and seldom both of theirs.
    tint = difficulty * 0.15 * rng.random(2)
    strong = rng.random(2) < np.array([0.35, 0.25])
    amounts = np.where(strong, min(1.0, 1.3 * difficulty) * (0.2 + 0.6 * rng.random(2)), tint)
    dark, light = _colour(low, amounts[0], rng), _colour(high, amounts[1], rng)
    # Clipping to 0..255 moves the brightness of strong colours: repair what became too close.
    if luma(light) - luma(dark) < min(gap, 90):
        dark, light = np.full(3, low, np.float32), np.full(3, high, np.float32)
    # On streets a little more than half of all words are lighter than what is behind them.
    return (light, dark) if rng.random() < min(0.55, 1.1 * difficulty) else (dark, light)


def paint_background(
    height: int, width: int, colour: np.ndarray, contrast: float, difficulty: float, rng: np.random.Generator
) -> np.ndarray:
    """A background, float32 RGB ``(height, width, 3)``, around ``colour`` with variations well below ``contrast``."""
    ground = np.full((height, width, 3), colour, np.float32)
    if rng.random() > 0.7 * difficulty:
        return ground
    strength = difficulty * min(0.45 * contrast, 60.0) * (0.2 + 0.8 * rng.random())
    kind = rng.random()
    if kind < 0.35:  # a gradient
        corners = strength * rng.uniform(-1, 1, (2, 2, 1)).astype(np.float32)
        if rng.random() < 0.3:
            corners = corners * rng.uniform(0.3, 1.4, 3).astype(np.float32)
        ground += cv2.resize(np.ascontiguousarray(np.broadcast_to(corners, (2, 2, 3))), (width, height))
    elif kind < 0.75:  # clouds, plaster, wood: noise at one or two scales, stretched along an axis or not
        for _ in range(1 + int(rng.random() < 0.5)):
            rows = max(2, int(height / 2 ** rng.uniform(1, 4.5)))
            columns = max(2, int(width / 2 ** rng.uniform(1, 4.5)))
            coarse = cut_noise(rows, columns, rng)
            if rng.random() < 0.8:
                coarse = np.repeat(coarse[:, :, :1], 3, axis=2)
            ground += (0.6 * strength) * cv2.resize(np.ascontiguousarray(coarse), (width, height))
    elif kind < 0.88:  # a second surface behind an edge
        side = (0.8 * strength * rng.uniform(-1, 1, 3)).astype(np.float32)
        if rng.random() < 0.5:
            ground[int(height * rng.uniform(0.1, 0.9)) :, :] += side
        else:
            ground[:, int(width * rng.uniform(0.05, 0.95)) :] += side
    else:  # stripes, bricks, slats
        period, slope = height * rng.uniform(0.08, 0.6), rng.uniform(-1, 1)
        down, along = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)
        phase = (down if rng.random() < 0.4 else along + slope * down) * np.float32(2 * np.pi / period)
        ground += (0.6 * strength * np.sin(phase))[:, :, None]
    return ground
