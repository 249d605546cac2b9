"""Reading word images from Python: ``Recognizer.load("runs/maerec_s").read(["word.jpg"])``."""

import io
import os
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import PIL.Image

from data_pipelines.command import keep_compiled_programs
from data_pipelines.errors import UserError
from data_pipelines.images.buckets import Shape, nearest_shape
from data_pipelines.images.decoding import DecodeError, decode_image, rgb_of
from data_pipelines.images.resizing import turn_image
from maerec_jax.distributed.batch_sizes import batch_ladder
from maerec_jax.reading.boxes import Box, character_boxes
from maerec_jax.reading.handling import Handling
from maerec_jax.reading.kept import Kept, Step, folder_for
from maerec_jax.reading.lexicon import Words
from maerec_jax.reading.settings import ReadingConfig
from maerec_jax.reading.word import Word
from maerec_jax.weights.shipped_files import ENDING, SHIPPED, is_shipped, shipped_file

if TYPE_CHECKING:  # what takes long to import has no part in reading with kept programs
    from maerec_jax.config import TrainConfig
    from maerec_jax.reading.reader import Reader

Image = str | Path | bytes | io.BytesIO | np.ndarray | PIL.Image.Image
"""An image to be read: the path of a file, its bytes, also in an ``io.BytesIO``, a Pillow image, or uint8 pixels: RGB
(height, width, 3), RGBA (height, width, 4), or grey (height, width) or (height, width, 1)."""


@dataclass(frozen=True)
class Prepared:
    """An image in a size of the model's; where portrait images are turned, such an image in three ways."""

    ways: list[np.ndarray]  # uint8 RGB (H, W, 3), or several views of it (V, H, W, 3), for each way
    widths: tuple[int, ...]  # how many columns of each are picture, before the filling
    turns: tuple[int, ...]  # by how many times 90 degrees against the clock the image was turned for each
    size: tuple[int, int]  # height and width of the image before
    name: str = ""  # the path that it came from, if any
    allowed_C: np.ndarray | None = None  # the classes that may be read (``Handling.allowed``); None as the settings say

    def picture(self, word: Word) -> np.ndarray:
        """The whole image, uint8 RGB (H, W, 3), turned as a word was read."""
        way = self.ways[self.turns.index(word.turns)]
        return way if way.ndim == 3 else way[0]


def load_image(image: Image) -> tuple[np.ndarray, str]:
    """The pixels of an image, uint8 RGB (height, width, 3), turned as its EXIF data say, and its path if it has one.

    Raises:
      DecodeError: for an image that cannot be decoded; the message names its file.
      OSError: for a file that cannot be read.
    """
    name = ""
    if isinstance(image, str | Path):
        name = str(image)
        try:
            pixels = decode_image(Path(image).read_bytes())
        except DecodeError as error:
            raise DecodeError(f"{name}: {error}") from error
    elif isinstance(image, PIL.Image.Image):
        pixels = rgb_of(image)
    elif isinstance(image, bytes | io.BytesIO):
        pixels = decode_image(image if isinstance(image, bytes) else image.getvalue())
    else:
        pixels = _rgb(np.asarray(image))
    return pixels, name


def _rgb(pixels: np.ndarray) -> np.ndarray:
    """Pixels of any kind in ``Image`` as RGB, transparent ones as ``decode_image`` shows them."""
    if pixels.shape[2:] == (1,):
        pixels = pixels[..., 0]
    if pixels.dtype == np.uint8 and pixels.size and (pixels.ndim == 2 or pixels.shape[2:] == (4,)):
        return rgb_of(PIL.Image.fromarray(pixels))
    _check_pixels(pixels)
    return pixels


def _check_pixels(pixels: np.ndarray) -> None:
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
        raise DecodeError(f"an image array must be uint8 RGB (height, width, 3), not {pixels.dtype} {pixels.shape}")


class Recognizer:
    """A recogniser with its weights, ready to read.

    Args:
      config: the run that it comes from: sizes, characters, and how images are prepared.
      params: its parameters.
      reading: how to read.
      batch_size: the most images at a time. Fewer are filled up to this, or to a fourth, a sixteenth ... of it, so that
        a few shapes are compiled, whatever the numbers of images are.
      words: the only words that may be read, in any case unless ``reading.match_case``; or those of each image by the
        path that it is read from.
      step: the step of the run that the parameters are of.
      tell: is called with a line where some of the words cannot be written.
    """

    def __init__(
        self,
        config: "TrainConfig",
        params: Any,
        reading: ReadingConfig | None = None,
        batch_size: int = 32,
        words: Words | None = None,
        step: int = 0,
        tell: Callable[[str], Any] = warnings.warn,
    ) -> None:
        from maerec_jax.distributed.sharding import make_mesh, row_shards
        from maerec_jax.reading.reader import Reader

        self._run, self._params, self.step = config, params, step
        mesh = make_mesh(devices=jax.local_devices())
        self.reader = Reader(config, params, reading or ReadingConfig(), mesh, words, tell)
        """The model on its devices, and how it reads."""
        self._start(self.reader.handling, batch_size, row_shards(mesh))

    def _start(self, handling: Handling, batch_size: int, parts: int, kept: Kept | None = None) -> None:
        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1, not {batch_size}")
        self._kept = kept
        self.handling = handling
        """How images go in and words come out."""
        self.batch_sizes = batch_ladder(batch_size, parts)
        """The numbers of images that are read at a time."""

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | None = None,
        reading: ReadingConfig | None = None,
        batch_size: int = 32,
        words: Words | None = None,
        tell: Callable[[str], Any] = warnings.warn,
        adapters: str | Path | None = None,
    ) -> "Recognizer":
        """Load weights: a fine-tuning workdir (its best checkpoint by validation, else its latest), one of its
        checkpoints, an exported ``.safetensors`` file, or a name of those that come with the package
        (``weights.shipped_files.SHIPPED``), of which the first are the default.

        With a file of ``adapters`` (``save_adapters``) the weights are those that these were trained beside, also those
        of a pre-training workdir.

        Raises:
          UserError: where there are none, they are not a recogniser's, the adapters belong to other weights, or the
            lexicon cannot be used.
        """
        keep_compiled_programs()
        reading = reading or ReadingConfig()

        def load() -> Recognizer:
            from maerec_jax.weights.finding import load_recognizer

            config, params, step = load_recognizer(path, adapters)
            return cls(config, params, reading, batch_size, words, step, tell)

        name = os.fspath(path or "")
        folder = None
        if words is None and not adapters and (is_shipped(name) or name.endswith(ENDING)):
            folder = folder_for(shipped_file(name or SHIPPED[0]) if is_shipped(name) else Path(name), reading)
        if folder is None:
            return load()
        if (kept := Kept.open(folder, reading)) is not None:
            return _KeptRecognizer(kept, batch_size, load)
        recognizer = load()
        if type(recognizer.reader.config).__module__.startswith("maerec_jax."):  # code of others is not in the checksum
            recognizer._kept = Kept.write(folder, recognizer.handling, jax.tree.leaves(recognizer.reader.weights))
        return recognizer

    def save(self, path: str | Path) -> None:
        """Write the weights, and what else reading needs, to one ``.safetensors`` file that ``load`` takes."""
        from maerec_jax.weights.finding import save_weights

        save_weights(path, self._run, self._params, self.step)

    def save_adapters(self, path: str | Path) -> None:
        """Write adapters and text decoder of a LoRA fine-tuning to a ``.safetensors`` file, less than half as large.

        ``load`` takes it beside the weights that the run started from.
        """
        from maerec_jax.weights.adapters import save_adapters

        save_adapters(path, self._run, self._params, self.step)

    def read(self, images: Iterable[Image], characters: str | None = None, blocklist: str | None = None) -> list[Word]:
        """Read images of every kind in ``Image``: paths, bytes of files, arrays of pixels, Pillow images, also mixed.

        Args:
          images: the images.
          characters: the only characters that may be read, such as "0123456789"; "" for all. By default as
            ``ReadingConfig`` says. No list makes anything compile again.
          blocklist: characters that may not be read.

        Returns:
          A ``Word`` for each image. It has the text, its confidence and those of its characters (``Word`` says what
          they mean), and with a beam or several views other texts.

        Raises:
          DecodeError: for an image that cannot be decoded; the message names its file.
          OSError: for a file that cannot be read.
          UserError: where the lexicon has no words for an image, or characters cannot be written.
        """
        single = isinstance(images, str | Path | bytes | io.BytesIO | PIL.Image.Image)
        if single or (isinstance(images, np.ndarray) and images.ndim < 4):
            raise TypeError("read takes several images: put a single one into a list")
        allowed_C = self.handling.allowed(characters, blocklist)
        return list(self.read_prepared(self.prepare(image, allowed_C) for image in images))

    def prepare(self, image: Image, allowed_C: np.ndarray | None = None) -> Prepared:
        """Load an image and resize it to a size of the model's. Raises as ``read`` does."""
        return self.prepare_pixels(*load_image(image), allowed_C)

    def prepare_pixels(self, pixels: np.ndarray, name: str = "", allowed_C: np.ndarray | None = None) -> Prepared:
        """Resize uint8 RGB pixels (height, width, 3) to a size of the model's. Raises ``DecodeError`` for others.

        ``allowed_C`` is what ``Handling.allowed`` makes of the characters that may be read; None as the settings say.
        """
        _check_pixels(pixels)
        handling = self.handling
        turns = (0, 1, 3) if handling.turn and pixels.shape[0] > pixels.shape[1] else (0,)
        ways = [turn_image(pixels, n) for n in turns]
        prepared = [handling.prepare(way, nearest_shape(way.shape[:2], handling.shapes)) for way in ways]
        widths = tuple(width for _, width in prepared)
        return Prepared([way for way, _ in prepared], widths, turns, pixels.shape[:2], name, allowed_C)

    def read_prepared(self, images: Iterable[Prepared]) -> Iterator[Word]:
        """Read what ``prepare`` returned, in order; a few batches are collected at a time."""
        images = iter(images)
        while chunk := list(islice(images, self.batch_sizes[-1] * len(self.handling.shapes))):
            # Images of one size share a batch; (image, way) is where each comes from.
            groups: dict[Shape, list[tuple[int, int]]] = defaultdict(list)
            for number, image in enumerate(chunk):
                for way, pixels in enumerate(image.ways):
                    groups[pixels.shape[-3:-1]].append((number, way))
            words: dict[tuple[int, int], tuple[Word, float]] = {}
            for places in groups.values():
                words |= zip(places, self._read_all(chunk, places), strict=True)
            for number, image in enumerate(chunk):
                word = max((words[number, way] for way in range(len(image.ways))), key=lambda found: found[1])[0]
                yield replace(word, character_boxes=self.boxes(image, word)) if self.handling.reading.boxes else word

    def boxes(self, image: Prepared, word: Word) -> tuple[Box, ...]:
        """Where the characters of what was read in an image are (``boxes.character_boxes``), in pixels of the image as
        it was given."""
        width = image.widths[image.turns.index(word.turns)]
        shares_T4 = character_boxes(image.picture(word), self.attention(image, word), width)
        for _ in range(word.turns):  # back with the clock
            left, top, right, bottom = shares_T4.T
            shares_T4 = np.stack([1 - bottom, left, 1 - top, right], axis=1)
        height, width = image.size
        return tuple((x0, y0, x1, y1) for x0, y0, x1, y1 in (shares_T4 * (width, height, width, height)).tolist())

    def attention(self, image: Prepared, word: Word) -> np.ndarray:
        """Where the model looked for each character (``RecogniserConfig.attention``) of what it read in an image.

        Returns:
          Maps over the patches of the whole image, as it was turned when it was read, float32 (characters, rows,
          columns).
        """
        from maerec_jax.distributed.sharding import batch_sharding, put_whole
        from maerec_jax.reading.reader import jitted_attention

        charset, length = self.reader.config.charset, self.reader.config.max_length
        tokens = np.full((self.batch_sizes[0], length), charset.padding, np.int32)
        tokens[0, : len(word.tokens)] = word.tokens
        images = np.stack([image.picture(word)] * self.batch_sizes[0])
        width = image.widths[image.turns.index(word.turns)]
        batch = {"image": images, "tokens": tokens} | self._widths([width], self.batch_sizes[0], images.shape[2])
        batch = put_whole(batch, batch_sharding(self.reader.mesh))
        maps_TRC = jax.device_get(jitted_attention(self.reader.step)(self.reader.weights, batch))[0]
        return maps_TRC[charset.decode(word.tokens)[1]]

    def _read_all(self, images: list[Prepared], places: list[tuple[int, int]]) -> Iterator[tuple[Word, float]]:
        """Read the images at ``places``, which have one size; tells how much speaks for each word."""
        most, pending = self.batch_sizes[-1], None
        for start in range(0, len(places), most):
            rows = places[start : start + most]
            size = next(size for size in self.batch_sizes if size >= len(rows))
            pixels = np.stack([images[number].ways[way] for number, way in rows])
            padded = np.zeros((size, *pixels.shape[1:]), np.uint8)
            padded[: len(rows)] = pixels
            turns = np.array([images[number].turns[way] for number, way in rows])
            names = [images[number].name for number, _ in rows] + [None] * (size - len(rows))
            allowed = [images[number].allowed_C for number, _ in rows] + [None] * (size - len(rows))
            columns = self.handling.columns(names, allowed)
            columns |= self._widths([images[number].widths[way] for number, way in rows], size, pixels.shape[-2])
            made = self._read({"image": padded} | columns)
            # The devices have this batch before anybody looks at what they made of the one before.
            if pending is not None:
                yield from self._words(*pending)
            pending = made, turns
        if pending is not None:
            yield from self._words(*pending)

    def _read(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """What ``Reader.step`` makes of a batch."""
        if self._kept is not None:
            return self._kept.read(batch, self._step)
        from maerec_jax.distributed.sharding import batch_sharding, put_whole
        from maerec_jax.reading.reader import jitted

        return jitted(self.reader.step)(self.reader.weights, put_whole(batch, batch_sharding(self.reader.mesh)))

    def _step(self) -> Step:
        """``Reader.step`` of a list of weights."""
        step, weights = self.reader.step, jax.tree.structure(self.reader.weights)
        return lambda leaves, batch: step(jax.tree.unflatten(weights, leaves), dict(batch))

    def _widths(self, widths: list[int], size: int, filling: int) -> dict[str, np.ndarray]:
        """The ``width`` of a batch, for models that keep the aspect ratio."""
        if self.handling.keep_ratio is None:
            return {}
        return {"width": np.array(widths + [filling] * (size - len(widths)), np.int32)}

    def _words(self, made: dict[str, jax.Array], turns: np.ndarray) -> Iterator[tuple[Word, float]]:
        found = jax.device_get(made) | {"turns": turns}
        return (self.handling.word_and_votes(found, row) for row in range(len(turns)))


class _KeptRecognizer(Recognizer):
    """A recogniser that was kept, of which the model itself is loaded when something else is asked of it."""

    def __init__(self, kept: Kept, batch_size: int, load: Callable[[], Recognizer]) -> None:
        self._load = load
        self._start(kept.handling, batch_size, 1, kept)

    @cached_property
    def _whole(self) -> Recognizer:
        return self._load()

    @property
    def reader(self) -> "Reader":  # type: ignore[override]
        return self._whole.reader

    @property
    def step(self) -> int:  # type: ignore[override]
        return self._whole.step

    @property
    def _run(self) -> "TrainConfig":  # type: ignore[override]
        return self._whole._run

    @property
    def _params(self) -> Any:  # type: ignore[override]
        return self._whole._params
