"""Draw the pictures of README and docs: words and a street of rendered signs, and what the built-in weights read there.

python scripts/readme_pictures.py docs/pictures      (needs the extra [detect])
"""

import sys
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from data_pipelines.rendering.fonts import find_fonts
from data_pipelines.rendering.picture import render
from data_pipelines.rendering.scene import compose_scene
from maerec_jax import Recognizer
from maerec_jax.reading.pictures import confidence_colour, save_picture
from maerec_jax.scenes.detection import load_detector
from maerec_jax.scenes.drawing import annotated_scene
from maerec_jax.scenes.scene_reader import SceneReader

WORDS = ("Espresso", "PARKING", "garden", "B-2047", "Theatre", "Welcome!", "EXIT", "24 Hours", "Sunday", "RESTAURANT")
SIGNS = ("Bakery", "HOTEL", "Coffee", "Books", "Market", "PARKING", "fresh", "2026", "EXIT", "Museum", "Theatre")
CELL = (236, 62)  # width and height of a word in the strip
COLUMNS, GAP, LINE = 5, 14, 30


def drawn(texts: tuple[str, ...], difficulty: float, seed: int) -> list[np.ndarray]:
    """Each text as the renderer draws it for training; uint8 RGB."""
    rng = np.random.default_rng(seed)
    return [render(text, find_fonts(None), difficulty, rng) for text in texts]


def strip_of(words: list[np.ndarray], recognizer: Recognizer) -> np.ndarray:
    """The words in rows, with text and confidence below each: coloured by confidence, red where it is wrong."""
    rows = -(-len(words) // COLUMNS)
    size = (COLUMNS * (CELL[0] + GAP) + GAP, rows * (CELL[1] + LINE + GAP) + GAP)
    strip, large, small = Image.new("RGB", size, "white"), ImageFont.load_default(19), ImageFont.load_default(13)
    draw = ImageDraw.Draw(strip)
    for number, (image, word) in enumerate(zip(words, recognizer.read(words), strict=True)):
        x, y = (
            GAP + place * (step + GAP)
            for place, step in zip((number % COLUMNS, number // COLUMNS), (CELL[0], CELL[1] + LINE), strict=True)
        )
        shown = ImageOps.contain(Image.fromarray(image), CELL)
        strip.paste(shown, (x, y + CELL[1] - shown.height))
        colour = confidence_colour(word.confidence) if word.text == WORDS[number] else "red"
        draw.text((x, y + CELL[1] + 4), word.text, colour, large)
        draw.text((x + draw.textlength(word.text, large) + 8, y + CELL[1] + 9), f"{word.confidence:.0%}", "grey", small)
    return np.asarray(strip)


def street(seed: int) -> np.ndarray:
    """Signs of several sizes on a blurred ground; uint8 RGB."""
    rng = np.random.default_rng(seed)
    heights = rng.integers(48, 110, len(SIGNS))
    signs = [
        cv2.resize(image, (round(image.shape[1] * height / image.shape[0]), int(height)), interpolation=cv2.INTER_CUBIC)
        for image, height in zip(drawn(SIGNS, 0.4, seed), heights, strict=True)
    ]
    return compose_scene(signs, 480, 1200, rng, slant=8, fade=0.3).image


def main(folder: Path) -> None:
    """Write words.png, street.jpg and street_read.jpg."""
    recognizer = Recognizer.load()
    save_picture(strip_of(drawn(WORDS, 0.6, 3), recognizer), folder / "words.png")
    image = street(2)
    save_picture(image, folder / "street.jpg")
    scene = SceneReader(recognizer, load_detector()).read(folder / "street.jpg")
    save_picture(annotated_scene(image, scene), folder / "street_read.jpg")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python scripts/readme_pictures.py FOLDER")
    main(Path(sys.argv[1]))
