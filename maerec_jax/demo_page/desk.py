"""What the demo does with a picture, apart from its page: read it, and look closer at one of its words."""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.images.crops import Crops
from maerec_jax.config import TrainConfig
from maerec_jax.demo_page.uploads import fitted
from maerec_jax.reading.recognizer import Recognizer
from maerec_jax.reading.settings import ReadingConfig
from maerec_jax.scenes.regions import Detector, is_large
from maerec_jax.scenes.scene_reader import SceneReader, SceneWord

MOST_WORDS, MOST_LETTERS = 500, 20_000
"""Of a lexicon that a visitor types."""

_KEPT = 2  # recognisers beside the first: one for each beam and lexicon, each with its own copy of the weights
_PREVIEW, _CROP = (1600, 1600), (640, 640)  # width and height up to which a picture, and a word, are kept


@dataclass(frozen=True)
class Settings:
    """What a visitor may choose."""

    mode: Literal["auto", "word", "scene"] = "auto"  # one word, or a whole scene: "auto" where it ``is_large``
    beam: int = 1  # as in ``ReadingConfig``
    crops: Crops = "box"  # as in ``SceneReader``
    lexicon: str = ""  # the only words that may be read, with spaces, commas or line ends between them; none for all
    characters: str = ""  # the only characters that may be read, all if there are none
    blocklist: str = ""  # those that may not

    def words(self) -> tuple[str, ...]:
        """The words of the lexicon. Raises ``UserError`` where they are too many."""
        if len(self.lexicon) > MOST_LETTERS:
            raise UserError(f"The list of words is too long: at most {MOST_LETTERS:,} letters.")
        words = tuple(dict.fromkeys(self.lexicon.replace(",", " ").split()))
        if len(words) > MOST_WORDS:
            raise UserError(f"The list has {len(words):,} words: at most {MOST_WORDS} can be given.")
        return words


@dataclass(frozen=True, eq=False)
class Found:
    """What was read in a picture."""

    preview: np.ndarray  # uint8 RGB (height, width, 3): the picture, scaled down where it is large
    # In reading order, with polygons in pixels of the preview, and crops that are scaled down where they are large.
    words: tuple[SceneWord, ...]
    outlines: tuple[np.ndarray, ...]  # (N, 2) each: of words in a scene, else of the characters of the word
    scene: bool  # whether it was read as a whole scene
    settings: Settings  # what the visitor had chosen
    described: dict[str, Any]  # the same for JSON, as ``predict --format jsonl`` prints it
    notes: tuple[str, ...] = ()  # what the visitor should know of the settings


class Desk:
    """Reads pictures, one at a time: callers see to that.

    It has the weights of ``load_recognizer``, reads as ``reading`` says where a visitor does not, and without a
    detector single words only.

    Raises:
      UserError: for a lexicon that cannot be used.
    """

    def __init__(
        self,
        weights: tuple[TrainConfig, Any, int],
        reading: ReadingConfig | None = None,
        batch_size: int = 16,
        detector: Detector | None = None,
    ) -> None:
        self._weights, self._batch_size, self.detector = weights, batch_size, detector
        self.reading = reading or ReadingConfig()
        self.recognizer, self._notes = self._load(self.reading.beam, ())  # reads as the command was told
        self._load_kept = lru_cache(_KEPT)(self._load)

    def read(self, pixels: np.ndarray, name: str, settings: Settings) -> Found:
        """Read a picture, uint8 RGB (height, width, 3).

        Raises:
          UserError: with a sentence for the visitor, where the settings cannot be used.
        """
        recognizer, notes = self._recognizer(settings.beam, settings.words())
        lists = settings.characters or None, settings.blocklist or None
        height, width = pixels.shape[:2]
        large = self.detector is not None and is_large(pixels)
        is_scene = settings.mode == "scene" or (settings.mode == "auto" and large)
        if is_scene:
            if self.detector is None:
                raise UserError("Whole scenes cannot be read here: no detector was loaded.")
            scene = SceneReader(recognizer, self.detector, settings.crops).read(pixels, *lists)
            words, described = scene.words, scene.described()
        else:
            prepared = recognizer.prepare_pixels(pixels, allowed_C=recognizer.handling.allowed(*lists))
            (word,) = recognizer.read_prepared([prepared])
            corners_N2 = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float32)
            words, described = (SceneWord(corners_N2, 1.0, word, pixels, prepared),), word.described()
            if large:
                notes = [*notes, "This was read as the picture of one word. If it shows more, choose “Whole scene”."]
        preview = fitted(pixels, *_PREVIEW)
        scale = preview.shape[1] / width
        words = tuple(replace(w, polygon_N2=w.polygon_N2 * scale, crop=fitted(w.crop, *_CROP)) for w in words)
        outlines = tuple(word.polygon_N2 for word in words)
        if not is_scene:
            boxes = recognizer.boxes(prepared, word) if recognizer.reader.config.has_attention else ()
            outlines = tuple(scale * np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)]) for x0, y0, x1, y1 in boxes)
        return Found(preview, words, outlines, is_scene, settings, {"file": name, **described}, tuple(notes))

    def _recognizer(self, beam: int, words: tuple[str, ...]) -> tuple[Recognizer, list[str]]:
        """The recogniser for a beam and a lexicon, and what was told of the lexicon."""
        if (beam, words) == (self.reading.beam, ()):
            return self.recognizer, self._notes
        return self._load_kept(beam, words)

    def _load(self, beam: int, words: tuple[str, ...]) -> tuple[Recognizer, list[str]]:
        notes: list[str] = []
        reading = replace(self.reading, beam=beam, lexicon="" if words else self.reading.lexicon)
        config, params, step = self._weights
        recognizer = Recognizer(config, params, reading, self._batch_size, words or None, step, notes.append)
        return recognizer, notes
