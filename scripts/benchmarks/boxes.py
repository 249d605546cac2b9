"""Measures where characters are said to be: python scripts/benchmarks/boxes.py --checkpoint maerec_tiny

Rendered words of which the true boxes are known are read; of those that are read right, the boxes of the characters are
compared with the true ones by their intersection over union (IoU).
"""

import sys
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table

from data_pipelines.command import run_command
from data_pipelines.rendering import RenderedWords
from data_pipelines.rendering.fonts import find_fonts
from data_pipelines.rendering.picture import render_located
from maerec_jax import ReadingConfig, Recognizer

CONSOLE = Console(width=None if sys.stdout.isatty() else 100, markup=False, highlight=False)


@dataclass(frozen=True)
class BoxArguments:
    """Compare the boxes of characters with the true ones of rendered words."""

    checkpoint: str = ""
    """Workdir, checkpoint, .safetensors file, or built-in model; default: maerec_tiny."""
    words: int = 200
    """Words of each difficulty."""
    difficulties: tuple[float, ...] = (0.0, 0.35, 1.0)
    """Difficulties of the rendered words."""


def overlap(boxes_N4: np.ndarray, true_N4: np.ndarray) -> np.ndarray:
    """The IoU of each box with its true one, float64 (N)."""

    def area(low_N2: np.ndarray, high_N2: np.ndarray) -> np.ndarray:
        return (high_N2 - low_N2).clip(0).prod(axis=1)

    (low, high), (true_low, true_high) = (np.hsplit(each, 2) for each in (boxes_N4, true_N4))
    common = area(np.maximum(low, true_low), np.minimum(high, true_high))
    return common / (area(low, high) + area(true_low, true_high) - common)


def measure(arguments: BoxArguments) -> int:
    recognizer = Recognizer.load(arguments.checkpoint or None, ReadingConfig(boxes=True))
    charset = recognizer.reader.config.charset
    characters = "".join(c for c in charset.characters if c.isalnum() and charset.spell(c) == c)
    table = Table("difficulty", "words", "read right", "characters", "mean IoU", "IoU of 0.5 and more (%)")
    for difficulty in arguments.difficulties:
        spec = RenderedWords(size=arguments.words, split="validation", characters=characters, difficulty=difficulty)
        source = spec.open()
        texts = [source.text(index) for index in range(len(source))]
        fonts, seeds = find_fonts(None), np.random.SeedSequence(1).spawn(len(texts))
        drawn = [
            render_located(text, fonts, difficulty, np.random.default_rng(seed))
            for text, seed in zip(texts, seeds, strict=True)
        ]
        words = recognizer.read([picture for picture, _ in drawn])
        found = [
            overlap(np.array(word.character_boxes), true_N4)
            for text, word, (_, true_N4) in zip(texts, words, drawn, strict=True)
            if word.text == text and len(true_N4) == len(text)
        ]
        overlaps = np.concatenate([*found, np.zeros(0)])
        numbers = (f"{overlaps.mean():.3f}", f"{100 * (overlaps >= 0.5).mean():.0f}") if found else ("-", "-")
        table.add_row(str(difficulty), str(len(texts)), str(len(found)), str(len(overlaps)), *numbers)
    CONSOLE.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(BoxArguments, measure, "python scripts/benchmarks/boxes.py"))
