"""Cut labelled words into labelled pieces: python scripts/cut_words.py --data ROOT --lists FILE ... --output pieces"""

import json
import shutil
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import PIL.Image
from rich.console import Console
from rich.progress import track

from maerec_jax.command import run_command

if TYPE_CHECKING:
    from data_pipelines.records import Source
    from maerec_jax.reading import Word
    from maerec_jax.recognizer import Recognizer

CONSOLE = Console(width=None if sys.stdout.isatty() else 120, soft_wrap=True)
_JITTER = 0.15  # of a character's width: how far a cut may be outwards, so that neighbours show at times
_SINGLE = 0.05  # of the pieces are of one character


@dataclass(frozen=True)
class CutArguments:
    """Make further training words of a small set of real ones: parts of words, cut out between characters.

    A model that trains on a few thousand real words learns them by heart. Parts of them are other labels on pixels as
    real, and have bits of cut-off neighbours at their edges. Where characters are is told by what a recogniser looks at
    when it writes them, in the words that it reads right. Of the pieces those are kept in which it reads their label,
    or mistakes one character for another. Everything that is left out is counted.

    Written are OUTPUT/images and the list OUTPUT/pieces.jsonl, which configs name like any other.
    """

    data: str
    """Data root."""
    lists: tuple[str, ...]
    """Annotation files of labelled words, relative to the data root. Never those that you measure with."""
    output: str = "pieces"
    """Folder to be made, relative to the data root."""
    checkpoint: str = ""
    """What reads: as for maerec_jax.predict; by default the weights of the package."""
    pieces: int = 4
    """The most pieces of a word."""
    seed: int = 0
    """Decides, with the place of a word, where it is cut."""
    batch_size: int = 64
    """Images at a time."""

    def __post_init__(self) -> None:
        if not self.lists:
            raise ValueError("name annotation files: --lists FILE ...")
        if self.pieces < 1 or self.batch_size < 1:
            raise ValueError("pieces and batch_size must be at least 1")


class Labelled(NamedTuple):
    """A word image with its label."""

    name: str
    pixels: np.ndarray
    text: str


def character_borders(map_TC: np.ndarray) -> np.ndarray | None:
    """Where characters meet.

    Args:
      map_TC: float (characters, columns), how much each character's attention went to each column of the image.

    Returns:
      float64 (characters + 1,), from 0 to 1, of the width; None where the places are not those of characters that stand
      one after the other.
    """
    count, columns = map_TC.shape
    sharp_TC = map_TC.astype(np.float64) ** 2  # what little goes to other characters counts less
    middle_T = sharp_TC @ (np.arange(columns) + 0.5) / sharp_TC.sum(axis=1) / columns
    apart = np.diff(middle_T)
    if apart.min() < 0.25 / count or apart.max() > 2.5 * np.median(apart):
        return None
    return np.concatenate([[0.0], (middle_T[1:] + middle_T[:-1]) / 2, [1.0]])


def cut(word: Labelled, borders: np.ndarray, pieces: int, seed: int) -> Iterator[Labelled]:
    """Up to ``pieces`` parts of a word, no two of them with the same label."""
    generator = np.random.default_rng((seed, zlib.crc32(word.name.encode())))
    length, width, seen = len(word.text), word.pixels.shape[1], {word.text}
    for _ in range(2 * pieces):
        count = 1 if generator.random() < _SINGLE else int(generator.integers(2, length))
        first = int(generator.integers(length - count + 1))
        text = word.text[first : first + count]
        jitter = _JITTER * generator.random(2) * (borders[first + count] - borders[first]) / count
        left = int(max(0.0, borders[first] - jitter[0]) * width)
        right = int(np.ceil(min(1.0, borders[first + count] + jitter[1]) * width))
        if text in seen or right - left < 4:
            continue
        seen.add(text)
        yield Labelled(f"{word.name}_{first}_{count}", word.pixels[:, left:right], text)
        if len(seen) > pieces:
            return


def nearly(reading: str, text: str) -> bool:
    """Whether all characters, or all but one, are the same: other differences tell of a wrong cut."""
    return len(reading) == len(text) and sum(a != b for a, b in zip(reading, text, strict=True)) <= 1


class Cutter:
    """Reads, looks and cuts.

    Args:
      recognizer: what reads.
      arguments: what is asked for.
    """

    def __init__(self, recognizer: "Recognizer", arguments: CutArguments) -> None:
        self._recognizer, self._arguments = recognizer, arguments
        self.told: Counter[str] = Counter()
        """How many words and pieces came to which end."""

    def words(self, source: "Source", name: str) -> Iterator[Labelled]:
        """The words of a list that can be cut: those of one line with three or more characters."""
        from data_pipelines.decoding import DecodeError, pixels_of
        from data_pipelines.records import RecordError

        self.told["lists"] += 1
        progress = Console(stderr=True)
        for index in track(
            range(len(source)), name, console=progress, transient=True, disable=not progress.is_terminal
        ):
            self.told["words"] += 1
            try:
                record = source[index]
                pixels = pixels_of(record)
            except (DecodeError, RecordError) as error:
                CONSOLE.print(f"left out: {name}, record {index}: {error}", markup=False, highlight=False)
                self.told["words left out: unreadable"] += 1
                continue
            text = record.text or ""
            if len(text) < 3 or " " in text or pixels.shape[0] > pixels.shape[1]:
                self.told["words left out: short, portrait or with spaces"] += 1
                continue
            yield Labelled(f"{self.told['lists']}_{index}", pixels, text)

    def pieces(self, words: list[Labelled]) -> Iterator[Labelled]:
        """The pieces of some words."""
        images = [self._recognizer.prepare_pixels(word.pixels) for word in words]
        cuts: list[Labelled] = []
        for word, image, read in zip(words, images, self._recognizer.read_prepared(images), strict=True):
            if read.text != word.text or len(read.tokens) != len(word.text):
                self.told["words left out: not read as their label"] += 1
                continue
            borders = character_borders(self._recognizer.attention(image, read).sum(axis=1))
            if borders is None:
                self.told["words left out: characters not one after the other"] += 1
                continue
            cuts += cut(word, borders, self._arguments.pieces, self._arguments.seed)
        found: list[Word] = self._recognizer.read([piece.pixels for piece in cuts])
        for piece, read in zip(cuts, found, strict=True):
            if nearly(read.text, piece.text):
                self.told["pieces"] += 1
                yield piece
            else:
                self.told["pieces left out: misread"] += 1


def cut_words(arguments: CutArguments) -> int:
    """Cut, write, tell; returns 0."""
    from data_pipelines.sources import Annotations
    from maerec_jax.config import UserError
    from maerec_jax.recognizer import Recognizer

    root = Path(arguments.data)
    folder = root / arguments.output
    if folder.exists():
        raise UserError(f"{folder} is there already: delete it, or name another --output")
    sources = [(name, Annotations(name).open(root)) for name in arguments.lists]
    cutter = Cutter(Recognizer.load(arguments.checkpoint or None, batch_size=arguments.batch_size), arguments)
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    (unfinished / "images").mkdir(parents=True)
    with (unfinished / "pieces.jsonl").open("w") as file:
        for name, source in sources:
            stream = cutter.words(source, name)
            while words := list(islice(stream, arguments.batch_size)):
                for piece in cutter.pieces(words):
                    image = f"images/{piece.name}.jpg"
                    PIL.Image.fromarray(piece.pixels).save(unfinished / image, quality=95)
                    file.write(json.dumps({"filename": image, "text": piece.text}) + "\n")
    unfinished.rename(folder)
    for what, count in sorted(cutter.told.items()):
        CONSOLE.print(f"{what}: {count:,}", highlight=False)
    CONSOLE.print(f"wrote {folder / 'pieces.jsonl'}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(CutArguments, cut_words, "python scripts/cut_words.py"))
