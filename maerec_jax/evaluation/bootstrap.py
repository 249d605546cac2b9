"""Paired bootstrap of differences in accuracy."""

from collections.abc import Sequence
from zlib import crc32

import numpy as np

LEVEL = 0.95
"""Share of the resampled differences that an interval holds."""


def resampled_means(gained: int, lost: int, words: int, resamples: int, seed: int | Sequence[int]) -> np.ndarray:
    """Means of ``words`` differences drawn with replacement from those that were measured, float64 ``(resamples,)``.

    The difference of an image is 1 where only the second run is right, -1 where only the first is and 0 elsewhere, so
    how many are drawn of each is multinomial: drawn at once, exactly, at a cost that does not grow with the words.

    Args:
      gained: images with 1.
      lost: images with -1.
      words: all images.
      resamples: how many means.
      seed: of the draws.
    """
    shares = np.array([gained, lost, words - gained - lost]) / words
    drawn_R3 = np.random.default_rng(seed).multinomial(words, shares, size=resamples)
    return (drawn_R3[:, 0] - drawn_R3[:, 1]) / words


def set_seed(seed: int, name: str, metric: int) -> tuple[int, ...]:
    """A seed for a metric of a set: its interval is then the same whatever else is compared."""
    return seed, crc32(name.encode("utf-8", "backslashreplace")), metric


def interval(means_R: np.ndarray) -> tuple[float, float]:
    """Lower and upper end of the interval that holds ``LEVEL`` of resampled differences."""
    low, high = np.quantile(means_R, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
