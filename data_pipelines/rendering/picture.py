"""One word as a picture: a mask of its letters, seen from somewhere, in two colours, through a bad camera."""

from typing import NamedTuple

import cv2
import numpy as np

from data_pipelines.rendering.colours import cut_noise, draw_colours, luma, paint_background
from data_pipelines.rendering.damage import blur, compress, expose, keep_visible
from data_pipelines.rendering.fonts import CAPITAL_HEIGHT, Face, Fonts
from data_pipelines.rendering.layout import Line, bend, draw_column, draw_line, thicken
from data_pipelines.rendering.shaping import letters_of, needs_shaping

_MIN_HEIGHT, _MAX_HEIGHT = 14, 64
_MAX_WIDTH = 320  # Wider crops get lower, as the pipeline shrinks every crop to 128 columns.


def render(text: str, fonts: Fonts, difficulty: float, rng: np.random.Generator) -> np.ndarray:
    """Draw ``text`` as a scene-text crop, uint8 RGB ``(height, width, 3)``, about 14 to 64 pixels high.

    Every strength and probability grows with ``difficulty`` (0 to 1).
    """
    return _draw(text, fonts, difficulty, rng).picture


def render_located(
    text: str, fonts: Fonts, difficulty: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """What ``render`` draws, and where its letters are: their boxes (left, top, right, bottom) in pixels, float64
    ``(n, 4)``, of all but spaces, in reading order. A text that needs shaping is one letter."""
    picture, line, matrix, turned = _draw(text, fonts, difficulty, rng)
    corners = cv2.perspectiveTransform(line.letters, matrix)
    if turned:  # the columns of the upright picture are the rows of the one before, the last first
        corners = np.stack([picture.shape[1] - corners[..., 1], corners[..., 0]], axis=-1)
    boxes = np.hstack([corners.min(axis=1), corners.max(axis=1)])
    return picture, boxes.clip(0, picture.shape[1::-1] * 2)


class _Drawn(NamedTuple):
    picture: np.ndarray
    line: Line
    matrix: np.ndarray  # 3x3, from the line's mask to the picture before that was turned
    turned: bool  # by a quarter, with the clock


def _draw(text: str, fonts: Fonts, difficulty: float, rng: np.random.Generator) -> _Drawn:
    face = fonts.draw(text, rng)
    line, crop = _lay_out(text, face, difficulty, rng)
    fill = line.mask
    box_area = (line.box[2] - line.box[0]) * (line.box[3] - line.box[1])
    thin = fill.sum(dtype=np.int64) < 0.12 * 255 * box_area  # Hairline fonts vanish in small pictures.
    if thin or rng.random() < 0.3 * difficulty:
        fill = thicken(fill, 1)
    outline = thicken(fill, 1 + 3 * rng.random()) if rng.random() < 0.18 * difficulty else None
    matrix, (width, height) = _view(line, crop, difficulty, rng)
    beside = _beside_board(line, matrix, (width, height), rng) if rng.random() < 0.3 * difficulty else None
    (a, b), (c, d) = matrix[:2, :2].tolist()
    scale = abs(a * d - b * c) ** 0.5
    masks = fill if outline is None else cv2.merge([fill, outline])
    if scale < 0.6:  # Halve first: the warp looks at four pixels only.
        half = max(1, fill.shape[1] // 2), max(1, fill.shape[0] // 2)
        masks = cv2.resize(masks, half, interpolation=cv2.INTER_AREA)
    of_half = np.diag([fill.shape[1] / masks.shape[1], fill.shape[0] / masks.shape[0], 1.0])
    warped = cv2.warpPerspective(masks, matrix @ of_half, (width, height), flags=cv2.INTER_LINEAR)
    alpha = warped.astype(np.float32) * np.float32(1 / 255)
    picture = _paint(alpha, beside, scale, difficulty, rng)
    if rng.random() < 0.08 * difficulty:
        _cover(picture, rng)
    picture = blur(expose(picture, difficulty, rng), scale * CAPITAL_HEIGHT, difficulty, rng)
    turned = len(text) > 1 and height < width and rng.random() < 0.02 * difficulty
    if turned:
        picture = np.ascontiguousarray(np.rot90(picture, -1))  # as on banners: to be turned against the clock
    return _Drawn(compress(keep_visible(picture), difficulty, rng), line, matrix, turned)


def _lay_out(text: str, face: Face, difficulty: float, rng: np.random.Generator) -> tuple[Line, np.ndarray]:
    """The text's mask, and the margins of its crop (left, top, right, bottom) in mask pixels, float64 ``(4,)``."""
    spacing, strength = 0.0, difficulty * CAPITAL_HEIGHT
    if rng.random() < 0.5 * difficulty:
        spacing = strength * (0.3 * rng.random() ** 2 if rng.random() < 0.75 else -0.06 * rng.random())
    wobble = strength * 0.08 * rng.random() if rng.random() < 0.08 * difficulty else 0.0
    loose = 0.3 if rng.random() < 0.25 * difficulty else 0.1
    margins = CAPITAL_HEIGHT * (0.03 + loose * rng.random(4)) * [1, 1.3, 1, 1.3]
    if difficulty > 0 and rng.random() < 0.35 * difficulty:
        margins -= CAPITAL_HEIGHT * 0.12 * rng.random(4)  # Careless boxes cut the letters' edges, never a letter.
    if 1 < len(text) < 12 and rng.random() < 0.01 * difficulty and not needs_shaping(text):
        return draw_column(text, face, CAPITAL_HEIGHT * rng.uniform(0.1, 0.5)), margins
    if rng.random() >= 0.35 * difficulty:
        tumble = difficulty * 0.2 * rng.random() if rng.random() < 0.1 * difficulty else 0.0
        line = draw_line(text, face, spacing, wobble, rng, tumble=tumble)
        if len(text) > 2 and rng.random() < 0.15 * difficulty:
            line = bend(line, difficulty * rng.uniform(0.3, 1.6) * (1 if rng.random() < 0.65 else -1))
        return line, margins
    # Neighbours: the text's own letters in another order, so that the font surely has them; the crop cuts them off.
    letters = letters_of(text)
    other = "".join(letters[i] for i in rng.permutation(len(letters)) if letters[i] != " ")
    side = rng.random()
    if side < 0.4:
        before, after = f"{other} " if side < 0.15 or side >= 0.35 else "", f" {other}" if side >= 0.15 else ""
        line = draw_line(text, face, spacing, 0.0, rng, before, after)
        gap = face.glyph(" ").advance + spacing
        margins[[0, 2]] = np.maximum(gap, 0.1) + CAPITAL_HEIGHT * rng.uniform(-0.2, 0.25, 2)
        return line, margins
    line = draw_line(text, face, spacing, 0.0, rng)
    second = draw_line((other * 3)[: int(rng.integers(len(other), 3 * len(other) + 1))], face, spacing, 0.0, rng)
    for above in ((True,), (False,), (True, False))[int(3 * (side - 0.4) / 0.6)]:
        line = _stacked(line, second, above, int(CAPITAL_HEIGHT * rng.uniform(0.12, 0.45)), rng)
    # The box of the letters is known to be theirs alone: above and below it, the crop shows some of the neighbours.
    return line, margins + CAPITAL_HEIGHT * np.array([0, 0.35, 0, 0.35]) * rng.random(4)


def _stacked(line: Line, second: Line, above: bool, gap: int, rng: np.random.Generator) -> Line:
    """``line`` with ``second`` above or below it, ``gap`` pixels away, in another size and somewhere to the side."""
    ink = second.mask[second.box[1] : second.box[3], second.box[0] : second.box[2]]
    if rng.random() < 0.5:
        size = rng.uniform(0.5, 1.4)
        sides = max(1, int(ink.shape[1] * size)), max(1, int(ink.shape[0] * size))
        ink = cv2.resize(ink, sides, interpolation=cv2.INTER_AREA)
    x0, y0, x1, y1 = line.box
    height, width = line.mask.shape
    room = max(0, ink.shape[0] + gap - (y0 if above else height - y1))
    mask = np.zeros((height + room, width), np.uint8)
    shift = room if above else 0
    mask[shift : shift + height] = line.mask
    y = y0 + shift - gap - ink.shape[0] if above else y1 + gap
    # It starts left of the text or right of where that starts, and never reaches beyond the mask.
    offset = int(rng.uniform(-0.3, 0.6) * (x1 - x0))
    cut = ink[:, max(0, -offset) : max(0, -offset) + width - max(0, offset)]
    area = mask[y : y + ink.shape[0], max(0, offset) : max(0, offset) + cut.shape[1]]
    np.maximum(area, cut, out=area)
    return Line(mask, (x0, y0 + shift, x1, y1 + shift), line.letters + np.array([0, shift]))


def _view(
    line: Line, margins: np.ndarray, difficulty: float, rng: np.random.Generator
) -> tuple[np.ndarray, tuple[int, int]]:
    """How the mask is seen: a 3x3 matrix from mask to crop pixels, and the crop's (width, height)."""
    x0, y0, x1, y1 = line.box
    # Dashes and dots keep some air, or a hyphen would fill the crop like a wall; so do narrow letters.
    box_width, box_height = max(x1 - x0, 0.3 * CAPITAL_HEIGHT), max(y1 - y0, 0.65 * CAPITAL_HEIGHT)
    stretch, shear, slope, angle, tilt_x, tilt_y = 1.0, 0.0, 0.0, 0.0, 0.0, 0.0
    if rng.random() < 0.75 * difficulty:  # Lettering on signs is narrower than that of books.
        stretch = float(np.exp(difficulty * (0.22 * rng.standard_normal() - 0.17)))
    if rng.random() < 0.3 * difficulty:
        shear = difficulty * 0.35 * rng.uniform(-1, 1)
    if rng.random() < 0.7 * difficulty:  # Crops of slanting words are upright boxes, with much beside the word.
        angle = difficulty * (0.07 * rng.standard_normal() if rng.random() < 0.6 else rng.uniform(-0.55, 0.55))
    if rng.random() < 0.3 * difficulty:  # A sign seen from the side: its lines rise or fall, its letters stand upright.
        slope = difficulty * rng.uniform(-0.5, 0.5)
    if rng.random() < 0.4 * difficulty:
        tilt_x = difficulty * 0.5 * rng.uniform(-1, 1) / max(box_width, 2 * box_height)
        tilt_y = difficulty * 0.3 * rng.uniform(-1, 1) / box_height
    cos, sin = np.cos(angle), np.sin(angle)
    centre = np.array([[1, 0, -(x0 + x1) / 2], [0, 1, -(y0 + y1) / 2], [0, 0, 1]])
    slanted = np.array([[stretch, shear, 0], [slope, 1, 0], [0, 0, 1]])
    turned = np.array([[cos, -sin, 0], [sin, cos, 0], [tilt_x, tilt_y, 1]])
    matrix = turned @ slanted @ centre
    half_width, half_height = box_width / 2, box_height / 2
    corners = np.array([[-1, 1, 1, -1], [-1, -1, 1, 1], [1, 1, 1, 1]]) * [[half_width], [half_height], [1]]
    seen = turned @ slanted @ corners
    seen = seen[:2] / seen[2]
    left, top = seen.min(axis=1) - margins[:2] * [stretch, 1]
    right, bottom = seen.max(axis=1) + margins[2:] * [stretch, 1]
    aspect = (right - left) / (bottom - top)
    height = _MIN_HEIGHT * (_MAX_HEIGHT / _MIN_HEIGHT) ** (rng.random() if difficulty > 0 else 0.5)
    # Of columns of letters and narrow letters the width counts, of all others the height.
    height = round(max(_MIN_HEIGHT, min(height / min(1.0, 3 * aspect), _MAX_WIDTH / max(aspect, 1.0))))
    scale = height / (bottom - top)
    width = min(max(round(scale * (right - left)), 8), 1280)
    placed = np.array([[scale, 0, -scale * left], [0, scale, -scale * top], [0, 0, 1]])
    return placed @ matrix, (width, height)


def _beside_board(line: Line, matrix: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """What a crop of (width, height) shows beside the board that carries the text: float32 ``(h, w)``, 1 there.

    The board's edges run along the text, so that a crop of a slanting word has corners of something else.
    """
    x0, y0, x1, y1 = line.box
    left, top, right, bottom = CAPITAL_HEIGHT * (0.08 + 0.7 * rng.random(4))
    xs, ys = [x0 - left, x1 + right, x1 + right, x0 - left], [y0 - top, y0 - top, y1 + bottom, y1 + bottom]
    seen = matrix @ np.array([xs, ys, [1, 1, 1, 1]])
    beside = np.full((size[1], size[0]), 255, np.uint8)
    corners = np.round(16 * seen[:2] / seen[2]).T.astype(np.int32)
    cv2.fillConvexPoly(beside, corners, 0, cv2.LINE_AA, shift=4)  # in sixteenths of a pixel
    return beside.astype(np.float32) * np.float32(1 / 255)


def _paint(
    alpha: np.ndarray, beside: np.ndarray | None, scale: float, difficulty: float, rng: np.random.Generator
) -> np.ndarray:
    """Colour a mask, float32 in 0..1: the letters ``(h, w)``, or letters and outline ``(h, w, 2)``.

    Where ``beside`` ``(h, w)`` is 1 the ground is another one.

    Returns float32 RGB ``(h, w, 3)``.
    """
    ink, paper = draw_colours(difficulty, rng)
    height, width = alpha.shape[:2]
    contrast = abs(luma(ink) - luma(paper))
    picture = paint_background(height, width, paper, contrast, difficulty, rng)
    if beside is not None:
        other = draw_colours(difficulty, rng)[int(2 * rng.random())]
        picture += (paint_background(height, width, other, contrast, difficulty, rng) - picture) * beside[:, :, None]
    letters, widest = (np.atleast_3d(alpha)[:, :, layer] for layer in (0, -1))
    if rng.random() < 0.12 * difficulty:  # solid letters, whose sides show
        _blend(picture, ink * rng.uniform(0.2, 0.7) if rng.random() < 0.7 else 0.5 * (ink + paper), _sides(widest, rng))
    elif rng.random() < 0.2 * difficulty:  # a shadow
        shift = 1 + 3 * scale * rng.random(2)
        move = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float32)
        shadow = cv2.warpAffine(widest, move, (width, height))
        if rng.random() < 0.6:
            shadow = cv2.GaussianBlur(shadow, (0, 0), 0.6 + 2 * scale * rng.random())
        shade = 0.3 * paper if luma(ink) > luma(paper) else 0.5 * (ink + paper)
        _blend(picture, shade, np.asarray(shadow) * np.float32(rng.uniform(0.4, 1)))
    if alpha.ndim == 3:
        dark = luma(ink) > 128
        edge = 80 * rng.random(3) + (0 if dark else 175)
        if rng.random() < 0.15:  # hollow letters
            edge, ink = ink, paper
        _blend(picture, edge, widest)
    if rng.random() < 0.2 * difficulty:  # worn or shaded paint
        worn = cut_noise(max(2, height // 8), max(2, width // 8), rng)[:, :, :1]
        texture = cv2.resize(np.ascontiguousarray(worn), (width, height))[:, :, None]
        picture += (ink + min(25.0, 0.2 * contrast) * difficulty * texture - picture) * letters[:, :, None]
    elif rng.random() < 0.1 * difficulty:  # metal, or light from above
        other = np.clip(ink + rng.choice([-1, 1]) * min(90.0, 0.5 * contrast) * rng.random(), 0, 255)
        down = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
        picture += (ink + (other - ink).astype(np.float32) * down - picture) * letters[:, :, None]
    else:
        _blend(picture, ink, letters)
    return picture


def _sides(alpha: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Where the sides of solid letters show, float32 ``(h, w)``: up to a seventh of the picture's height deep."""
    height, width = alpha.shape
    reach = height * rng.uniform(0.03, 0.14) * np.array([rng.choice([-1, 1]), rng.uniform(-0.3, 1)])
    steps = max(1, int(np.ceil(np.abs(reach).max())))
    sides = alpha
    for step in range(1, steps + 1):
        move = np.array([[1, 0, reach[0] * step / steps], [0, 1, reach[1] * step / steps]])
        sides = np.maximum(sides, cv2.warpAffine(alpha, move, (width, height)))
    return np.asarray(sides)


def _cover(picture: np.ndarray, rng: np.random.Generator) -> None:
    """Draw something thin in front of a picture, in place: wires, posts, branches. It hides no letter."""
    height, width = picture.shape[:2]
    colour = draw_colours(1.0, rng)[int(2 * rng.random())]
    cover = np.zeros((height, width), np.uint8)
    for _ in range(1 + int(3 * rng.random() ** 2)):
        thickness = max(1, round(height * 0.11 * rng.random() ** 1.5))
        if rng.random() < 0.5:  # across
            ends = (0, height * rng.uniform(-0.2, 1.2)), (width, height * rng.uniform(-0.2, 1.2))
        else:  # down
            x = width * rng.random()
            ends = (x, 0), (x + height * rng.uniform(-0.7, 0.7), height)
        start, end = ([round(16 * value) for value in point] for point in ends)
        cv2.line(cover, start, end, 255, thickness, cv2.LINE_AA, shift=4)
    _blend(picture, colour, cover.astype(np.float32) * np.float32(1 / 255))


def _blend(picture: np.ndarray, colour: np.ndarray, alpha: np.ndarray) -> None:
    """Lay ``colour`` over ``picture`` in place where ``alpha`` ``(h, w)`` says so."""
    picture += (colour.astype(np.float32) - picture) * alpha[:, :, None]
