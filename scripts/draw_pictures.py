"""Draw pictures with words in them, and their annotations, to try tools with: python scripts/draw_pictures.py

Writes FOLDER/000.jpg and so on: rendered words on a smooth background, eight of them in each picture; and their
corners and texts as PPOCRLabel writes them, FOLDER/Label.txt.
"""

import argparse
import json
from pathlib import Path

import cv2
import numpy as np

from data_pipelines.rendering.source import RenderedWords

HEIGHT, WIDTH = 480, 640
ROWS, COLUMNS = 4, 2
WORD_HEIGHT, LONGEST = 60, 280


def draw(picture: int) -> tuple[np.ndarray, list[dict]]:
    """Picture number ``picture``, uint8 RGB, and its words."""
    rng = np.random.default_rng(picture)
    image = cv2.resize(rng.integers(60, 200, (6, 8, 3), np.uint8), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    words = []
    source = RenderedWords(size=(picture + 1) * ROWS * COLUMNS, difficulty=0.2).open()
    for place in range(ROWS * COLUMNS):
        word = source[picture * ROWS * COLUMNS + place]
        height, width = np.asarray(word.image).shape[:2]
        w, h = min(LONGEST, round(width * WORD_HEIGHT / height)), WORD_HEIGHT
        left = place % COLUMNS * (WIDTH // COLUMNS) + int(rng.integers(0, WIDTH // COLUMNS - w))
        top = place // COLUMNS * (HEIGHT // ROWS) + int(rng.integers(0, HEIGHT // ROWS - h))
        image[top : top + h, left : left + w] = cv2.resize(np.asarray(word.image), (w, h), interpolation=cv2.INTER_AREA)
        corners = [[left, top], [left + w, top], [left + w, top + h], [left, top + h]]
        words.append({"transcription": word.text, "points": corners, "difficult": False})
    return image, words


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("pictures"), help="where to write them")
    parser.add_argument("--count", type=int, default=50, help="number of pictures")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with (arguments.folder / "Label.txt").open("w", encoding="utf-8") as labels:
        for number in range(arguments.count):
            image, words = draw(number)
            name = f"{number:03d}.jpg"
            cv2.imwrite(str(arguments.folder / name), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
            labels.write(f"{name}\t{json.dumps(words, ensure_ascii=False)}\n")


if __name__ == "__main__":
    main()
