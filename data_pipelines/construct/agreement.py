"""Which words several detectors agree on: polygons that cover each other, one of each detector."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from statistics import fmean
from typing import NamedTuple

import numpy as np
import shapely

AGREE = 0.7
"""The intersection over union that each two polygons of a word have to exceed (Union14M, section 3.3)."""

Polygon = Sequence[tuple[float, float]]
Overlaps = dict[tuple[int, int], float]  # of two polygons, by their places; those above ``AGREE``


class Agreement(NamedTuple):
    """A word, as some detectors found it."""

    polygons: dict[int, Polygon]
    """What each of the detectors found, by its number."""
    overlap: float
    """The mean intersection over union of each two of them; 1 for a single one."""


def agreements(found: Sequence[Sequence[Polygon]]) -> list[Agreement]:
    """The words of a picture, those first that most detectors found. Each polygon is part of one word.

    Where polygons may be put together to words in several ways, the word with the largest mean overlap is taken first,
    then the next that shares no polygon with it; first words of all detectors, then of all but one, and so on.

    Args:
      found: the polygons of each detector. Those that cross themselves are repaired; those without an area are left
        out.
    """
    shapes = [np.array([_repaired(polygon) for polygon in polygons], object) for polygons in found]
    overlaps = {(a, b): _overlaps(shapes[a], shapes[b]) for a, b in combinations(range(len(found)), 2)}
    free = [set(np.flatnonzero(shapely.area(each) > 0).tolist()) for each in shapes]
    words = []
    for number in range(len(found), 0, -1):
        candidates = [
            (-overlap, detectors, places)
            for detectors in combinations(range(len(found)), number)
            for places, overlap in _sets(detectors, free, overlaps)
        ]
        for overlap, detectors, places in sorted(candidates):
            chosen = list(zip(detectors, places, strict=True))
            if all(place in free[detector] for detector, place in chosen):
                for detector, place in chosen:
                    free[detector].remove(place)
                words.append(Agreement({detector: found[detector][place] for detector, place in chosen}, -overlap))
    return words


def _repaired(polygon: Polygon) -> shapely.Polygon:
    shape = shapely.Polygon(polygon)
    return shape if shape.is_valid else shape.buffer(0)


def _overlaps(ones: np.ndarray, others: np.ndarray) -> Overlaps:
    """The intersection over union of the polygons of two detectors, where they agree."""
    places, other_places = shapely.STRtree(others).query(ones, predicate="intersects")
    a, b = ones[places], others[other_places]
    common = shapely.area(shapely.intersection(a, b))
    shares = common / np.maximum(shapely.area(a) + shapely.area(b) - common, np.finfo(float).tiny)
    rows = zip(places.tolist(), other_places.tolist(), shares.tolist(), strict=True)
    return {(place, other): share for place, other, share in rows if share > AGREE}


def _sets(
    detectors: Sequence[int], free: Sequence[set[int]], overlaps: dict[tuple[int, int], Overlaps]
) -> Iterator[tuple[tuple[int, ...], float]]:
    """Places of polygons, one of each of the detectors, each two of which agree; and their mean overlap."""
    chosen: list[tuple[tuple[int, ...], tuple[float, ...]]] = [((place,), ()) for place in sorted(free[detectors[0]])]
    for number, detector in enumerate(detectors[1:], 1):
        chosen = [
            ((*places, place), (*shares, *new))
            for places, shares in chosen
            for place in sorted(free[detector])
            if len(new := _shares(detectors[:number], places, detector, place, overlaps)) == number
        ]
    yield from ((places, fmean(shares) if shares else 1.0) for places, shares in chosen)


def _shares(
    detectors: Sequence[int], places: Sequence[int], other: int, place: int, overlaps: dict[tuple[int, int], Overlaps]
) -> list[float]:
    """How far a polygon of another detector overlaps with polygons, as long as it agrees with them."""
    pairs = (overlaps[detector, other].get((known, place)) for detector, known in zip(detectors, places, strict=True))
    return [share for share in pairs if share is not None]
