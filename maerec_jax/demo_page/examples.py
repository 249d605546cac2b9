"""Examples for visitors, drawn when the demo starts: words as the training data have them, and a small street scene."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from data_pipelines.rendering import RenderedWords
from data_pipelines.rendering.fonts import Face, Fonts, find_fonts
from data_pipelines.rendering.layout import Line, bend, draw_line
from data_pipelines.rendering.picture import render

Mode = Literal["word", "scene"]
"""What a picture shows: one word, or a whole scene with words in it."""

_HEIGHT, _WIDTH = 640, 960
# The seed of each picture: those were chosen that look different.
_WORDS = ((1, "Espresso"), (0, "PARKING"), (4, "garden"), (6, "Sunday"), (3, "B-2047"), (7, "Theatre"), (5, "Welcome!"))
# Text, its middle, height of its letters, corners' shift (a board that is seen from the side), arc, ink, board.
_SIGNS: tuple[
    tuple[str, tuple[int, int], int, float, float, tuple[int, int, int], tuple[int, int, int] | None], ...
] = (
    ("Bakery", (300, 130), 74, 0.0, 0.5, (255, 244, 214), (122, 48, 38)),
    ("HOTEL", (760, 120), 60, 0.12, 0.0, (24, 32, 52), (238, 196, 72)),
    ("fresh", (150, 330), 40, 0.0, 0.0, (52, 66, 60), None),
    ("bread", (330, 330), 40, 0.0, 0.0, (52, 66, 60), None),
    ("daily", (500, 330), 40, 0.0, 0.0, (52, 66, 60), None),
    ("Coffee", (250, 500), 52, -0.1, 0.0, (246, 240, 228), (36, 78, 74)),
    ("EXIT", (560, 500), 40, 0.0, 0.0, (250, 250, 250), (30, 118, 66)),
    ("Books", (790, 330), 46, -0.12, 0.0, (250, 236, 220), (62, 56, 110)),
    ("2026", (790, 520), 56, 0.0, 0.0, (44, 44, 48), (226, 226, 220)),
)


@dataclass(frozen=True, eq=False)
class Example:
    """A picture to try."""

    name: str
    """What it is called."""
    mode: Mode
    """What it shows."""
    pixels: np.ndarray
    """uint8 RGB (height, width, 3)."""


def draw_examples(characters: str, scenes: bool) -> list[Example]:
    """Draw a scene, if wanted, and words.

    Args:
      characters: what the recogniser can read: the examples hold no others.
      scenes: whether scenes can be read.

    Raises:
      DataError: where no font can draw any words of these characters.
    """
    fonts, examples = find_fonts(None), []
    if scenes:
        examples.append(Example("street.png", "scene", draw_scene(characters)))
    for seed, word in _WORDS:
        text = _writable(word, characters)
        if text is not None:
            pixels = render(text, fonts, 0.7, np.random.default_rng(seed))
            examples.append(Example(f"word {len(examples) + 1 - scenes}.png", "word", pixels))
    if not examples[scenes:]:  # characters of another script
        source = RenderedWords(characters=characters, max_length=8, difficulty=0.5).open()
        drawn = (np.asarray(source[i].image) for i in range(6))
        examples += [Example(f"word {i}.png", "word", pixels) for i, pixels in enumerate(drawn, 1)]
    return examples


def _writable(word: str, characters: str) -> str | None:
    """The word in a case that can be written with the characters, if there is one."""
    return next((t for t in (word, word.lower(), word.upper()) if set(t) <= set(characters)), None)


def draw_scene(characters: str) -> np.ndarray:
    """A wall with signs, of those words that can be written with the characters, in some case.

    Returns:
      uint8 RGB (height, width, 3).
    """
    rng = np.random.default_rng(11)
    scene = _wall(rng)
    fonts = find_fonts(None)
    for number, (word, middle, height, slant, arc, ink, board) in enumerate(_SIGNS):
        text = _writable(word, characters)
        if text is not None:
            line = draw_line(text, _bold(fonts, text, number), 2.0, 0.0, rng)
            _put(scene, bend(line, arc) if arc else line, middle, height, slant, (ink, board))
    shade = np.linspace(1.04, 0.86, _HEIGHT, dtype=np.float32)[:, None, None]
    noise = 3 * rng.standard_normal((_HEIGHT, _WIDTH, 1), dtype=np.float32)
    return cv2.GaussianBlur(np.clip(scene * shade + noise, 0, 255).astype(np.uint8), (0, 0), 0.6)


def _bold(fonts: Fonts, text: str, seed: int) -> Face:
    """A font for signs: a bold one that can draw the text, if there is one."""
    drawn = [fonts.draw(text, np.random.default_rng((seed, i))) for i in range(40)]
    return next((face for face in drawn if "Bold" in face.style), drawn[0])


def _wall(rng: np.random.Generator) -> np.ndarray:
    """Bricks in the light of the morning, float32 RGB, with a pavement below."""
    wall = np.empty((_HEIGHT, _WIDTH, 3), np.float32)
    wall[:] = (206, 196, 182)
    for row, y in enumerate(range(0, _HEIGHT, 32)):
        for x in range(-40 * (row % 2), _WIDTH, 80):
            tone = np.float32(7 * rng.standard_normal())
            wall[y + 2 : y + 32, max(x + 2, 0) : x + 80] += tone
            wall[y : y + 2, max(x, 0) : x + 80] -= 14
    wall[590:] = (128, 126, 124)
    return wall


def _put(
    scene: np.ndarray,
    line: Line,
    middle: Sequence[int],
    height: int,
    slant: float,
    colours: tuple[Sequence[int], Sequence[int] | None],
) -> None:
    """Hang a line of text on the wall, in place: its board and its letters, seen a little from the side."""
    x0, y0, x1, y1 = line.box
    scale = height / max(y1 - y0, 1)
    half = np.array([(x1 - x0) * scale / 2, height / 2])
    ink, board = colours
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
    if board is not None:
        placed = _seen(corners + np.sign(corners) * 0.42 * height, slant, middle)
        cv2.fillConvexPoly(scene, (placed + 5).round().astype(np.int32), (120, 112, 104), cv2.LINE_AA)
        cv2.fillConvexPoly(scene, placed.round().astype(np.int32), tuple(map(float, board)), cv2.LINE_AA)
    source = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float32)
    matrix = cv2.getPerspectiveTransform(source, _seen(corners, slant, middle).astype(np.float32))
    alpha = cv2.warpPerspective(line.mask, matrix, (_WIDTH, _HEIGHT), flags=cv2.INTER_CUBIC)[..., None] / np.float32(
        255
    )
    scene += alpha * (np.array(ink, np.float32) - scene)


def _seen(corners: np.ndarray, slant: float, middle: Sequence[int]) -> np.ndarray:
    """Corners (4, 2) around 0 as they are seen: one side lower than the other, about ``middle``."""
    return np.column_stack([corners[:, 0], corners[:, 1] + slant * corners[:, 0]]) + np.array(middle)
