"""The order of the training stream, as a pure function of place and seed: no state, no list of the epoch.

Grain can shuffle and mix as well, but calls a chain of Python functions for every record, which takes longer than to
resize an image. Here the places of a batch are looked up at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

_ROUNDS = 6
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))  # of the generator SplitMix64


@dataclass(frozen=True)
class Stream:
    """An endless stream of records from several parts. Every part is shuffled and repeated on its own.

    In every part each record comes once an epoch, in another order each time. Parts take turns in the given shares,
    as evenly as can be: in any stretch of the stream each has its share, up to a few records.
    """

    parts: tuple[range | np.ndarray, ...] = field(repr=False)  # the records of each part, none of them empty
    shares: tuple[float, ...]  # the share of each part, summing to 1
    seed: tuple[int, ...]  # decides the orders. Streams with different seeds have nothing in common

    def at(self, places: np.ndarray) -> np.ndarray:
        """Which record stands at each of ``places``, counted from 0: int64, of the same shape (n,)."""
        numbers, places = share_out(places, self.shares)
        records = np.empty(len(places), np.int64)
        for number, part in enumerate(self.parts):
            mine = numbers == number
            if mine.any():
                chosen = shuffled(places[mine], len(part), (*self.seed, number))
                records[mine] = part.start + chosen if isinstance(part, range) else part[chosen]
        return records


def share_out(places: np.ndarray, shares: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Divide the places of a stream among parts, evenly spread.

    Returns:
      numbers: int64 (n,), the part that each place belongs to.
      inner: int64 (n,), how many places before it belong to the same part.
    """
    numbers = np.zeros(len(places), np.int64)
    inner = np.asarray(places, np.int64).copy()
    open_places, rest = np.arange(len(places)), 1.0
    for number, share in enumerate(shares[:-1]):
        # Of the first n places left, floor(n * share) belong to this part; the others are passed on, counted anew.
        share, rest = share / rest, rest - share
        before = np.floor(inner[open_places] * share).astype(np.int64)
        taken = np.floor((inner[open_places] + 1) * share) > before
        numbers[open_places[taken]] = number
        inner[open_places[taken]] = before[taken]
        inner[open_places[~taken]] -= before[~taken]
        open_places = open_places[~taken]
    numbers[open_places] = len(shares) - 1
    return numbers, inner


def shuffled(places: np.ndarray, size: int, seed: Sequence[int]) -> np.ndarray:
    """Which of ``size`` records stands at each place of their endless stream: int64 (n,). Each once an epoch."""
    epochs, indices = np.divmod(places, size)
    for epoch in np.unique(epochs).tolist():
        now = epochs == epoch
        keys = np.random.SeedSequence([*seed, epoch]).generate_state(_ROUNDS, np.uint64)
        indices[now] = _permute(indices[now], size, keys)
    return indices


def _permute(indices: np.ndarray, size: int, keys: np.ndarray) -> np.ndarray:
    """A permutation of 0 ... ``size`` - 1, by a Feistel network on as few bits as hold them.

    What the network sends outside of the range is sent through it again, until it comes back: so each number has its
    own image (cycle walking: Black and Rogaway, Ciphers with Arbitrary Finite Domains, 2002).
    """
    bits = max(2, (size - 1).bit_length())
    low, high = np.uint64(bits // 2), np.uint64(bits - bits // 2)
    values, outside = indices.astype(np.uint64), np.arange(len(indices))
    while len(outside):
        value, widths = values[outside], (low, high)
        for key in keys:
            # The right part, of widths[0] bits, goes to the left and scrambles the other.
            right, left = value & ((np.uint64(1) << widths[0]) - np.uint64(1)), value >> widths[0]
            left ^= _scramble(right ^ key) >> (np.uint64(64) - widths[1])
            value, widths = right << widths[1] | left, widths[::-1]
        values[outside] = value
        outside = outside[value >= np.uint64(size)]
    return values.astype(np.int64)


def _scramble(value: np.ndarray) -> np.ndarray:
    """SplitMix64's output function: uint64 to uint64, every bit depending on every bit."""
    value = (value ^ value >> np.uint64(30)) * _MIX[0]
    value = (value ^ value >> np.uint64(27)) * _MIX[1]
    return value ^ value >> np.uint64(31)
