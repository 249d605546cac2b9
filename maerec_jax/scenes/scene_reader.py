"""Finding and reading the words of whole pictures: ``SceneReader(recognizer, load_detector()).read("street.jpg")``."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from data_pipelines.images.crops import Crops, crop
from data_pipelines.images.polygons import within_reach
from maerec_jax.reading.recognizer import Image, Prepared, Recognizer, load_image
from maerec_jax.reading.word import Word
from maerec_jax.scenes.placing import in_picture
from maerec_jax.scenes.regions import Detector, Region


@dataclass(frozen=True)
class SceneWord:
    """A word of a picture."""

    polygon_N2: np.ndarray
    """float32: its corners (x, y) in pixels of the picture."""
    detection_confidence: float
    """How sure the detector is that this is a word, 0 to 1."""
    word: Word
    """What was read."""
    crop: np.ndarray
    """uint8 RGB (height, width, 3): what was cut out and read."""
    prepared: Prepared
    """The crop as the model got it, for ``Recognizer.attention``."""

    def described(self) -> dict[str, Any]:
        """The word as JSON can hold it: polygon in tenths of pixels, text, and confidences."""
        return {
            "polygon": [[round(float(x), 1), round(float(y), 1)] for x, y in self.polygon_N2],
            "detection_confidence": self.detection_confidence,
            **self.word.described(),
            "turns": self.word.turns,
        }


@dataclass(frozen=True)
class Scene:
    """A picture with the words that were read in it."""

    width: int
    """Its width in pixels, turned as its EXIF data say."""
    height: int
    """Its height in pixels."""
    words: tuple[SceneWord, ...]
    """Its words in reading order."""

    def described(self) -> dict[str, Any]:
        """The scene as JSON can hold it: ``width``, ``height`` and ``words`` (``SceneWord.described``)."""
        return {"width": self.width, "height": self.height, "words": [word.described() for word in self.words]}


@dataclass(frozen=True)
class PreparedScene:
    """A picture whose words have been found, and are yet to be read."""

    pixels: np.ndarray
    """uint8 RGB (height, width, 3)."""
    regions: tuple[Region, ...]
    """Where the words are."""
    crops: tuple[np.ndarray, ...]
    """What was cut out for each of them."""
    prepared: tuple[Prepared, ...]
    """The crops in sizes of the model's."""


class SceneReader:
    """Finds the words of pictures and reads them.

    Args:
      recognizer: reads the words.
      detector: finds them (``load_detector``).
      crops: how they are cut out.
    """

    def __init__(self, recognizer: Recognizer, detector: Detector, crops: Crops = "box") -> None:
        self.recognizer, self.detector, self.crops = recognizer, detector, crops

    def read(self, image: Image, characters: str | None = None, blocklist: str | None = None) -> Scene:
        """Find and read the words of a picture, of any kind in ``reading.recognizer.Image``, in the characters that
        ``Recognizer.read`` is told of.

        Raises:
          DecodeError: where it cannot be decoded.
          OSError: where the file cannot be read.
          UserError: where the detector or the lexicon cannot take it.
        """
        allowed_C = self.recognizer.handling.allowed(characters, blocklist)
        (scene,) = self.read_prepared([self.prepare(image, allowed_C)])
        return scene

    def prepare(self, image: Image, allowed_C: np.ndarray | None = None) -> PreparedScene:
        """Load a picture, find its words and cut them out. Raises as ``read`` does."""
        return self.prepare_pixels(*load_image(image), allowed_C)

    def prepare_pixels(self, pixels: np.ndarray, name: str = "", allowed_C: np.ndarray | None = None) -> PreparedScene:
        """Find the words of a picture, uint8 RGB (height, width, 3), and cut them out; its name is for the lexicon, and
        ``allowed_C`` as for ``Recognizer.prepare_pixels``.

        Raises:
          UserError: where the detector cannot take it, or the lexicon has no words for it.
        """
        self.recognizer.handling.columns([name])
        found = self.detector.detect(pixels)
        regions = tuple(replace(each, polygon_N2=within_reach(each.polygon_N2, *pixels.shape[:2])) for each in found)
        crops = tuple(crop(pixels, region.polygon_N2, self.crops) for region in regions)
        prepared = tuple(self.recognizer.prepare_pixels(each, name, allowed_C) for each in crops)
        return PreparedScene(pixels, regions, crops, prepared)

    def read_prepared(self, scenes: Iterable[PreparedScene]) -> Iterator[Scene]:
        """Read the words that ``prepare`` found, those of all pictures in common batches."""
        scenes = list(scenes)
        words = self.recognizer.read_prepared(one for scene in scenes for one in scene.prepared)
        for scene in scenes:
            size = scene.pixels.shape[:2]
            found = tuple(
                SceneWord(
                    region.polygon_N2,
                    region.confidence,
                    in_picture(next(words), size, region.polygon_N2, self.crops),
                    pixels,
                    prepared,
                )
                for region, pixels, prepared in zip(scene.regions, scene.crops, scene.prepared, strict=True)
            )
            yield Scene(scene.pixels.shape[1], scene.pixels.shape[0], found)
