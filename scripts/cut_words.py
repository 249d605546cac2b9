"""Cut labelled words into labelled pieces: python scripts/cut_words.py --data ROOT --lists FILE ... --output pieces"""

import json
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import PIL.Image
from rich.console import Console
from rich.progress import track

from data_pipelines.command import keep_compiled_programs, run_command
from data_pipelines.images.buckets import is_vertical
from data_pipelines.sources.combining import Sources
from data_pipelines.sources.files import Annotations

if TYPE_CHECKING:
    from maerec_jax.reading.reader import Word
    from maerec_jax.reading.recognizer import Recognizer

CONSOLE = Console(width=None if sys.stdout.isatty() else 120, soft_wrap=True)
_INK = 0.1  # share of a character's attention that a border on ink of average contrast has to be worth
_CLOSEST = 0.25  # of the distance between characters of equal widths: what is closer is not two characters
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
    """Folder to be made in the data root."""
    checkpoint: str = ""
    """What reads: as for maerec_jax.predict; by default the weights of the package."""
    pieces: int = 4
    """The most pieces of a word."""
    seed: int = 0
    """Decides, with the name of an image, where it is cut."""
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
    """Of the file that it becomes."""
    image: str
    """The file that it comes from, in its list."""
    pixels: np.ndarray
    text: str


def character_borders(map_TC: np.ndarray, picture: np.ndarray) -> np.ndarray | None:
    """Where characters meet: so that most of the attention of each lies between its borders, and these on no ink.

    Midway between the middles of the attention they would cut wide characters beside narrow ones: of 1,173 pieces of
    400 real words 72 % were read right then, and 81 % so.

    Args:
      map_TC: float (characters, columns), how much each character's attention went to each column of the image.
      picture: uint8 RGB (H, W, 3), the image.

    Returns:
      float64 (characters + 1,), from 0 to 1, of the width; None where the characters do not stand one after the other.
    """
    count, columns = map_TC.shape
    sharp_TC = map_TC.astype(np.float64) ** 2  # what little goes to other characters counts less
    sharp_TC /= sharp_TC.sum(axis=1, keepdims=True)
    middle_T = sharp_TC @ (np.arange(columns) + 0.5) / columns
    contrast_W = picture.mean(axis=2).std(axis=0)
    ink_E = np.convolve(contrast_W / max(contrast_W.mean(), 1e-6), [0.5, 0.5])  # at the edges of columns of pixels
    places_E = np.linspace(0, columns, len(ink_E))
    before_TE = [np.interp(places_E, np.arange(columns + 1), [0.0, *np.cumsum(row)]) for row in sharp_TC]
    # The best that the characters so far can have left of each edge, and at which edge the last of them begins then.
    best_E, begins = before_TE[0], []
    for before_E in before_TE[1:]:
        worth_E = best_E - before_E - _INK * ink_E
        most_E = np.maximum.accumulate(worth_E)
        begins.append(np.maximum.accumulate(np.where(worth_E == most_E, np.arange(len(ink_E)), 0)))
        best_E = most_E + before_E
    edges = [len(ink_E) - 1]
    for begin_E in reversed(begins):
        edges.insert(0, int(begin_E[edges[0]]))
    borders = np.array([0, *edges]) / (len(ink_E) - 1)
    apart = min(np.diff(middle_T).min(), np.diff(borders).min())
    return borders if apart >= _CLOSEST / count else None


def cut(word: Labelled, borders: np.ndarray, pieces: int, seed: int) -> Iterator[Labelled]:
    """Up to ``pieces`` parts of a word, no two of them with the same label."""
    generator = np.random.default_rng((seed, zlib.crc32(word.image.encode())))
    length, (height, width), seen = len(word.text), word.pixels.shape[:2], {word.text}
    lengths = np.arange(2, length)
    shares = lengths**2 / (lengths**2).sum()  # long ones are more of a word
    for _ in range(2 * pieces):
        count = 1 if generator.random() < _SINGLE else int(generator.choice(lengths, p=shares))
        first = int(generator.integers(length - count + 1))
        text = word.text[first : first + count]
        jitter = _JITTER * generator.random(2) * (borders[first + count] - borders[first]) / count
        left = int(max(0.0, borders[first] - jitter[0]) * width)
        right = int(np.ceil(min(1.0, borders[first + count] + jitter[1]) * width))
        # What is as narrow as a vertical word would be taken for one in training.
        if text in seen or right - left < 4 or is_vertical((height, right - left), text):
            continue  # another try instead
        seen.add(text)
        yield Labelled(f"{word.name}_{first}_{count}", word.image, word.pixels[:, left:right], text)
        if len(seen) > pieces:
            return


def nearly(reading: str, text: str) -> bool:
    """Whether all characters, or of three and more all but one, are the same: more tells of a wrong cut."""
    wrong = sum(a != b for a, b in zip(reading, text, strict=False))
    return len(reading) == len(text) and wrong <= (len(text) > 2)


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

    def words(self, source: Sources, name: str) -> Iterator[Labelled]:
        """The words of a list that can be cut: those of one line with three or more characters."""
        from data_pipelines.errors import RecordError
        from data_pipelines.images.decoding import DecodeError, pixels_of

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
            yield Labelled(f"{self.told['lists']}_{index}", source.name(index), pixels, text)

    def pieces(self, words: list[Labelled]) -> Iterator[Labelled]:
        """The pieces of some words."""
        images = [self._recognizer.prepare_pixels(word.pixels) for word in words]
        cuts: list[Labelled] = []
        for word, image, read in zip(words, images, self._recognizer.read_prepared(images), strict=True):
            if read.text != word.text or len(read.tokens) != len(word.text):
                self.told["words left out: not read as their label"] += 1
                continue
            borders = character_borders(self._recognizer.attention(image, read).sum(axis=1), image.picture(read))
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
    from data_pipelines.errors import UserError
    from maerec_jax.reading.recognizer import ReadingConfig, Recognizer

    keep_compiled_programs()
    root = Path(arguments.data)
    folder = root / arguments.output
    if folder.resolve() == root.resolve() or not folder.resolve().is_relative_to(root.resolve()):
        raise UserError(f"{folder} is not inside of the data root: name another --output")
    if folder.exists():
        raise UserError(f"{folder} is there already: delete it, or name another --output")
    sources = [(name, Sources([Annotations(name).open(root)])) for name in arguments.lists]
    # Narrow pieces are no vertical words.
    reading = ReadingConfig(turn=False)
    recognizer = Recognizer.load(arguments.checkpoint or None, reading, arguments.batch_size)
    cutter = Cutter(recognizer, arguments)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as place:
        unfinished = Path(place) / folder.name
        (unfinished / "images").mkdir(parents=True)
        with (unfinished / "pieces.jsonl").open("w") as file:
            for name, source in sources:
                stream = cutter.words(source, name)
                while words := list(islice(stream, arguments.batch_size)):
                    for piece in cutter.pieces(words):
                        image = f"images/{piece.name}.png"
                        PIL.Image.fromarray(piece.pixels).save(unfinished / image)
                        # From the data root, where no other folder's images can be meant.
                        named = (folder / image).relative_to(root).as_posix()
                        file.write(json.dumps({"filename": named, "text": piece.text}) + "\n")
        for what, count in sorted(cutter.told.items()):
            CONSOLE.print(f"{what}: {count:,}", highlight=False)
        if not cutter.told["pieces"]:
            raise UserError("no pieces: the recogniser has to read the words and their characters; name a --checkpoint")
        unfinished.rename(folder)
    CONSOLE.print(f"wrote {folder / 'pieces.jsonl'}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(CutArguments, cut_words, "python scripts/cut_words.py"))
