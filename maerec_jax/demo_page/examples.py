"""Examples for visitors, drawn when the demo starts: words as the training data have them, and a wall of signs."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data_pipelines.rendering import RenderedWords
from data_pipelines.rendering.fonts import find_fonts
from data_pipelines.rendering.picture import render

# The seed of each picture: those were chosen that look different, and show the whole word.
_WORDS = (
    (1, "Espresso"), (9, "PARKING"), (4, "garden"), (8, "Sunday"), (3, "B-2047"), (11, "Theatre"), (2, "Welcome!"),
)  # fmt: skip
# Text, its middle, size of its font, colours of its letters and of its board.
_SIGNS = (
    ("Bakery", (250, 130), 92, "#fff4d6", "#7a3026"),
    ("HOTEL", (720, 120), 80, "#182034", "#eec448"),
    ("fresh", (110, 330), 56, "#34423c", "#cec4b6"),
    ("bread", (330, 330), 56, "#34423c", "#cec4b6"),
    ("daily", (540, 330), 56, "#34423c", "#cec4b6"),
    ("Coffee", (200, 510), 70, "#f6f0e4", "#244e4a"),
    ("EXIT", (480, 510), 56, "#fafafa", "#1e7642"),
    ("Books", (820, 320), 64, "#faecdc", "#3e386e"),
    ("2026", (780, 520), 76, "#2c2c30", "#e2e2dc"),
)

Example = tuple[np.ndarray, str]
"""A picture to try, uint8 RGB (height, width, 3), and its name."""


def draw_examples(characters: str, scenes: bool) -> list[Example]:
    """Draw a scene, if wanted, and words, which hold no other characters than those given.

    Raises:
      DataError: where no font can draw any words of these characters.
    """
    fonts = find_fonts(None)
    texts = [(seed, text) for seed, word in _WORDS if (text := _writable(word, characters))]
    drawn = [render(text, fonts, 0.7, np.random.default_rng(seed)) for seed, text in texts]
    if not drawn:  # characters of another script
        source = RenderedWords(characters=characters, max_length=8, difficulty=0.5).open()
        images = [np.asarray(source[i].image) for i in range(24)]
        drawn = sorted(images, key=lambda pixels: pixels.shape[0] / pixels.shape[1])[:7]  # no upright slivers
    examples = [(draw_scene(characters), "street.png")] if scenes else []
    return examples + [(pixels, f"word {i}.png") for i, pixels in enumerate(drawn, 1)]


def _writable(word: str, characters: str) -> str | None:
    """The word in a case that can be written with the characters, if there is one."""
    return next((t for t in (word, word.lower(), word.upper()) if set(t) <= set(characters)), None)


def draw_scene(characters: str) -> np.ndarray:
    """A wall, uint8 RGB (height, width, 3), with signs of those words that the characters can write, in some case."""
    wall = Image.new("RGB", (960, 640), "#cec4b6")
    draw = ImageDraw.Draw(wall)
    for word, middle, size, ink, board in _SIGNS:
        if text := _writable(word, characters):
            font = ImageFont.load_default(size)
            left, top, right, bottom = draw.textbbox(middle, text, font=font, anchor="mm")
            draw.rectangle((left - size / 3, top - size / 3, right + size / 3, bottom + size / 3), board)
            draw.text(middle, text, ink, font, anchor="mm")
    return np.asarray(wall)
