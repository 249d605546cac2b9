"""Draw a sheet of rendered words with their labels, to see what a model would learn from.

python -m data_pipelines.rendering --out sheet.png --difficulty 0.5
"""

from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import tyro
from PIL import Image, ImageDraw, ImageFont

from data_pipelines.records import DataError
from data_pipelines.rendering.source import RenderedSource, RenderedWords

_CELL_WIDTH, _PICTURE_HEIGHT, _LABEL_HEIGHT = 200, 64, 18


@dataclass(frozen=True)
class Sheet:
    """Draw a sheet of rendered words with their labels."""

    out: Path
    """The picture file to write, for example sheet.png."""
    count: int = 64
    """How many words to show."""
    columns: int = 8
    """Words in a row."""
    words: tyro.conf.OmitArgPrefixes[RenderedWords] = field(default_factory=RenderedWords)
    """Which words to draw."""


def draw_sheet(source: RenderedSource, count: int, columns: int) -> Image.Image:
    """The first ``count`` records in rows, each shrunk or enlarged to fit its cell, with the label below."""
    count = min(count, len(source))
    rows = -(-count // columns)
    sheet = Image.new("RGB", (columns * _CELL_WIDTH, rows * (_PICTURE_HEIGHT + _LABEL_HEIGHT)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for i in range(count):
        record = source[i]
        assert isinstance(record.image, np.ndarray)
        height, width = record.image.shape[:2]
        scale = min((_CELL_WIDTH - 8) / width, (_PICTURE_HEIGHT - 4) / height)
        shown = cv2.resize(record.image, (max(1, round(width * scale)), max(1, round(height * scale))))
        x, y = i % columns * _CELL_WIDTH, i // columns * (_PICTURE_HEIGHT + _LABEL_HEIGHT)
        sheet.paste(Image.fromarray(shown), (x, y))
        pen.text((x, y + _PICTURE_HEIGHT - 2), record.text or "", fill="red", font=font)
    return sheet


if __name__ == "__main__":
    options = tyro.cli(Sheet, description=__doc__)
    try:
        sheet = draw_sheet(options.words.open(), options.count, options.columns)
    except DataError as error:
        raise SystemExit(f"error: {error}") from None
    sheet.save(options.out)
    print(f"wrote {options.out}")
