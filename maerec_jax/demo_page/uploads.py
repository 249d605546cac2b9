"""Pictures that visitors bring: their limits, and what is said where one cannot be used."""

import os
from dataclasses import dataclass, fields
from pathlib import Path

import cv2
import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.images.decoding import DecodeError, decode_image
from maerec_jax.serving.limits import MEGA


@dataclass(frozen=True)
class Limits:
    """What a visitor may ask for."""

    max_megapixels: int = 64
    """Largest picture, in megapixels; 64 take up to 800 MB of memory."""
    max_megabytes: int = 20
    """Largest upload, in MB."""
    max_kept_megabytes: int = 1000
    """Total size of uploads in half an hour, in MB; more are refused."""
    max_waiting: int = 32
    """Requests that may wait, one being read at a time; more are refused."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 1:
                raise UserError(f"{field.name} must be at least 1, not {getattr(self, field.name)}")
        if self.max_megabytes > self.max_kept_megabytes:
            raise UserError(f"max_megabytes {self.max_megabytes} is above max_kept_megabytes {self.max_kept_megabytes}")

    @property
    def max_bytes(self) -> int:
        """``max_megabytes`` in bytes."""
        return self.max_megabytes * MEGA


def open_upload(path: str, folder: Path, limits: Limits) -> np.ndarray:
    """Decode a file that a visitor has uploaded, in full size, to uint8 RGB (height, width, 3).

    ``path`` is where the page says that it is; nothing outside ``folder`` is opened.

    Raises:
      UserError: with a sentence for the visitor.
    """
    name = Path(path).name
    try:
        file = Path(os.path.realpath(path))
        if not file.is_relative_to(os.path.realpath(folder)):
            raise FileNotFoundError
        data = file.read_bytes()
    except (OSError, ValueError) as error:  # a path with a zero byte is a ValueError
        raise UserError(f"{name} is no longer on the server: choose it again.") from error
    if len(data) > limits.max_bytes:
        raise UserError(f"{name} is larger than the limit of {limits.max_megabytes} MB.")
    try:
        return decode_image(data, limits.max_megapixels * MEGA)
    except DecodeError as error:
        raise UserError(f"{name} cannot be read: {error}. Use JPEG, PNG, WebP, GIF, BMP or TIFF.") from error


def fitted(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """Pixels (height, width, 3), scaled down to fit where they are larger."""
    scale = min(width / pixels.shape[1], height / pixels.shape[0], 1.0)
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA) if scale < 1 else pixels
