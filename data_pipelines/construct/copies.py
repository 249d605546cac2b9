"""Which of many words are copies of others that stay, by hashes and boxes alone."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from data_pipelines.overlaps.list_file import Kind

NEAR = 4
"""The most bits of 64 in which the hashes of near copies differ."""
SAME_PLACE = 0.5
"""The intersection over union that the boxes of one word of a picture exceed."""

LOOKS = np.dtype(
    [("pixels", "<u8"), ("hash", "<u8"), ("text", "<u8"), ("picture", "<u8"), ("box", "<f4", 4), ("list", "<u2")]
)
"""What is known of a word: hashes of its decoded pixels, of its look (``short_hashes``), of its label without case and
symbols, and of its picture, each 0 where there is none; its box in the picture (left, upper, right and lower edge); and
the number of its list."""

_BANDS = ((0, 13), (13, 13), (26, 13), (39, 13), (52, 12))  # first bit and number of bits: one more than ``NEAR``
_SPREAD = np.uint64(0x9E3779B97F4A7C15)


class Copies(NamedTuple):
    """Words that are copies, each of a word that comes before it and stays."""

    word: np.ndarray  # int64 ``(n,)``
    of: np.ndarray  # int64 ``(n,)``
    likeness: np.ndarray  # float64 ``(n,)``: the share of equal bits; intersection over union; else 1


_NONE = Copies(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))


def find_copies(looks: np.ndarray, stays: np.ndarray) -> dict[Kind, Copies]:
    """The copies among words, by how they were found.

    Args:
      looks: ``LOOKS`` of all words, those of the better list first.
      stays: bool ``(n,)``: the words that are looked at; copies are struck out.
    """
    ways: dict[Kind, Callable[[np.ndarray], Copies]]
    ways = {"equal": _equal, "place": _same_place, "near": _near, "picture": _labelled_pictures}
    found = {}
    for kind, way in ways.items():
        rows = np.flatnonzero(stays)
        words, of, likeness = way(looks[rows])
        found[kind] = _struck_out(Copies(rows[words], rows[of], likeness), stays)
    return found


def _struck_out(pairs: Copies, stays: np.ndarray) -> Copies:
    """Strike out the word of each pair of which the other stays, the earliest words first; returns these pairs."""
    kept = []
    for row in np.lexsort((pairs.of, pairs.word)).tolist():
        if stays[pairs.word[row]] and stays[pairs.of[row]]:
            stays[pairs.word[row]] = False
            kept.append(row)
    return Copies(*(column[kept] for column in pairs))


def _with_equal_keys(keys: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The rows of all pairs of equal keys, uint64 ``(n,)``, but 0; the earlier row first."""
    order = np.argsort(keys, kind="stable")
    order = order[np.searchsorted(keys[order], 1) :]
    here, keys = np.arange(len(order)), keys[order]
    for distance in range(1, len(order)):
        here = here[here < len(order) - distance]
        here = here[keys[here] == keys[here + distance]]
        if not len(here):
            return
        yield order[here], order[here + distance]


def _equal(looks: np.ndarray) -> Copies:
    _, first, which = np.unique(looks["pixels"], return_index=True, return_inverse=True)
    words = np.flatnonzero(first[which] != np.arange(len(looks)))
    return Copies(words, first[which][words], np.ones(len(words)))


def _same_place(looks: np.ndarray) -> Copies:
    """Words of different lists in the same place of one picture."""
    found = [_NONE]
    for first, second in _with_equal_keys(looks["picture"]):
        a, b = looks["box"][first].astype(float), looks["box"][second].astype(float)
        sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
        common = np.maximum(sides, 0).prod(axis=1)
        whole = (a[:, 2:] - a[:, :2]).prod(axis=1) + (b[:, 2:] - b[:, :2]).prod(axis=1) - common
        shares = common / np.maximum(whole, np.finfo(float).tiny)
        rows = (shares > SAME_PLACE) & (looks["list"][first] != looks["list"][second])
        found.append(Copies(second[rows], first[rows], shares[rows]))
    return Copies(*map(np.concatenate, zip(*found, strict=True)))


def _near(looks: np.ndarray) -> Copies:
    """Words with near hashes and the same label: of hashes that differ in 4 bits, one of 5 parts is equal."""
    found, hashes, texts = [_NONE], looks["hash"], looks["text"]
    for start, bits in _BANDS:
        part = hashes >> np.uint64(start) & np.uint64(2**bits - 1)
        keys = np.where((hashes != 0) & (texts != 0), texts ^ ((part + np.uint64(1)) * _SPREAD), np.uint64(0))
        for first, second in _with_equal_keys(keys):
            distance = np.bitwise_count(hashes[first] ^ hashes[second])
            rows = (distance <= NEAR) & (texts[first] == texts[second])
            found.append(Copies(second[rows], first[rows], 1 - distance[rows] / 64))
    return Copies(*map(np.concatenate, zip(*found, strict=True)))


def _labelled_pictures(looks: np.ndarray) -> Copies:
    """Words without labels, of pictures that a better list has labelled words of."""
    labelled = np.flatnonzero((looks["text"] != 0) & (looks["picture"] != 0))
    pictures, first = np.unique(looks["picture"][labelled], return_index=True)
    words = np.flatnonzero((looks["text"] == 0) & np.isin(looks["picture"], pictures))
    of = labelled[first[np.searchsorted(pictures, looks["picture"][words])]]
    better = looks["list"][of] < looks["list"][words]
    return Copies(words[better], of[better], np.ones(better.sum()))
