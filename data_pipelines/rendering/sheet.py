"""Sheets of word images with captions, to look at."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from data_pipelines.images.resizing import resize_image
from data_pipelines.rendering.captions import caption_font

_CELL_WIDTH, _PICTURE_HEIGHT, _LABEL_HEIGHT = 200, 64, 18


def sheet_of(
    cells: Mapping[tuple[int, int], tuple[np.ndarray, str]], columns: int, fonts: Path | None = None
) -> Image.Image:
    """A sheet of images, uint8 RGB ``(h, w, 3)``, each shrunk or enlarged to fit its cell, with its caption below.

    ``cells`` has them by row and column; ``fonts`` is for ``caption_font``.
    """
    rows = 1 + max(row for row, _ in cells)
    sheet = Image.new("RGB", (columns * _CELL_WIDTH, rows * (_PICTURE_HEIGHT + _LABEL_HEIGHT)), "white")
    pen = ImageDraw.Draw(sheet)
    for (row, column), (pixels, caption) in cells.items():
        height, width = pixels.shape[:2]
        scale = min((_CELL_WIDTH - 8) / width, (_PICTURE_HEIGHT - 4) / height)
        fitting = resize_image(pixels, max(1, round(height * scale)), max(1, round(width * scale)), "bilinear")
        x, y = column * _CELL_WIDTH, row * (_PICTURE_HEIGHT + _LABEL_HEIGHT)
        sheet.paste(Image.fromarray(fitting), (x, y))
        pen.text((x, y + _PICTURE_HEIGHT - 2), caption, "red", caption_font(caption, 12, fonts))
    return sheet
