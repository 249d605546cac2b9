"""95 % intervals of accuracies: of a share of words, and of what several shares make together."""

import math
from collections.abc import Iterable

_Z = 1.96  # standard errors on both sides


def wilson(share: float, words: int) -> tuple[float, float]:
    """Wilson's interval of a share of words, in fractions of 1; without any words it could be anything."""
    if not words:
        return 0.0, 1.0
    z2 = _Z**2
    centre = (share + z2 / (2 * words)) / (1 + z2 / words)
    reach = math.sqrt(z2 * share * (1 - share) / words + z2 * z2 / (4 * words * words)) / (1 + z2 / words)
    return max(0.0, centre - reach), min(1.0, centre + reach)


def combined(parts: Iterable[tuple[float, float, int]]) -> tuple[float, float]:
    """Interval of a sum of shares, each with its weight: ``(weight, share, words)``.

    Newcombe's way for differences, with any weights: how far the ends of Wilson's intervals are from their shares is
    added up as independent errors are, by squares. One share of weight 1 has Wilson's interval.
    """
    value = below = above = 0.0
    for weight, share, words in parts:
        value += weight * share
        down, up = sorted(weight * (end - share) for end in wilson(share, words))
        below, above = below + down**2, above + up**2
    return value - math.sqrt(below), value + math.sqrt(above)
