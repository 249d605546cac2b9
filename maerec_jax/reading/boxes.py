"""Where the characters of a word are: each between its neighbours, and as large as its ink."""

import cv2
import numpy as np

Box = tuple[float, float, float, float]
"""Left, upper, right and lower edge in pixels, where pixel i reaches from i to i + 1."""

_LEAST_INK = 0.02  # of a row or column of a character's cell; less is noise
_AWAY = 0.5  # what it costs a boundary to lie a whole character away from the middle, in heights of ink


def character_boxes(image_HWC: np.ndarray, maps_TRC: np.ndarray, width: int) -> np.ndarray:
    """The boxes of the characters of a word that runs along the rows of an image, in either direction.

    Where the model looked in the mean is taken for the middle of a character; squares count, as a little of its look
    goes everywhere. Two neighbours meet where there is the least ink about half-way between their middles. In its cell
    each character is as large as its ink: what differs from the colour along the edges of the image by more than Otsu's
    threshold.

    Args:
      image_HWC: uint8 RGB, as the model has seen it.
      maps_TRC: where the model looked for each of T characters (``RecogniserConfig.attention``).
      width: how many columns of the image are picture, before the filling.

    Returns:
      float64 (T, 4): left, upper, right and lower edges, as shares of the picture's width and height.
    """
    height, columns = image_HWC.shape[0], maps_TRC.shape[2]
    look_TC = maps_TRC.sum(axis=1) ** 2
    middle_T = (look_TC @ (np.arange(columns) + 0.5)) / look_TC.sum(axis=1) * image_HWC.shape[1] / columns
    ink_HW = _ink(image_HWC[:, :width])
    order_T = np.argsort(middle_T, kind="stable")  # text may run from the right
    edges = _edges(middle_T[order_T], ink_HW.mean(axis=0))
    lefts = edges[:-1].clip(0, width - 1)
    rights = np.maximum(edges[1:].clip(0, width), lefts + 1)
    boxes_T4 = np.zeros((len(middle_T), 4))
    for number, left, right in zip(order_T, lefts, rights, strict=True):
        cell_HW = ink_HW[:, left:right]
        rows = np.flatnonzero(cell_HW.mean(axis=1) > _LEAST_INK)
        across = np.flatnonzero(cell_HW.mean(axis=0) > _LEAST_INK)
        if len(rows) and len(across):
            boxes_T4[number] = left + across[0], rows[0], left + across[-1] + 1, rows[-1] + 1
        else:  # a space, or nothing that stands out
            boxes_T4[number] = left, 0, right, height
    return boxes_T4 / (width, height, width, height)


def _ink(image_HWC: np.ndarray) -> np.ndarray:
    """Where there is ink, bool (H, W)."""
    pixels = image_HWC.astype(np.float32)
    rim = np.concatenate([pixels[:2], pixels[-2:], pixels[:, :2].swapaxes(0, 1), pixels[:, -2:].swapaxes(0, 1)], axis=1)
    away_HW = np.linalg.norm(pixels - np.median(rim, axis=(0, 1)), axis=2)
    grey_HW = (255 * away_HW / max(away_HW.max(), 1)).astype(np.uint8)
    return grey_HW > cv2.threshold(grey_HW, 0, 255, cv2.THRESH_OTSU)[0]


def _edges(middle_T: np.ndarray, ink_W: np.ndarray) -> np.ndarray:
    """Where the cells of T characters with rising middles begin, and where the last ends: int (T + 1) columns."""
    width = len(ink_W)
    if len(middle_T) < 2:
        return np.array([0, width])[: len(middle_T) + 1]
    apart = np.diff(middle_T)
    edges = [middle_T[0] - 0.75 * apart[0], *(middle_T[:-1] + apart / 2), middle_T[-1] + 0.75 * apart[-1]]
    beside_W = np.pad(ink_W, 1)
    between = beside_W[1:] + beside_W[:-1]  # the ink on both sides of each edge of a column
    for number, gap in enumerate(apart, 1):
        near = np.arange(round(edges[number] - gap / 4), round(edges[number] + gap / 4) + 1).clip(0, width)
        edges[number] = near[np.argmin(between[near] + _AWAY * np.abs(near - edges[number]) / max(gap, 1))]
    return np.rint(edges).astype(int)
