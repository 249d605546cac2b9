"""Detectors with differentiable binarisation (DB: Liao et al., AAAI 2020; DBNet++: TPAMI 2022), run by onnxruntime.

The network gives for each pixel the probability that it belongs to a word, each word shrunken so that neighbours stay
apart. The connected parts of what is above a threshold are the words; their outlines are moved out again.
"""

import os
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyclipper

from data_pipelines.errors import UserError
from maerec_jax.scenes.polygons import level_corners
from maerec_jax.scenes.regions import DetectionConfig, Region, reading_order

# Else onnxruntime reports to its makers, and keeps a name for this machine in the home folder, from its import on.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime

_STRIDE = 32  # the deepest features of these networks have a 32nd of the size
_FINE = 256  # Clipper calculates in whole numbers: so many of them to a pixel


class DBDetector:
    """A DB-style detector in an ONNX file.

    Args:
      path: the file. Its input is float32 or float16 images (N, 3, H, W), of any size or of one; its first output is
        probabilities (N, 1, H', W') or (N, H', W').
      config: how words are found.

    Raises:
      UserError: where it is no such file.
    """

    def __init__(self, path: str, config: DetectionConfig | None = None) -> None:
        self._path, self._config = path, config or DetectionConfig()
        if not Path(path).is_file():
            raise UserError(f"{path}: no such file: name the ONNX file of a detector")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what is wrong is told by the exception
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has a class for each kind of failure, without a common one
            raise UserError(f"{path}: is not a usable ONNX file: {_line(error)}") from error
        inputs = self._session.get_inputs()
        dtypes = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
        if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type not in dtypes or inputs[0].shape[1] != 3:
            described = ", ".join(f"{i.name} {i.type} {i.shape}" for i in inputs)
            raise UserError(f"{path}: a detector takes float images (N, 3, height, width), but this takes {described}")
        self._input, self._dtype = inputs[0].name, dtypes[inputs[0].type]
        height, width = inputs[0].shape[2:]
        self._fixed = (height, width) if isinstance(height, int) and isinstance(width, int) else None

    def detect(self, image_HWC: np.ndarray) -> list[Region]:
        """The words of a picture, uint8 RGB, in reading order.

        Raises:
          UserError: where the network cannot take the picture, or what it gives are no probabilities.
        """
        height, width = image_HWC.shape[:2]
        resized, shown_h, shown_w = self._resized(image_HWC)
        probability_HW = self._probabilities(resized)
        # What is found at the edge of the padding is none of the picture.
        shown_h *= probability_HW.shape[0] / resized.shape[0]
        shown_w *= probability_HW.shape[1] / resized.shape[1]
        probability_HW = probability_HW[: ceil(shown_h), : ceil(shown_w)]
        scale = np.array([width / shown_w, height / shown_h])
        found = []
        for region in regions_of(probability_HW, self._config):
            polygon_N2 = np.clip(region.polygon_N2 * scale, 0, (width, height)).astype(np.float32)
            found.append(replace(region, polygon_N2=polygon_N2))
        return reading_order(found)

    def _resized(self, image: np.ndarray) -> tuple[np.ndarray, float, float]:
        """The picture in a size that the network takes, padded with grey, and its height and width in that."""
        height, width = image.shape[:2]
        if self._fixed:
            scale = min(self._fixed[0] / height, self._fixed[1] / width)
        else:
            scale = max(1.0, self._config.short_side / min(height, width))
            scale = min(scale, self._config.long_side / max(height, width))
        new_h, new_w = max(1, round(height * scale)), max(1, round(width * scale))
        way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        resized = cv2.resize(image, (new_w, new_h), interpolation=way) if (new_h, new_w) != (height, width) else image
        full_h, full_w = self._fixed or (-(-new_h // _STRIDE) * _STRIDE, -(-new_w // _STRIDE) * _STRIDE)
        padded = np.full((full_h, full_w, 3), 128, np.uint8)
        padded[:new_h, :new_w] = resized
        return padded, new_h, new_w

    def _probabilities(self, image: np.ndarray) -> np.ndarray:
        config = self._config
        scale = 1 / (255 * np.array(config.std, np.float32))
        shift = -np.array(config.mean, np.float32) / np.array(config.std, np.float32)
        pixels = (image[..., ::-1] if config.channels == "bgr" else image) * scale + shift
        batch = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], self._dtype)
        try:
            made: Any = self._session.run(None, {self._input: batch})[0]
        except Exception as error:
            raise UserError(f"{self._path}: cannot take an image {batch.shape}: {_line(error)}") from error
        if not isinstance(made, np.ndarray) or made.ndim not in (3, 4) or made.dtype.kind != "f" or not made.size:
            raise UserError(f"{self._path}: its first output is not a map of probabilities (N, 1, height, width)")
        map_HW = made.reshape(-1, *made.shape[-2:])[0].astype(np.float32)
        if not (map_HW.min() >= -1e-3 and map_HW.max() <= 1 + 1e-3):  # not for NaN either
            raise UserError(f"{self._path}: its first output has values outside 0 to 1, so they are not probabilities")
        return map_HW


def regions_of(probability_HW: np.ndarray, config: DetectionConfig) -> list[Region]:
    """The words in a map of probabilities, in its pixels, the most confident first.

    Args:
      probability_HW: float32, 0 to 1.
      config: thresholds and shapes.
    """
    found = []
    mask = (probability_HW >= config.threshold).astype(np.uint8)
    contours, hierarchy = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    for i, contour in enumerate(contours):
        rectangle = cv2.minAreaRect(contour)
        if hierarchy[0][i][3] >= 0 or min(rectangle[1]) + 1 < config.min_size:  # the border of a hole, or too small
            continue
        outline = cv2.boxPoints(rectangle)
        if config.shape == "polygon":
            outline = cv2.approxPolyDP(contour, 0.005 * cv2.arcLength(contour, True), True)[:, 0].astype(np.float32)
        confidence = _mean_inside(probability_HW, outline)
        if len(outline) < 3 or confidence < config.min_confidence:
            continue
        moved = unclip(outline + 0.5, config.unclip_ratio)  # contours go through the middles of pixels
        if moved is not None and config.shape == "quadrilateral":
            moved = level_corners(cv2.boxPoints(cv2.minAreaRect(moved)))
        if moved is not None:
            found.append(Region(moved, confidence))
    return sorted(found, key=lambda region: -region.confidence)[: config.max_words]


def unclip(polygon_N2: np.ndarray, ratio: float) -> np.ndarray | None:
    """A polygon with its outline moved out by area * ratio / perimeter (DB, inference).

    Returns:
      float32 (N, 2), the largest part where several come out; None where nothing does.
    """
    closed = polygon_N2.astype(np.float32)
    distance = cv2.contourArea(closed) * ratio / max(cv2.arcLength(closed, True), 1e-6)
    offset = pyclipper.PyclipperOffset(2.0, 0.1 * _FINE)
    offset.AddPath(np.round(closed * _FINE).astype(np.int64).tolist(), pyclipper.JT_ROUND, pyclipper.ET_CLOSEDPOLYGON)
    parts = [np.array(part, np.float32) / _FINE for part in offset.Execute(distance * _FINE)]
    return max(parts, key=cv2.contourArea) if parts else None


def _mean_inside(probability_HW: np.ndarray, outline_N2: np.ndarray) -> float:
    """Mean probability of the pixels in an outline."""
    height, width = probability_HW.shape
    left, top = np.clip(np.floor(outline_N2.min(axis=0)).astype(int), 0, (width - 1, height - 1))
    right, bottom = np.clip(np.ceil(outline_N2.max(axis=0)).astype(int), 0, (width - 1, height - 1))
    mask = np.zeros((bottom - top + 1, right - left + 1), np.uint8)
    cv2.fillPoly(mask, [np.round(outline_N2 - (left, top)).astype(np.int32)], 1)
    return float(cv2.mean(probability_HW[top : bottom + 1, left : right + 1], mask)[0])


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
