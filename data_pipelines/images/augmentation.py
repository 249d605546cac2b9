"""Random distortion of training images: what may happen to them, and the geometry of it.

Geometry (rotation, shear, perspective ...) is drawn here and becomes part of the one warp that also resizes an image.
What changes pixels in place (colour, resolution, noise, blur) happens on the device, in
``maerec_jax.training.augment``, from the same settings.
"""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

MOVES = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
"""Operations of a ``RandAugment`` that move pixels."""
CHANGES = (
    "auto_contrast", "equalize", "invert", "posterize", "solarize", "saturation", "contrast", "brightness", "blur",
    "noise",
)  # fmt: skip
"""Operations of a ``RandAugment`` that change pixels in place."""

_DRAWS_PER_OPERATION = 4
_Values = np.ndarray | float
_Pair = tuple[_Values, _Values]


class Draws(NamedTuple):
    """What chance has in store for the images of a batch: moves, and what happens on the device to pixels in place."""

    numbers_BK: np.ndarray  # float64 (B, K), from 0 to 1: what ``matrices`` makes moves of
    moved_B: np.ndarray  # bool (B,): whether an image is moved at all
    operations_BL: np.ndarray | None = None
    """int32 (B, layers): places in ``CHANGES``, or -1; None where the device draws."""


@dataclass(frozen=True)
class Augmentation:
    """The augmentation of MAERec (arXiv 2307.08723): geometry, resolution with noise and blur, and colour."""

    kind: Literal["published"] = field(default="published", kw_only=True)
    """Kind of augmentation."""
    geometry_probability: float = 0.5
    """Probability of one geometric distortion: rotation, affine or perspective."""
    degradation_probability: float = 0.25
    """Probability of lower resolution, with noise and motion blur by the two below."""
    noise_probability: float = 0.5
    """Probability of noise in a degraded image."""
    blur_probability: float = 0.5
    """Probability of motion blur in a degraded image."""
    color_probability: float = 0.25
    """Probability of changing brightness, contrast, saturation and hue, in random order."""
    rotation: float = 15.0
    """Largest rotation, in degrees."""
    translation: float = 0.3
    """Largest affine shift, as a fraction of width and height."""
    scale: tuple[float, float] = (0.5, 2.0)
    """Smallest and largest affine scale."""
    shear: float = 45.0
    """Largest affine shear, in degrees."""
    distortion: float = 0.5
    """Largest perspective shift of a corner, as a fraction of the way to the centre."""
    halvings: int = 4
    """Halvings of the resolution, at most, from four times the model's image size; 0 for none, as in fact published."""
    noise_variance: float = 20.0
    """Variance of the noise, in squared grey levels (0 to 255)."""
    blur_size: int = 7
    """Longest motion blur, in pixels (odd)."""
    color_range: float = 0.5
    """Brightness, contrast and saturation change by factors of 1 - this to 1 + this."""
    hue_range: float = 0.1
    """Largest change of the hue, as a fraction of the colour circle."""
    frame: Literal["source", "resized"] = "source"
    """Frame of angles and shifts: source, the original image; resized, as in the published recipe."""

    def __post_init__(self) -> None:
        if self.blur_size < 3 or self.blur_size % 2 == 0:
            raise ValueError(f"blur_size must be odd and at least 3, not {self.blur_size}")
        for name in ("geometry", "degradation", "noise", "blur", "color"):
            if not 0 <= getattr(self, f"{name}_probability") <= 1:
                raise ValueError(f"{name}_probability must be from 0 to 1")

    def draw(self, seed: int, place: int, count: int) -> Draws:
        """Draw for the ``count`` images that stand at ``place``, ``place + 1`` ... in a run's training stream."""
        numbers_BK = uniforms(seed, place, count, 16)
        return Draws(numbers_BK, numbers_BK[:, 0] < self.geometry_probability)

    def matrices(self, numbers_BK: np.ndarray, sizes_B2: np.ndarray) -> np.ndarray:
        """How images are moved: float64 (B, 3, 3), from where a pixel is, (x, y, 1), to where it goes.

        ``numbers_BK`` are their rows of ``Draws.numbers_BK``; ``sizes_B2``, int (B, 2), are height and width of the
        frame in which each image is distorted.
        """

        def between(column: int, low: float, high: float) -> np.ndarray:
            return low + (high - low) * numbers_BK[:, column]

        height, width = sizes_B2.T.astype(np.float64)
        angle = between(2, -self.rotation, self.rotation)
        rotated = affine_matrices(sizes_B2, angle)
        shift_x, shift_y = (between(column, -self.translation, self.translation) for column in (3, 4))
        shear = between(6, -self.shear, self.shear), 0.0
        sheared = affine_matrices(sizes_B2, angle, (width * shift_x, height * shift_y), between(5, *self.scale), shear)
        tilted = perspective_matrices(sizes_B2, self.distortion * numbers_BK[:, 8:16].reshape(-1, 4, 2))
        choice_B = (numbers_BK[:, 1] * 3).astype(np.int64)
        return np.stack([rotated, sheared, tilted])[choice_B, np.arange(len(numbers_BK))]


@dataclass(frozen=True)
class RandAugment:
    """RandAugment (arXiv 1909.13719) with operations for words: a few at random, all of the same strength."""

    kind: Literal["randaugment"] = field(default="randaugment", kw_only=True)
    """Kind of augmentation."""
    layers: int = 3
    """Random operations per image, one after the other."""
    magnitude: float = 5.0
    """Strength from 0 to 10 (the largest change)."""
    spread: float = 0.5
    """Standard deviation of the strength between operations."""
    rotation: float = 30.0
    """Largest rotation, in degrees."""
    shear: tuple[float, float] = (0.9, 0.2)
    """Largest shear of vertical and of horizontal lines, as tangents."""
    translation: tuple[float, float] = (0.1, 0.3)
    """Largest shift, as a fraction of width and height."""
    frame: Literal["source", "resized"] = "source"
    """Frame of angles and shifts: source, the original image; resized, as the model sees it."""

    def __post_init__(self) -> None:
        if self.layers < 1 or not 0 <= self.magnitude <= 10 or self.spread < 0:
            raise ValueError("layers must be at least 1, magnitude from 0 to 10, and spread at least 0")

    def draw(self, seed: int, place: int, count: int) -> Draws:
        """As ``Augmentation.draw``, and which operations happen on the device."""
        numbers_BK = uniforms(seed, place, count, self.layers * _DRAWS_PER_OPERATION)
        operations_BL = self._operations(numbers_BK)
        return Draws(numbers_BK, np.asarray((operations_BL < 0).any(axis=1)), np.maximum(operations_BL, -1))

    def matrices(self, numbers_BK: np.ndarray, sizes_B2: np.ndarray) -> np.ndarray:
        """As ``Augmentation.matrices``."""
        matrix_B33 = np.broadcast_to(np.eye(3), (len(numbers_BK), 3, 3))
        operations_BL = self._operations(numbers_BK)
        for layer in range(self.layers):
            _, sign, first, second = numbers_BK[:, layer * _DRAWS_PER_OPERATION :][:, :_DRAWS_PER_OPERATION].T
            amount_B = self._strength(first, second) * np.where(sign < 0.5, -1, 1)
            matrix_B33 = self._move(operations_BL[:, layer] + len(MOVES), amount_B, sizes_B2) @ matrix_B33
        return matrix_B33

    def _operations(self, numbers_BK: np.ndarray) -> np.ndarray:
        """int32 (B, layers): what is drawn, counted from the first of ``CHANGES``; negative for moves."""
        drawn_BL = numbers_BK[:, ::_DRAWS_PER_OPERATION] * (len(MOVES) + len(CHANGES))
        return drawn_BL.astype(np.int32) - len(MOVES)

    def _strength(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Strength from 0 to 1, normally distributed about the magnitude, from two uniform draws."""
        normal = np.sqrt(-2 * np.log1p(-first)) * np.cos(2 * np.pi * second)
        return np.clip((self.magnitude + self.spread * normal) / 10, 0, 1)

    def _move(self, number_B: np.ndarray, amount_B: np.ndarray, sizes_B2: np.ndarray) -> np.ndarray:
        def amount(move: str, largest: float | np.ndarray) -> np.ndarray:
            return np.where(number_B == MOVES.index(move), amount_B * largest, 0.0)

        height, width = sizes_B2.T
        shift = amount("translate_x", self.translation[0] * width), amount("translate_y", self.translation[1] * height)
        shear_x, shear_y = (np.degrees(np.arctan(x)) for x in map(amount, ("shear_x", "shear_y"), self.shear))
        return affine_matrices(sizes_B2, amount("rotate", self.rotation), shift, shear=(shear_x, shear_y))


Policy = Augmentation | RandAugment
"""What may happen to training images."""

NO_AUGMENTATION = Augmentation(geometry_probability=0.0, degradation_probability=0.0, color_probability=0.0)
"""Images are resized and nothing else."""


def uniforms(seed: int, place: int, count: int, columns: int) -> np.ndarray:
    """Random numbers from [0, 1), float64 (count, columns): row i depends on ``seed`` and ``place + i`` only.

    ``columns`` must be a multiple of 4, the numbers that the counter-based generator makes at a time.
    """
    generator = np.random.Generator(np.random.Philox(key=seed, counter=[place * (columns // 4), 0, 0, 0]))
    return generator.random((count, columns))


def affine_matrices(
    sizes_B2: np.ndarray, angle: _Values, shift: _Pair = (0.0, 0.0), scale: _Values = 1.0, shear: _Pair = (0.0, 0.0)
) -> np.ndarray:
    """Matrices that slant, scale, turn and shift images about their middles, in this order: float64 (B, 3, 3).

    ``sizes_B2`` are heights and widths. ``angle`` (clockwise) and ``shear`` (of vertical lines, to the left at the
    bottom, and of horizontal lines, up at the right) are in degrees, ``shift`` in x and y in pixels: (B,) or numbers.
    """
    turn, slant_x, slant_y = np.radians(angle), np.tan(np.radians(shear[0])), np.tan(np.radians(shear[1]))
    count = len(sizes_B2)
    cosine, sine = scale * np.cos(turn), scale * np.sin(turn)
    turns = _matrices(count, [[cosine, -sine], [sine, cosine]])
    linear = turns @ _matrices(count, [[1.0, -slant_x], [-slant_y, 1.0]])
    middle_B2 = (sizes_B2[:, ::-1] - 1) / 2
    shift_B2 = np.stack(np.broadcast_arrays(np.zeros(count), *shift)[1:], axis=1)
    matrix_B33 = np.tile(np.eye(3), (count, 1, 1))
    matrix_B33[:, :2, :2] = linear
    matrix_B33[:, :2, 2] = middle_B2 - (linear @ middle_B2[..., None])[..., 0] + shift_B2
    return matrix_B33


def perspective_matrices(sizes_B2: np.ndarray, inward_B42: np.ndarray) -> np.ndarray:
    """Matrices that move the corners of images towards their middles: float64 (B, 3, 3).

    ``sizes_B2`` are heights and widths; ``inward_B42`` says for the corners top left, top right, bottom right and
    bottom left how far they move in x and y, as fractions (below 1) of the way to the middle.
    """
    direction = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
    corners_B42 = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) + direction * inward_B42 / 2
    # From the unit square to a quadrilateral (Heckbert, Fundamentals of Texture Mapping and Image Warping, 1989).
    a, b, c, d = corners_B42.transpose(1, 0, 2)
    one, two, rest = b - c, d - c, a - b + c - d
    area = one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0]
    g = (rest[:, 0] * two[:, 1] - rest[:, 1] * two[:, 0]) / area
    h = (one[:, 0] * rest[:, 1] - one[:, 1] * rest[:, 0]) / area
    right, down = b - a + g[:, None] * b, d - a + h[:, None] * d
    count = len(sizes_B2)
    unit_B33 = _matrices(count, [[right[:, 0], down[:, 0], a[:, 0]], [right[:, 1], down[:, 1], a[:, 1]], [g, h, 1.0]])
    # Corners are those of the outermost pixels, half a pixel away from their centres.
    height, width = sizes_B2.T.astype(np.float64)
    to_unit = _matrices(count, [[1 / width, 0.0, 0.5 / width], [0.0, 1 / height, 0.5 / height], [0.0, 0.0, 1.0]])
    from_unit = _matrices(count, [[width, 0.0, -0.5], [0.0, height, -0.5], [0.0, 0.0, 1.0]])
    return from_unit @ unit_B33 @ to_unit


def resizing_matrices(sizes_B2: np.ndarray, new_sizes_B2: np.ndarray) -> np.ndarray:
    """Matrices from the pixels of images to those of the same images, resized: float64 (B, 3, 3)."""
    y, x = (new_sizes_B2 / sizes_B2).T
    return _matrices(len(sizes_B2), [[x, 0.0, (x - 1) / 2], [0.0, y, (y - 1) / 2], [0.0, 0.0, 1.0]])


def _matrices(count: int, rows: list[list]) -> np.ndarray:
    """``rows`` of numbers or (count,) arrays as float64 (count, rows, columns)."""
    return np.stack([np.stack([np.broadcast_to(x, count) for x in row], axis=-1) for row in rows], axis=-2)
