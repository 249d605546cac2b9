"""Draw rendered words, on a sheet or as files: ``python -m data_pipelines.rendering --out sheet.png``."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import tyro
from PIL import Image

from data_pipelines.command import main_of
from data_pipelines.errors import DataError, RecordError
from data_pipelines.images.decoding import DecodeError, pixels_of
from data_pipelines.rendering.sheet import sheet_of
from data_pipelines.rendering.source import RenderedSource, RenderedWords
from data_pipelines.sources.files import Annotations
from data_pipelines.sources.records import Record, Source


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
    count, step = min(count, len(source)), 1 if beside is None else 2
    shown = {(i // columns * step, i % columns): source[i] for i in range(count)}
    if beside is not None:
        # Of lists with fewer words all are shown once.
        others = np.linspace(0, len(beside), min(count, len(beside)), endpoint=False, dtype=int)
        shown |= {(i // columns * 2 + 1, i % columns): _readable(beside, int(n)) for i, n in enumerate(others)}
    cells = {place: (np.asarray(record.image), record.text or "") for place, record in shown.items()}
    return sheet_of(cells, columns, source.font_folder)


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
