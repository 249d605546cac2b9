"""Pictures for the log, drawn with Pillow."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_SCALE = 2
_LINE = 18
_MARGIN = 6


def save_picture(image: np.ndarray, path: str | Path) -> None:
    """Write uint8 RGB (height, width, 3) to an image file, making its folder."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def readings_sheet(
    images: Sequence[np.ndarray], samples: Sequence[dict[str, Any]], columns: int = 4
) -> np.ndarray | None:
    """Words with their readings below: black where right, red (and the label in grey) where wrong.

    Args:
      images: uint8 RGB (height, width, 3).
      samples: for each image ``text`` (the label, or None), ``reading`` and ``confidence``.
      columns: words in a row.

    Returns:
      uint8 RGB (height, width, 3), or None where there are no images.
    """
    if not images:
        return None
    height, width = (_SCALE * max(image.shape[axis] for image in images) for axis in (0, 1))
    cell_h, cell_w = height + 2 * _LINE + _MARGIN, width + _MARGIN
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * cell_w + _MARGIN, rows * cell_h + _MARGIN), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for i, (image, sample) in enumerate(zip(images, samples, strict=True)):
        x, y = _MARGIN + i % columns * cell_w, _MARGIN + i // columns * cell_h
        shown = Image.fromarray(image).resize(
            (image.shape[1] * _SCALE, image.shape[0] * _SCALE), Image.Resampling.BICUBIC
        )
        sheet.paste(shown, (x, y + height - shown.height))
        right = sample["text"] is None or sample["reading"] == sample["text"]
        reading = f"{sample['reading'] or '(nothing)'}  {sample['confidence']:.0%}"
        _write(draw, (x, y + height), reading, font, "black" if right else "red", width)
        if not right:
            _write(draw, (x, y + height + _LINE), sample["text"], font, "grey", width)
    return np.asarray(sheet)


def _write(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, font: Any, colour: str, width: int) -> None:
    while len(text) > 1 and draw.textlength(text, font=font) > width:
        text = text[:-2] + "…"
    draw.text(place, text, fill=colour, font=font)
