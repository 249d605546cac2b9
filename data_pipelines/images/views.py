"""Several views of one image, so that it can be read more than once: whole, tilted, cropped, and with a margin."""

from typing import NamedTuple

import numpy as np

from data_pipelines.images.augmentation import affine_matrices, resizing_matrices
from data_pipelines.images.resizing import Interpolation, resize_image, warp_image


class View(NamedTuple):
    """How an image is looked at."""

    angle: float = 0.0  # by how many degrees it is tilted, clockwise
    width: float = 1.0  # the share of its width that is seen, about the middle; outside, its border is repeated
    height: float = 1.0  # the share of its height


VIEWS = (
    View(),
    View(angle=12),
    View(angle=-12),
    View(width=0.92, height=0.92),
    View(width=1.08, height=1.08),
    View(angle=6),
    View(angle=-6),
    View(width=0.9),
    View(width=1.16),
    View(height=0.8),
)
"""In the order in which they are taken. Chosen on 700 real words: docs/weights.md tells what 3, 5 and 10 are worth."""

_LONGEST_SIDE = 32_766  # OpenCV warps no larger images


def view_image(
    image: np.ndarray, views: int, height: int, width: int, interpolation: Interpolation, out: np.ndarray | None = None
) -> np.ndarray:
    """Resize an image in the first of ``VIEWS``.

    ``image`` is uint8 RGB (h, w, 3); the result, which overwrites ``out`` if that is given, is uint8 (views, height,
    width, 3). The first view is the image as ``resize_image`` gives it.
    """
    if out is None:
        out = np.empty((views, height, width, 3), np.uint8)
    resize_image(image, height, width, interpolation, out[0])
    if max(image.shape[:2]) > _LONGEST_SIDE:
        out[1:] = out[0]
        return out
    size_12 = np.array([image.shape[:2]])
    middle_2 = np.array([width - 1, height - 1]) / 2
    for number, view in enumerate(VIEWS[1:views], 1):
        zoom = np.diag([1 / view.width, 1 / view.height, 1.0])
        zoom[:2, 2] = middle_2 * (1 - np.diag(zoom)[:2])
        moved = resizing_matrices(size_12, np.array([[height, width]])) @ affine_matrices(size_12, view.angle)
        warp_image(image, zoom @ moved[0], out[number], interpolation)
    return out
