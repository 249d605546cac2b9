"""Detectors with differentiable binarisation in ONNX files, which find words as PP-OCR's do."""

from dataclasses import replace
from math import ceil

import cv2
import numpy as np

from data_pipelines.images.polygons import shorter_side
from maerec_jax.scenes.db_regions import regions_of
from maerec_jax.scenes.onnx_network import OnnxNetwork, normalised
from maerec_jax.scenes.regions import DetectionConfig, Region, reading_order

_STRIDE = 32  # the deepest features of these networks have a 32nd of the size


class DBDetector:
    """A DB-style detector that finds words as PP-OCR's do.

    Args:
      network: its network, or the ONNX file of it.
      config: how words are found.

    Raises:
      UserError: where it is no such file.
    """

    def __init__(self, network: OnnxNetwork | str, config: DetectionConfig | None = None) -> None:
        self._network = OnnxNetwork(network) if isinstance(network, str) else network
        self._settings = (config or DetectionConfig()).settings("db")

    def detect(self, image_HWC: np.ndarray) -> list[Region]:
        """The words of a picture, uint8 RGB, in reading order.

        Raises:
          UserError: where the network cannot take the picture, or what it gives are no probabilities.
        """
        height, width = image_HWC.shape[:2]
        resized, shown_h, shown_w = self._resized(image_HWC)
        probability_HW = self._network(normalised(resized, self._settings))
        # What is found at the edge of the padding is none of the picture.
        shown_h *= probability_HW.shape[0] / resized.shape[0]
        shown_w *= probability_HW.shape[1] / resized.shape[1]
        probability_HW = probability_HW[: ceil(shown_h), : ceil(shown_w)]
        scale = np.array([width / shown_w, height / shown_h])
        found = []
        for region in regions_of(probability_HW, self._settings):
            polygon_N2 = np.clip(region.polygon_N2 * scale, 0, (width, height)).astype(np.float32)
            # Of small pictures the map is far larger: what is wide enough there may have no pixel here.
            if shorter_side(polygon_N2) >= self._settings.min_size:
                found.append(replace(region, polygon_N2=polygon_N2))
        return reading_order(found)

    def _resized(self, image: np.ndarray) -> tuple[np.ndarray, float, float]:
        """The picture in a size that the network takes, padded with grey, and its height and width in that."""
        height, width = image.shape[:2]
        fixed = self._network.fixed_size
        if fixed:
            scale = min(fixed[0] / height, fixed[1] / width)
        else:
            scale = max(1.0, self._settings.short_side / min(height, width))
            scale = min(scale, self._settings.long_side / max(height, width))
        new_h, new_w = max(1, round(height * scale)), max(1, round(width * scale))
        way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        resized = cv2.resize(image, (new_w, new_h), interpolation=way) if (new_h, new_w) != (height, width) else image
        full_h, full_w = fixed or (-(-new_h // _STRIDE) * _STRIDE, -(-new_w // _STRIDE) * _STRIDE)
        padded = np.full((full_h, full_w, 3), 128, np.uint8)
        padded[:new_h, :new_w] = resized
        return padded, new_h, new_w
