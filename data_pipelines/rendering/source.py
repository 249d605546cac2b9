"""A source of words that are drawn when they are read: endless training pictures from fonts and a dictionary."""

import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from data_pipelines.charset import MAEREC_CHARACTERS, composed
from data_pipelines.errors import DataError
from data_pipelines.rendering.fonts import find_fonts
from data_pipelines.rendering.picture import render
from data_pipelines.rendering.texts import Split, Texts
from data_pipelines.sources.records import Record, SourceSpec

# Threads cost more than they bring on pictures this small, and the workers are processes already.
cv2.setNumThreads(1)

_texts = lru_cache(maxsize=8)(Texts)  # made once a process for each choice


@dataclass(frozen=True)
class RenderedWords(SourceSpec):
    """Words drawn on the fly; no files are needed."""

    kind: Literal["rendered"] = "rendered"
    """Kind of source."""
    size: int = 1_000_000
    """Number of different pictures."""
    seed: int = 0
    """Seed of words and pictures."""
    split: Split = "train"
    """Split: texts for validation never occur in training."""
    characters: str = MAEREC_CHARACTERS
    """Draw only texts of these characters."""
    min_length: int = 1
    """Shortest text, in characters."""
    max_length: int = 24
    """Longest text, in characters."""
    difficulty: float = 1.0
    """0: dark print on light paper; 1: as varied as photographs."""
    fonts: str = ""
    """Folder (with subfolders) of more .ttf and .otf fonts; scripts/weights/get_fonts.sh downloads some."""
    words: str = ""
    """Text file with a word per line, most frequent first; scripts/weights/get_words.py writes one."""

    def open(self, root: Path = Path()) -> "RenderedSource":
        """The source of these words. ``root`` is where relative ``fonts`` and ``words`` start.

        Raises ``DataError`` where a value is out of range, no text is possible, or there are no fonts.
        """
        if self.size < 1 or self.seed < 0 or not 0 <= self.difficulty <= 1:
            raise DataError(
                f"rendered words: size {self.size} must be at least 1, seed {self.seed} at least 0, and difficulty "
                f"{self.difficulty} from 0 to 1"
            )
        fonts, words = ((root / Path(p).expanduser()).absolute() if p else None for p in (self.fonts, self.words))
        source = RenderedSource(self, fonts, words)
        # So that a mistake in the spec shows before training starts.
        source._texts()
        find_fonts(fonts).check(self.characters)
        return source


@dataclass(frozen=True)
class RenderedSource:
    """Record ``i`` depends on the spec, the fonts and ``i`` alone, in whatever process and order it is drawn.

    Pickles as its fields; every process loads words and fonts when it first needs them.
    """

    spec: RenderedWords
    font_folder: Path | None
    word_file: Path | None = None

    drawn = True  # see ``Source``

    @property
    def characters(self) -> str:
        """The characters that labels are made of."""
        return self.spec.characters

    def __len__(self) -> int:
        return self.spec.size

    def __getitem__(self, index: int) -> Record:
        """Draw record ``index``: uint8 RGB ``(height, width, 3)`` and its label."""
        text = self.text(index)
        return Record(render(text, find_fonts(self.font_folder), self.spec.difficulty, self._rng(index, 1)), text)

    def text(self, index: int) -> str:
        """The label of record ``index`` without drawing it."""
        return composed(self._texts().draw(self._rng(index, 0)))

    def _texts(self) -> Texts:
        spec = self.spec
        return _texts(spec.characters, spec.min_length, spec.max_length, spec.split, self.word_file)

    def checksums(self, labelled: bool) -> tuple[int, int]:
        """0, since the spec says all but the words of a list, and the CRC-32 of that."""
        del labelled
        return 0, zlib.crc32(self.word_file.read_bytes()) if self.word_file else 0

    def name(self, index: int) -> str:
        """For example ``rendered/train/seed 0/123``."""
        return f"rendered/{self.spec.split}/seed {self.spec.seed}/{index}"

    def _rng(self, index: int, purpose: int) -> np.random.Generator:
        index = range(self.spec.size)[index]  # Raises IndexError, and counts from the end, as a list does.
        key = (self.spec.seed, int(self.spec.split == "validation"), index, purpose)
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))
