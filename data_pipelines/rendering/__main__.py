"""Draw rendered words, on a sheet or as files: ``python -m data_pipelines.rendering --out sheet.png``."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import tyro
from PIL import Image, ImageDraw

from data_pipelines.command import main_of
from data_pipelines.errors import DataError, RecordError
from data_pipelines.images.decoding import DecodeError, pixels_of
from data_pipelines.images.resizing import resize_image
from data_pipelines.rendering.captions import caption_font
from data_pipelines.rendering.source import RenderedSource, RenderedWords
from data_pipelines.sources.files import Annotations
from data_pipelines.sources.records import Record, Source

_CELL_WIDTH, _PICTURE_HEIGHT, _LABEL_HEIGHT = 200, 64, 18


@dataclass(frozen=True)
class _Words(RenderedWords):
    """Rendered words, without what only a place among other sources gives a meaning."""

    kind: tyro.conf.Suppress[Literal["rendered"]] = "rendered"
    weight: tyro.conf.Suppress[float | None] = field(default=None, kw_only=True)


@dataclass(frozen=True)
class Drawing:
    """Draw words for training: as one sheet with labels to look at, or as image files.

    Sheet: --out sheet.png --difficulty 0.5

    Sheet beside real words: --out sheet.png --difficulty 0.7 --data ROOT --beside LIST

    Files: --folder words --count 100
    """

    out: str = ""
    """Picture file for a sheet of words, for example sheet.png."""
    folder: str = ""
    """Folder for one PNG file per word, with a labels.jsonl."""
    beside: str = ""
    """Annotation list of real words, shown in every other row of the sheet."""
    data: str = "."
    """Data root that the path of --beside is relative to."""
    count: int = 64
    """Number of words to draw."""
    columns: int = 8
    """Words per row of the sheet."""
    words: tyro.conf.OmitArgPrefixes[_Words] = field(default_factory=_Words)
    """Which words to draw."""


def draw_sheet(source: RenderedSource, count: int, columns: int, beside: Source | None = None) -> Image.Image:
    """The first ``count`` records in rows, each shrunk or enlarged to fit its cell, with the label below.

    Below each row comes one with as many of ``beside``, which are taken from all of it.
    """
    count = min(count, len(source))
    shown = [(source[i], i // columns * (1 if beside is None else 2), i % columns) for i in range(count)]
    if beside is not None:
        # Of lists with fewer words all are shown once.
        others = np.linspace(0, len(beside), min(count, len(beside)), endpoint=False, dtype=int)
        shown += [(_readable(beside, int(n)), i // columns * 2 + 1, i % columns) for i, n in enumerate(others)]
    rows = 1 + max(row for _, row, _ in shown)
    sheet = Image.new("RGB", (columns * _CELL_WIDTH, rows * (_PICTURE_HEIGHT + _LABEL_HEIGHT)), "white")
    pen = ImageDraw.Draw(sheet)
    for record, row, column in shown:
        pixels = np.asarray(record.image)
        height, width = pixels.shape[:2]
        scale = min((_CELL_WIDTH - 8) / width, (_PICTURE_HEIGHT - 4) / height)
        fitting = resize_image(pixels, max(1, round(height * scale)), max(1, round(width * scale)), "bilinear")
        x, y = column * _CELL_WIDTH, row * (_PICTURE_HEIGHT + _LABEL_HEIGHT)
        sheet.paste(Image.fromarray(fitting), (x, y))
        label = record.text or ""
        pen.text((x, y + _PICTURE_HEIGHT - 2), label, "red", caption_font(label, 12, source.font_folder))
    return sheet


def _readable(source: Source, index: int) -> Record:
    """A record, decoded. Raises ``DataError`` with its name where it cannot be."""
    try:
        return Record(pixels_of(source[index]), source.text(index))
    except (DecodeError, RecordError) as error:
        reason = str(error)
        raise DataError(reason if source.name(index) in reason else f"{source.name(index)}: {reason}") from error


def write_files(source: RenderedSource, count: int, folder: Path) -> None:
    """Write the first ``count`` records as 000000.png and so on, and their labels in mmocr's jsonl format."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "labels.jsonl").open("w") as labels:
        for i in range(min(count, len(source))):
            record = source[i]
            Image.fromarray(np.asarray(record.image)).save(folder / f"{i:06d}.png")
            labels.write(json.dumps({"filename": f"{i:06d}.png", "text": record.text}, ensure_ascii=False) + "\n")


def draw(options: Drawing) -> int:
    """Write what was asked for; returns the exit status. Raises ``DataError`` where nothing was."""
    if options.count < 1 or options.columns < 1:
        raise DataError("--count and --columns must be at least 1")
    if not options.out and not options.folder:
        raise DataError("nothing to write: give --out or --folder")
    if options.beside and not options.out:
        raise DataError("--beside needs --out, the sheet that shows these words")
    beside = Annotations(options.beside).open(Path(options.data)) if options.beside else None
    source = options.words.open()
    if options.out:
        Path(options.out).parent.mkdir(parents=True, exist_ok=True)
        draw_sheet(source, options.count, options.columns, beside).save(options.out)
        print(f"wrote {options.out}")
    if options.folder:
        write_files(source, options.count, Path(options.folder))
        print(f"wrote {min(options.count, len(source))} words to {options.folder}")
    return 0


main = main_of(Drawing, draw, "data_pipelines.rendering")

if __name__ == "__main__":
    sys.exit(main())
