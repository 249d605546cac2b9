"""What the demo does with a picture, apart from its page: read it, and look closer at one of its words."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from data_pipelines.errors import UserError
from maerec_jax.config import TrainConfig
from maerec_jax.demo_page.examples import Mode
from maerec_jax.demo_page.uploads import fitted
from maerec_jax.reading.reader import ReadingConfig, Word
from maerec_jax.reading.recognizer import Prepared, Recognizer

if TYPE_CHECKING:
    from maerec_jax.scenes.crops import Crops
    from maerec_jax.scenes.regions import Detector

MOST_WORDS, MOST_LETTERS = 500, 20_000
"""Of a lexicon that a visitor types."""

_KEPT = 3  # recognisers: one for each beam and lexicon, each with its own copy of the weights and compiled programs
_LARGE = 300  # pixels of the shorter side, from which a picture is seldom the crop of a word
_CROP = (640, 640)  # width and height up to which a word is kept to be looked at


@dataclass(frozen=True)
class Settings:
    """What a visitor may choose."""

    mode: Mode = "word"
    """Whether the picture shows one word, or a scene."""
    beam: int = 1
    """As in ``ReadingConfig``."""
    crops: "Crops" = "box"
    """As in ``SceneReader``."""
    lexicon: str = ""
    """The only words that may be read, with spaces, commas or line ends between them; none for all."""

    def words(self) -> tuple[str, ...]:
        """The words of the lexicon.

        Raises:
          UserError: where they are too many.
        """
        if len(self.lexicon) > MOST_LETTERS:
            raise UserError(f"The list of words is too long: at most {MOST_LETTERS:,} letters.")
        words = tuple(dict.fromkeys(self.lexicon.replace(",", " ").split()))
        if len(words) > MOST_WORDS:
            raise UserError(f"The list has {len(words):,} words: at most {MOST_WORDS} can be given.")
        return words


@dataclass(frozen=True, eq=False)
class FoundWord:
    """A word that was read."""

    word: Word
    """What was read."""
    prepared: Prepared
    """What the model saw."""
    crop: np.ndarray
    """uint8 RGB (height, width, 3): its part of the picture, scaled down where it is large."""
    polygon_N2: np.ndarray | None = None
    """float32: its corners (x, y) in pixels of the picture; None where the picture is the word."""
    detection_confidence: float | None = None
    """How sure the detector is, 0 to 1."""


@dataclass(frozen=True, eq=False)
class Found:
    """What was read in a picture."""

    name: str
    """What the picture is called."""
    mode: Mode
    """How it was read."""
    height: int
    """Of the picture, in pixels."""
    width: int
    words: tuple[FoundWord, ...]
    """In reading order."""
    settings: Settings
    """What the visitor had chosen."""
    described: dict[str, Any]
    """The same for JSON, as ``predict --format jsonl`` prints it."""
    notes: tuple[str, ...] = field(default=())
    """What the visitor should know of the settings."""


class Desk:
    """Reads pictures, one at a time: callers see to that.

    Args:
      weights: of ``load_recognizer``.
      reading: how words are read where a visitor does not say.
      batch_size: the most words of a scene that are read at a time.
      detector: finds the words of scenes; None where only single words can be read.

    Raises:
      UserError: for a lexicon that cannot be used.
    """

    def __init__(
        self,
        weights: tuple[TrainConfig, Any, int],
        reading: ReadingConfig | None = None,
        batch_size: int = 16,
        detector: "Detector | None" = None,
    ) -> None:
        self._weights, self._batch_size, self.detector = weights, batch_size, detector
        self.reading = reading or ReadingConfig()
        self._recognizers: OrderedDict[tuple[int, tuple[str, ...]], tuple[Recognizer, list[str]]] = OrderedDict()
        self.recognizer = self._recognizer(self.reading.beam, ())[0]
        """Reads as the command was told."""

    @property
    def characters(self) -> str:
        """What can be read."""
        return self.recognizer.reader.config.charset.characters

    def read(self, pixels: np.ndarray, name: str, settings: Settings) -> Found:
        """Read a picture, uint8 RGB (height, width, 3).

        Raises:
          UserError: with a sentence for the visitor, where the settings cannot be used.
        """
        recognizer, notes = self._recognizer(settings.beam, settings.words())
        height, width = pixels.shape[:2]
        read_in: Callable[..., tuple[tuple[FoundWord, ...], dict[str, Any]]] = (
            self._read_scene if settings.mode == "scene" else self._read_word
        )
        words, described = read_in(recognizer, pixels, settings)
        told = tuple(notes)
        if settings.mode == "word" and self.detector is not None and min(height, width) > _LARGE:
            told += ("This was read as the picture of one word. If it shows more, choose “Whole scene”.",)
        return Found(name, settings.mode, height, width, words, settings, {"file": name, **described}, told)

    def attention(self, word: FoundWord) -> np.ndarray:
        """Where the model looked for each character, float32 (characters, rows, columns)."""
        return self.recognizer.attention(word.prepared, word.word)

    def warm_up(self, pixels: np.ndarray) -> None:
        """Compile what the first visitor needs, by reading a word."""
        for word in self.read(pixels, "", Settings(beam=self.reading.beam)).words:
            self.attention(word)

    def _read_word(
        self, recognizer: Recognizer, pixels: np.ndarray, settings: Settings
    ) -> tuple[tuple[FoundWord, ...], dict[str, Any]]:
        prepared = recognizer.prepare_pixels(pixels)
        (word,) = recognizer.read_prepared([prepared])
        return (FoundWord(word, prepared, fitted(pixels, *_CROP)),), word.described()

    def _read_scene(
        self, recognizer: Recognizer, pixels: np.ndarray, settings: Settings
    ) -> tuple[tuple[FoundWord, ...], dict[str, Any]]:
        from maerec_jax.scenes.scene_reader import SceneReader

        if self.detector is None:
            raise UserError("Whole scenes cannot be read here: no detector was loaded.")
        scene = SceneReader(recognizer, self.detector, settings.crops).read(pixels)
        found = tuple(
            FoundWord(word.word, word.prepared, fitted(word.crop, *_CROP), word.polygon_N2, word.detection_confidence)
            for word in scene.words
        )
        return found, scene.described()

    def _recognizer(self, beam: int, words: tuple[str, ...]) -> tuple[Recognizer, list[str]]:
        """The recogniser for a beam and a lexicon, and what was told of the lexicon."""
        key = (beam, words)
        if key not in self._recognizers:
            notes: list[str] = []
            reading = replace(self.reading, beam=beam, lexicon="" if words else self.reading.lexicon)
            config, params, step = self._weights
            recognizer = Recognizer(config, params, reading, self._batch_size, words or None, step, notes.append)
            while len(self._recognizers) >= _KEPT:
                # The one that the command was told of stays: it is the first.
                del self._recognizers[list(self._recognizers)[1]]
            self._recognizers[key] = recognizer, notes
        elif key != next(iter(self._recognizers)):
            self._recognizers.move_to_end(key)
        return self._recognizers[key]
