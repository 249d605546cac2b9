"""Perceptual hashes of word images: the signs of their low frequencies, for several slight crops of each image.

After the DCT hash of Zauner, *Implementation and Benchmarking of Perceptual Image Hash Functions* (2010). A word image
is wider than high and its strokes are vertical, so twice as many horizontal frequencies are taken. A copy that has been
cropped moves every stroke: each image is therefore hashed as it is and with each set of its four edges cut, and two
images are copies if any of their hashes are close.
"""

import itertools

import cv2
import numpy as np

HEIGHT, WIDTH = 32, 64
"""Size of the grey thumbnails that are hashed and compared, whatever the aspect ratio of the image."""
WORDS = 4
"""A hash has this many words of 32 bits; the bits of each go from low frequencies to high ones."""
CUT = 0.04
"""The share of the width or height that is cut off an edge."""
EDGES = np.array(list(itertools.product((0, CUT), repeat=4)), np.float32)
"""float32 ``(16, 4)``: what each hash of an image has cut off: left, top, right, bottom. The first is the whole."""
VIEWS = len(EDGES)
_ROWS, _COLUMNS = 8, 16  # vertical and horizontal frequencies: 128 bits
_FLAT = 2.0  # grey levels, of 255

cv2.setNumThreads(1)  # see decoding.py


def thumbnail(image: np.ndarray) -> np.ndarray:
    """uint8 RGB ``(h, w, 3)`` as uint8 grey ``(32, 64)``, averaged where it shrinks."""
    return cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)


def is_flat(thumbnails: np.ndarray) -> np.ndarray:
    """bool ``(n,)``: which of uint8 ``(n, 32, 64)`` show next to nothing, so that their hashes are but noise."""
    return thumbnails.std(axis=(1, 2), dtype=np.float32) < _FLAT


def _cosines(pixels: int, frequencies: int, before: float, after: float) -> np.ndarray:
    """float32 ``(frequencies, pixels)``: cosines over what is left of an axis, each integrated over each pixel."""
    ends = np.clip((np.linspace(0, 1, pixels + 1) - before) / (1 - before - after), 0, 1)
    turns = np.pi * np.arange(1, frequencies)[:, None]
    return np.diff(np.concatenate([ends[None], np.sin(turns * ends) / turns]), axis=1).astype(np.float32)


_VERTICAL_VKH = np.stack([_cosines(HEIGHT, _ROWS, top, bottom) for _, top, _, bottom in EDGES])
_HORIZONTAL_VWL = np.stack([_cosines(WIDTH, _COLUMNS, left, right).T for left, _, right, _ in EDGES])
# From low frequencies to high ones, without the mean; the sign of the highest of all takes its place at the end.
_ORDER = np.argsort(np.hypot(np.arange(_ROWS)[:, None] / _ROWS, np.arange(_COLUMNS) / _COLUMNS), axis=None)
_ORDER = np.roll(_ORDER, -1)


def short_hashes(thumbnails: np.ndarray) -> np.ndarray:
    """uint64 ``(n,)``: of uint8 ``(n, 32, 64)``, the signs of the 64 lowest frequencies of the whole images."""
    images = thumbnails.astype(np.float32)
    images -= images.mean(axis=(1, 2), keepdims=True)
    waves = (_VERTICAL_VKH[0] @ images @ _HORIZONTAL_VWL[0]).reshape(len(images), -1)[:, _ORDER[:64]]
    return np.ascontiguousarray(np.packbits(waves > 0, axis=-1, bitorder="little")).view("<u8")[:, 0]


def hash_views(thumbnails: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The hashes of thumbnails, uint8 ``(n, 32, 64)``, and how certain each of their bits is.

    Returns:
      hashes: uint32 ``(n, 16, 4)``, for the whole image and each set of cut edges (see ``EDGES``). Frequency i, counted
        from the lowest, is bit i // 4 of word i % 4: every word samples all frequencies.
      magnitudes: float32 ``(n, 16, 4, 32)``, of the frequency behind each bit: a small one changes its sign easily.
    """
    images = thumbnails.astype(np.float32)
    # The mean is taken away first, so that its bit (the last) is that of the rounding error: always the same, 0.
    images -= images.mean(axis=(1, 2), keepdims=True)
    waves = _VERTICAL_VKH @ images[:, None] @ _HORIZONTAL_VWL
    waves = waves.reshape(len(images), VIEWS, _ROWS * _COLUMNS)[..., _ORDER]
    waves[..., -1] = 0
    waves = waves.reshape(len(images), VIEWS, 32, WORDS).swapaxes(2, 3)
    bits = np.ascontiguousarray(np.packbits(waves > 0, axis=-1, bitorder="little"))  # of one image it is not, else
    hashes = bits.view("<u4")[..., 0]
    return hashes, np.abs(waves)
