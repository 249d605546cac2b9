"""Pictures of words and what was read in them, drawn with Pillow."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from data_pipelines.charset import UNKNOWN_TEXT
from data_pipelines.rendering.captions import caption_font
from data_pipelines.rendering.shaping import needs_shaping
from maerec_jax.reading.boxes import Box

_SCALE = 2
_LINE = 18
_MARGIN = 6
_COLUMNS = 4  # words in a row of a sheet
_PICTURE = (640, 160)  # width and height that an annotated picture's image may have
_OUTLINE = (79, 70, 229)
_PANEL = (176, 72)  # and each of the images with a map over it


def save_picture(image: np.ndarray, path: str | Path) -> None:
    """Write uint8 RGB (height, width, 3) to an image file, making its folder."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def readings_sheet(images: Sequence[np.ndarray], samples: Sequence[dict[str, Any]]) -> np.ndarray | None:
    """Words with their readings below: black where right, red (and the label in grey) where wrong.

    ``samples`` hold for each image ``text`` (the label, or None), ``reading`` and ``confidence``. All images, and what
    is returned, are uint8 RGB (height, width, 3); without any it is None.
    """
    if not images:
        return None
    height, width = (_SCALE * max(image.shape[axis] for image in images) for axis in (0, 1))
    cell_h, cell_w = height + 2 * _LINE + _MARGIN, width + _MARGIN
    rows = -(-len(images) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * cell_w + _MARGIN, rows * cell_h + _MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (image, sample) in enumerate(zip(images, samples, strict=True)):
        x, y = _MARGIN + i % _COLUMNS * cell_w, _MARGIN + i // _COLUMNS * cell_h
        shown = ImageOps.scale(Image.fromarray(image), _SCALE)
        sheet.paste(shown, (x, y + height - shown.height))
        right = sample["text"] is None or sample["reading"] == sample["text"]
        reading = f"{sample['reading'] or '(nothing)'}  {sample['confidence']:.0%}"
        _write(draw, (x, y + height), reading, "black" if right else "red", width)
        if not right:
            _write(draw, (x, y + height + _LINE), sample["text"], "grey", width)
    return np.asarray(sheet)


def _write(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, colour: str, width: int) -> None:
    font = caption_font(text, 14)
    while len(text) > 1 and draw.textlength(text, font=font) > width:
        text = text[:-2] + "…"
    draw.text(place, text, fill=colour, font=font)


def annotated_picture(
    image: np.ndarray,
    text: str,
    confidence: float,
    character_confidences: Sequence[float],
    attention_TRC: np.ndarray | None = None,
) -> np.ndarray:
    """An image with what was read in it: each character with its confidence, from orange (0 %) to dark blue (100 %).

    Images, of any size, and the result are uint8 RGB (height, width, 3); confidences go from 0 to 1. With the maps of
    ``Recognizer.attention``, (characters, rows, columns), the image is shown once more for each character, in grey,
    with the map in colours over it: dark where the model did not look, and light where it looked most for it.

    Raises:
      ValueError: where there are more or fewer confidences or maps than characters.
    """
    characters = characters_of(text, len(character_confidences))
    parts = [_fitted(image, *_PICTURE), _reading(characters, confidence, character_confidences)]
    if needs_shaping(text):  # what follows shows its characters one by one
        parts.insert(1, _whole(text, confidence))
    if attention_TRC is not None and characters:
        parts.append(_panels(image, characters, character_confidences, attention_TRC))
    width = max(part.width for part in parts) + 2 * _MARGIN
    sheet = Image.new("RGB", (width, sum(part.height + _MARGIN for part in parts) + _MARGIN), "white")
    y = _MARGIN
    for part in parts:
        sheet.paste(part, (_MARGIN, y))
        y += part.height + _MARGIN
    return np.asarray(sheet)


def outlined(image: np.ndarray, boxes: Sequence[Box]) -> np.ndarray:
    """An image, uint8 RGB (height, width, 3), with outlines of boxes in it, as large as annotated pictures show it."""
    picture = _fitted(image, *_PICTURE)
    draw, scale = ImageDraw.Draw(picture), picture.width / image.shape[1]
    for left, top, right, bottom in boxes:
        draw.rectangle([scale * left, scale * top, scale * right, scale * bottom], outline=_OUTLINE)
    return np.asarray(picture)


def attention_picture(image: np.ndarray, map_RC: np.ndarray, width: int, height: int) -> Image.Image:
    """An image, uint8 RGB, in grey and as large as fits, with the attention map of one character in colours over it."""
    from matplotlib import colormaps  # takes as long as all else here to import, and training draws no colours

    grey = _fitted(image, width, height).convert("L")
    smooth = Image.fromarray(np.asarray(map_RC, np.float32)).resize(grey.size, Image.Resampling.BICUBIC)
    heat_HW = np.clip(np.asarray(smooth), 0, None)
    colours = Image.fromarray(colormaps["inferno"](heat_HW / max(heat_HW.max(), 1e-9), bytes=True)[..., :3])
    return Image.blend(grey.convert("RGB"), colours, 0.55)


def characters_of(text: str, number: int) -> list[str]:
    """The characters of a reading, of which there are ``number``; an unknown one is several letters of the text."""
    unknown, rest = divmod(len(text) - number, len(UNKNOWN_TEXT) - 1)
    if rest or not 0 <= unknown <= text.count(UNKNOWN_TEXT):
        raise ValueError(f"{number} confidences for the characters of {text!r}")
    *pieces, last = text.split(UNKNOWN_TEXT, unknown)
    return [character for piece in pieces for character in (*piece, UNKNOWN_TEXT)] + list(last)


def _fitted(image: np.ndarray, width: int, height: int) -> Image.Image:
    """An image as large as fits; portrait images may be twice as high."""
    height *= 2 if image.shape[0] > image.shape[1] else 1
    scale = min(width / image.shape[1], height / image.shape[0])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return Image.fromarray(image).resize(size, Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.LANCZOS)


def confidence_colour(confidence: float) -> tuple[int, int, int]:
    """Dark enough for white paper at all confidences, and told apart by those who cannot tell red from green."""
    from matplotlib import colormaps

    red, green, blue, _ = colormaps["plasma"](0.6 * (1 - confidence), bytes=True)
    return int(red), int(green), int(blue)


def _draw_character(draw: ImageDraw.ImageDraw, middle: float, y: int, character: str, size: int, colour: Any) -> None:
    """Draw a character; a space as a lying bracket."""
    if character == " ":
        left, right, bottom = middle - size / 4, middle + size / 4, y + size
        draw.line([(left, bottom - 5), (left, bottom), (right, bottom), (right, bottom - 5)], colour, 2)
    else:
        draw.text((middle, y), character, colour, caption_font(character, size), anchor="ma")


def _whole(text: str, confidence: float) -> Image.Image:
    """A text in one piece, as it is written."""
    font = caption_font(text, 30)
    part = Image.new("RGB", (max(1, round(font.getlength(text))), 44), "white")
    ImageDraw.Draw(part).text((0, 0), text, confidence_colour(confidence), font)
    return part


def _reading(characters: list[str], confidence: float, confidences: Sequence[float]) -> Image.Image:
    """The characters, their confidences below, and at the end that of the word; in lines where they are many."""
    large, small = caption_font("".join(characters), 30), caption_font("", 11)
    cells = [(c, f"{p:.0%}", confidence_colour(p)) for c, p in zip(characters, confidences, strict=True)]
    widths = [max(large.getlength(c), small.getlength(p)) + 6 for c, p, _ in cells]
    whole = f"{confidence:.1%}" if cells else "(nothing)"
    places, x, line, right = [], 0.0, 0, 0.0
    for width in [*widths, 12 + small.getlength(whole)]:
        if x and x + width > _PICTURE[0]:
            x, line = 0.0, line + 1
        places.append((x, line * 56))
        x += width
        right = max(right, x)
    part = Image.new("RGB", (int(right) + 1, line * 56 + 56), "white")
    draw = ImageDraw.Draw(part)
    for (character, percent, colour), width, (x, y) in zip(cells, widths, places, strict=False):
        _draw_character(draw, x + width / 2, y, character, 30, colour)
        draw.text((x + width / 2, y + 40), percent, colour, small, anchor="ma")
    draw.text((places[-1][0] + 6, places[-1][1] + 40), whole, "grey", small)
    return part


def _panels(
    image: np.ndarray, characters: list[str], confidences: Sequence[float], attention_TRC: np.ndarray
) -> Image.Image:
    """The image once for each character, with the map over it and the character to its left."""
    panels = [attention_picture(image, map_RC, *_PANEL) for map_RC in attention_TRC]
    beside = 30 if UNKNOWN_TEXT not in characters else 70
    cell_w, cell_h = beside + panels[0].width + _MARGIN, max(panels[0].height, 44) + _MARGIN
    columns = max(1, min(len(characters), (_PICTURE[0] + _MARGIN) // cell_w))
    rows = -(-len(characters) // columns)
    part = Image.new("RGB", (columns * cell_w, rows * cell_h), "white")
    draw = ImageDraw.Draw(part)
    for i, (character, confidence, panel) in enumerate(zip(characters, confidences, panels, strict=True)):
        x, y = i % columns * cell_w, i // columns * cell_h
        _draw_character(draw, x + beside / 2, y, character, 24, confidence_colour(confidence))
        draw.text((x + beside / 2, y + 32), f"{confidence:.0%}", "grey", caption_font("", 10), anchor="ma")
        part.paste(panel, (x + beside, y))
    return part
