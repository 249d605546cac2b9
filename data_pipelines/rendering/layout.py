"""A line of text as a mask: glyphs side by side, straight or along an arc."""

from itertools import accumulate
from typing import NamedTuple

import cv2
import numpy as np

from data_pipelines.rendering.fonts import Face, Glyph
from data_pipelines.rendering.shaping import needs_shaping

PAD = 14
"""Empty pixels around a line, room for outlines."""


class Line(NamedTuple):
    """A drawn text: uint8 mask ``(h, w)``, and the box of its ink in it as (left, top, right, bottom)."""

    mask: np.ndarray
    box: tuple[int, int, int, int]
    letters: np.ndarray
    """The corners (x, y) of the boxes of its letters with ink, float64 ``(n, 4, 2)``, in reading order."""


def corners_of(boxes: np.ndarray) -> np.ndarray:
    """The corners (x, y), float64 ``(n, 4, 2)``, of boxes (left, top, right, bottom), ``(n, 4)``."""
    return boxes[:, [[0, 1], [2, 1], [2, 3], [0, 3]]].astype(float)


def draw_line(
    text: str,
    face: Face,
    spacing: float,
    wobble: float,
    rng: np.random.Generator,
    before: str = "",
    after: str = "",
    tumble: float = 0.0,
) -> Line:
    """Draw ``text`` as a line, between neighbours that do not count for the box.

    ``face`` must have all characters, and ``text`` one that is not a space. ``spacing`` is extra pixels between
    letters, ``wobble`` how far each leaves the baseline (standard deviation, in pixels), and ``tumble`` how much they
    differ in size and slant, as on hand-made signs: 0.1 is a tenth of their size, and of a radian. ``before`` and
    ``after`` are drawn at its sides, left and right, with spaces of their own. A text that needs shaping is one letter.
    """
    parts = [_pieces(part) for part in (before, text, after)]
    glyphs = [face.glyph(piece) for part in parts for piece in part]
    if tumble > 0:
        glyphs = [_tumbled(glyph, tumble, rng) if glyph.mask.size else glyph for glyph in glyphs]
    # Never so tight that letters cover each other.
    steps = [max(glyph.advance + spacing, 0.6 * glyph.mask.shape[1], 1.0) for glyph in glyphs[:-1]]
    pens = accumulate(steps, initial=0.0)
    lefts = [round(pen) + glyph.left for pen, glyph in zip(pens, glyphs, strict=True)]
    shifts = (wobble * rng.standard_normal(len(glyphs))).tolist() if wobble > 0 else [0.0] * len(glyphs)
    tops = [glyph.top + round(shift) for glyph, shift in zip(glyphs, shifts, strict=True)]
    inked = [i for i, glyph in enumerate(glyphs) if glyph.mask.size]
    places = np.array([(lefts[i], tops[i]) for i in inked])
    places += PAD - places.min(axis=0)
    ends = places + [glyphs[i].mask.shape[::-1] for i in inked]
    mask = np.zeros(ends.max(axis=0)[::-1] + PAD, np.uint8)
    for i, (left, top), (right, bottom) in zip(inked, places.tolist(), ends.tolist(), strict=True):
        area = mask[top:bottom, left:right]
        np.maximum(area, glyphs[i].mask, out=area)  # Letters of scripts and italics overlap.
    start = len(parts[0])
    own = [start <= i < start + len(parts[1]) for i in inked]
    (x0, y0), (x1, y1) = places[own].min(axis=0).tolist(), ends[own].max(axis=0).tolist()
    return Line(mask, (x0, y0, x1, y1), corners_of(np.hstack([places[own], ends[own]])))


def _pieces(text: str) -> list[str]:
    """What of a text is drawn one by one: its characters, or all of it but the spaces around."""
    if not needs_shaping(text):
        return list(text)
    start = len(text) - len(text.lstrip(" "))
    core = text.strip(" ")
    return [*text[:start], core, *text[start + len(core) :]]


def _tumbled(glyph: Glyph, strength: float, rng: np.random.Generator) -> Glyph:
    """A letter in another size and turned about its middle."""
    height, width = glyph.mask.shape
    size, angle = np.exp(strength * rng.standard_normal()), strength * rng.standard_normal()
    cos, sin = size * np.cos(angle), size * np.sin(angle)
    new_width = int(np.ceil(abs(cos) * width + abs(sin) * height)) + 2
    new_height = int(np.ceil(abs(sin) * width + abs(cos) * height)) + 2
    x, y = (width - 1) / 2, (height - 1) / 2
    matrix = np.array(
        [[cos, -sin, (new_width - 1) / 2 - cos * x + sin * y], [sin, cos, (new_height - 1) / 2 - sin * x - cos * y]]
    )
    mask = _ink(np.asarray(cv2.warpAffine(glyph.mask, matrix, (new_width, new_height))))
    top = glyph.top + (height - mask.shape[0]) // 2
    return Glyph(mask, glyph.left, top, glyph.advance + mask.shape[1] - width)


def draw_column(text: str, face: Face, gap: float) -> Line:
    """Draw ``text``, without its spaces, from top to bottom: upright letters, ``gap`` pixels apart."""
    masks = [mask for mask in (_ink(face.glyph(character).mask) for character in text) if mask.size]
    gaps = max(1, round(gap))
    width = max(mask.shape[1] for mask in masks)
    height = sum(mask.shape[0] for mask in masks) + gaps * (len(masks) - 1)
    column = np.zeros((height + 2 * PAD, width + 2 * PAD), np.uint8)
    y, boxes = PAD, []
    for mask in masks:
        x = PAD + (width - mask.shape[1]) // 2
        boxes.append((x, y, x + mask.shape[1], y + mask.shape[0]))
        column[y : y + mask.shape[0], x : x + mask.shape[1]] = mask
        y += mask.shape[0] + gaps
    return Line(column, (PAD, PAD, PAD + width, PAD + height), corners_of(np.array(boxes)))


def _ink(mask: np.ndarray) -> np.ndarray:
    """A mask without empty rows and columns around it."""
    x, y, width, height = cv2.boundingRect(mask) if mask.size else (0, 0, 0, 0)
    return mask[y : y + height, x : x + width]


def bend(line: Line, angle: float) -> Line:
    """Lay a line along an arc of ``angle`` radians: arched for a positive angle, sagging for a negative one."""
    x0, y0, x1, y1 = line.box
    width = max(x1 - x0, 1)
    radius = width / abs(angle)  # of the arc along the middle of the letters
    half_height = (y1 - y0) / 2
    if radius < 1.6 * half_height:
        return line
    middle_y = (y0 + y1) / 2
    outer, inner = radius + half_height, radius - half_height
    half_angle = abs(angle) / 2
    out_width = int(2 * outer * np.sin(min(half_angle, np.pi / 2))) + 2 * PAD
    out_height = int(outer - inner * np.cos(min(half_angle, np.pi))) + 2 * PAD
    # Where each pixel of the bent line comes from: its angle and distance, seen from the centre of the circle.
    xs = np.arange(out_width, dtype=np.float32) - out_width / 2
    ys = outer + PAD - np.arange(out_height, dtype=np.float32)
    across, up = np.broadcast_to(xs, (out_height, out_width)), np.broadcast_to(ys[:, None], (out_height, out_width))
    distance, theta = cv2.cartToPolar(np.ascontiguousarray(up), np.ascontiguousarray(across))
    theta = np.where(theta > np.pi, theta - np.float32(2 * np.pi), theta)
    source_x = (x0 + x1) / 2 + theta * radius
    source_y = middle_y + (radius - distance) if angle > 0 else middle_y - (radius - distance)
    mask = cv2.remap(line.mask, source_x, source_y, cv2.INTER_LINEAR)
    # And where the letters go: their distance from the centre, and their angle.
    along, away = (line.letters - ((x0 + x1) / 2, middle_y)).transpose(2, 0, 1)
    distance, theta = radius - np.sign(angle) * away, along / radius
    letters = np.stack([out_width / 2 + distance * np.sin(theta), outer + PAD - distance * np.cos(theta)], axis=-1)
    if angle < 0:
        mask, letters[..., 1] = mask[::-1], out_height - 1 - letters[..., 1]
    box = (PAD, PAD, out_width - PAD, out_height - PAD)
    return Line(np.ascontiguousarray(mask), box, letters)


def thicken(mask: np.ndarray, pixels: float) -> np.ndarray:
    """Make strokes of a uint8 mask wider by ``pixels``, at least one, on each side."""
    size = 2 * round(pixels) + 1
    return cv2.dilate(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)))
