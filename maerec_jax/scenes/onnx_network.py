"""The networks of detectors in ONNX files, run by onnxruntime: from pixels to a map of probabilities."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.errors import UserError
from maerec_jax.scenes.regions import DetectionSettings, Method
from maerec_jax.weights.files import ABOUT, detector_of

# Else onnxruntime reports to its makers, and keeps a name for this machine in the home folder, from its import on.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime


class OnnxNetwork:
    """The network of a detector in an ONNX file.

    Args:
      path: the file. Its input is float32 or float16 images (N, 3, H, W), of any size or of one; its first output is
        probabilities (N, 1, H', W') or (N, H', W').

    Raises:
      UserError: where it is no such file.
    """

    def __init__(self, path: str) -> None:
        self.path = path
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
        self.fixed_size = (height, width) if isinstance(height, int) and isinstance(width, int) else None
        """Height and width of the images that it takes; None for any."""
        about = self._session.get_modelmeta().custom_metadata_map.get(ABOUT, "")
        self.method: Method = "dbnetpp" if detector_of(about) == "dbnetpp" else "db"
        """The method that the file asks for."""

    def __call__(self, pixels_HWC: np.ndarray) -> np.ndarray:
        """The map float32 (H', W') of normalised pixels, float (H, W, 3).

        Raises:
          UserError: where the network cannot take them, or what it gives are no probabilities.
        """
        batch = np.ascontiguousarray(pixels_HWC.transpose(2, 0, 1)[None], self._dtype)
        try:
            made: Any = self._session.run(None, {self._input: batch})[0]
        except Exception as error:
            raise UserError(f"{self.path}: cannot take an image {batch.shape}: {_line(error)}") from error
        if not isinstance(made, np.ndarray) or made.ndim not in (3, 4) or made.dtype.kind != "f" or not made.size:
            raise UserError(f"{self.path}: its first output is not a map of probabilities (N, 1, height, width)")
        map_HW = made.reshape(-1, *made.shape[-2:])[0].astype(np.float32)
        if not (map_HW.min() >= -1e-3 and map_HW.max() <= 1 + 1e-3):  # not for NaN either
            raise UserError(f"{self.path}: its first output has values outside 0 to 1, so they are not probabilities")
        return map_HW


def normalised(image_HWC: np.ndarray, settings: DetectionSettings) -> np.ndarray:
    """The float32 pixels that a network takes of uint8 RGB (H, W, 3), its channels in the order of the settings."""
    scale = 1 / (255 * np.array(settings.std, np.float32))
    shift = -np.array(settings.mean, np.float32) / np.array(settings.std, np.float32)
    return (image_HWC[..., ::-1] if settings.channels == "bgr" else image_HWC) * scale + shift


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
