"""DBNet++ as it was published: pictures in its sizes, and the words that it finds in them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Protocol

import cv2
import numpy as np

from data_pipelines.images.polygons import shorter_side
from maerec_jax.scenes.db_regions import regions_of
from maerec_jax.scenes.regions import DetectionConfig, DetectionSettings, Region, reading_order


class Network(Protocol):
    """What makes maps of probabilities of pictures (``maerec_jax.scenes.dbnetpp_networks``)."""

    @property
    def at_once(self) -> int:
        """The number of pictures that are best given at a time."""

    def __call__(self, images: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        """Of pictures, uint8 RGB (h, w, 3), the maps float32 (H, W): h and w rounded up to multiples of 32."""
        ...

    def compile(self) -> None:
        """Compile now what pictures would wait for."""


class DBNetPPDetector:
    """Finds words exactly as the published DBNet++ does, but in reading order, and none that lie outside the picture or
    are lower than one of its pixels.

    Args:
      network: makes the maps.
      config: how words are found.
    """

    def __init__(self, network: Network, config: DetectionConfig | None = None) -> None:
        self._network, self._settings = network, (config or DetectionConfig()).settings("dbnetpp")

    def detect(self, image_HWC: np.ndarray) -> list[Region]:
        """The words of a picture, uint8 RGB, in reading order. Their polygons may reach beyond the picture.

        Raises:
          UserError: where the network cannot take the picture, or what it gives are no probabilities.
        """
        (found,) = self.detect_all([image_HWC])
        return found

    def detect_all(self, images: Iterable[np.ndarray]) -> Iterator[list[Region]]:
        """``detect`` for many pictures, a few at a time; the words of each are those that it has alone."""
        images = iter(images)
        while chunk := list(islice(images, self._network.at_once)):
            resized = [_resized(image, self._settings) for image in chunk]
            for image, small, probability_HW in zip(chunk, resized, self._network(resized), strict=True):
                yield self._regions(probability_HW, image.shape[:2], small.shape[:2])

    def compile(self) -> None:
        """Compile now what the first pictures would wait for."""
        self._network.compile()

    def _regions(self, probability_HW: np.ndarray, size: tuple[int, ...], small: tuple[int, ...]) -> list[Region]:
        """The words in the map of a picture, in its pixels; ``small`` is the size that the network had it in."""
        scale, ends = np.array(small, float)[::-1] / size[::-1], np.array(size)[::-1]
        found = []
        for region in regions_of(probability_HW, self._settings, "dbnetpp"):
            polygon_N2 = (region.polygon_N2 / scale).astype(np.float32)
            inside = (polygon_N2.max(axis=0) > 0).all() and (polygon_N2.min(axis=0) < ends).all()
            if inside and shorter_side(polygon_N2) >= 1:
                found.append(replace(region, polygon_N2=polygon_N2))
        return reading_order(found)


def network_size(height: int, width: int, settings: DetectionSettings) -> tuple[int, int]:
    """Height and width that a picture is brought to, also enlarged: as large as its two sides may be."""
    factor = min(settings.long_side / max(height, width), settings.short_side / min(height, width))
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


def _resized(image: np.ndarray, settings: DetectionSettings) -> np.ndarray:
    height, width = network_size(image.shape[0], image.shape[1], settings)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
