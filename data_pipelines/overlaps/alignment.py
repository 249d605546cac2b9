"""Whether two thumbnails show the same picture: their correlation once one is aligned with the other."""

import cv2
import numpy as np

from data_pipelines.overlaps.hashing import HEIGHT, WIDTH

_STEPS = (0.02, 0.01, 0.005)
_FURTHEST = 0.09
_BLUR = 1.0  # pixels; without it a small copy's lost sharpness counts as much as other letters do
_HOPELESS = 0.55  # copies start from 0.6 on (see tests), pairs below this cost no further time


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """How far two thumbnails agree: Lin's concordance correlation of their grey levels, uint8 ``(32, 64)``.

    It is Pearson's correlation where they have the same mean and contrast, and less where they have not: a common word
    in a common font on another sign has another brightness, while a copy keeps its own. 0 where both are flat.
    """
    x, y = a.astype(np.float32), b.astype(np.float32)
    apart = float(x.mean() - y.mean())
    x -= x.mean()
    y -= y.mean()
    spread = float(np.vdot(x, x) + np.vdot(y, y)) + x.size * apart**2
    return 2 * float(np.vdot(x, y)) / spread if spread else 0.0


def aligned_correlation(a: np.ndarray, b: np.ndarray, start: np.ndarray) -> float:
    """The correlation of two thumbnails, a little blurred, where they overlap once one is aligned with the other.

    Both are uint8 ``(32, 64)``. ``start``, float ``(4,)``, is what ``a`` shows more than ``b`` at its left, top, right
    and bottom edge, at first guess, as a share of its width or height; negative where ``b`` shows more. The edges are
    then moved one at a time, by up to 9 % of the width or height. Returns -1 to 1.
    """
    a, b = (cv2.GaussianBlur(image, (0, 0), _BLUR) for image in (a, b))
    edges = np.array(start, np.float64)
    best = _overlap(a, b, edges)
    if best < _HOPELESS:
        return best
    for step in _STEPS:
        improved = True
        while improved:
            improved = False
            for edge in range(4):
                for move in (step, -step):
                    moved = edges.copy()
                    moved[edge] += move
                    if abs(moved[edge]) > _FURTHEST:
                        continue
                    found = _overlap(a, b, moved)
                    if found > best + 1e-6:
                        best, edges, improved = found, moved, True
    return best


def _overlap(a: np.ndarray, b: np.ndarray, edges: np.ndarray) -> float:
    return correlation(_cut(a, np.maximum(edges, 0)), _cut(b, np.maximum(-edges, 0)))


def _cut(image: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The image without the given shares at its left, top, right and bottom, at its old size."""
    left, top, right, bottom = edges.tolist()
    if not any((left, top, right, bottom)):
        return image
    x, y = 1 - left - right, 1 - top - bottom
    # From a pixel of the result to one of the image; the outer edges of pixels are half a pixel from their centres.
    matrix = np.array([[x, 0, left * WIDTH + (x - 1) / 2], [0, y, top * HEIGHT + (y - 1) / 2]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(image, matrix, (WIDTH, HEIGHT), flags=flags, borderMode=cv2.BORDER_REPLICATE)
