"""Read words: ``python -m maerec_jax.predict IMAGE_OR_FOLDER_OR_LMDB ... --checkpoint runs/maerec_s [--detect]``."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import tyro

from data_pipelines.command import check_outputs, keep_compiled_programs, run_command
from maerec_jax.reading.marking import printable
from maerec_jax.reading.printed_readings import Format, ScenePrinter, WordPrinter
from maerec_jax.reading.reader import ReadingConfig, Word
from maerec_jax.scenes.crops import Crops
from maerec_jax.scenes.regions import DetectionConfig, Detector

if TYPE_CHECKING:
    import numpy as np

    from maerec_jax.reading.recognizer import Prepared, Recognizer
    from maerec_jax.scenes.scene_reader import PreparedScene


_LARGE = 400  # pixels: crops of one word are hardly ever as high and as wide


@dataclass(frozen=True)
class PredictArguments:
    """Read the words in image files, and print file, text and confidence for each.

    An image is one word, or with --detect a picture in which the words are found first. The confidence is the mean of
    the model's probabilities of the characters. Images that cannot be read are named, the others are read, and the exit
    status is 1.
    """

    images: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Image files, folders that are searched with their subfolders, and LMDBs as Union14M has them."""
    checkpoint: str = ""
    """Workdir of a fine-tuning run, one of its checkpoints, an exported .safetensors file, or maerec_tiny or
    maerec_tiny_rendered, which come with the package (docs/weights.md); by default maerec_tiny."""
    adapters: str = ""
    """File of adapters and text decoder of a LoRA fine-tuning; the checkpoint is then the one that it started from."""
    format: Format = "table"
    """Output: a line of columns, a JSON object with the confidence of each character, or comma-separated values. With
    --detect a picture is a line and one for each of its words, a JSON object, or a row for each word."""
    visualise: str = ""
    """Also draw each image with its reading, coloured by confidence, into this folder."""
    attention: bool = False
    """Show in these pictures where the model looked for each character, too."""
    sheet: str = ""
    """Also draw the words with their readings into this one PNG file (the first 48)."""
    detect: bool = False
    """The images are whole pictures: find their words, and read them (pip install 'maerec-jax[detect]')."""
    crops: Crops = "box"
    """How words that were found are cut out: by the smallest upright rectangle, as the words of Union14M are, or
    rectified, so that the text lies level."""
    detection: DetectionConfig = field(default_factory=DetectionConfig)
    """How words are found."""
    reading: Annotated[ReadingConfig, tyro.conf.arg(name="")] = field(default_factory=ReadingConfig)
    batch_size: int = 32
    """The most images read at once; fewer are filled up to this or to a fourth, a sixteenth ... of it."""

    def __post_init__(self) -> None:
        if not self.images:
            raise ValueError("name image files or folders to read")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {self.batch_size}")
        if self.sheet and not self.sheet.lower().endswith(".png"):
            raise ValueError(f"the sheet is a PNG file: {self.sheet} does not end in .png")
        if self.attention and not self.visualise:
            raise ValueError("attention is shown in the pictures: give --visualise, too")
        if self.attention and self.detect:
            raise ValueError("attention is shown for images of single words: leave out --attention or --detect")
        if not self.detect and (self.crops != "box" or self.detection != DetectionConfig()):
            raise ValueError("crops and detection are about words that are found in pictures: give --detect, too")


def predict(arguments: PredictArguments) -> int:
    """Read and print; returns 1 if an image could not be read, else 0."""
    import jax
    from rich.console import Console
    from rich.progress import Progress

    from data_pipelines.errors import DataError, UserError
    from maerec_jax.distributed.host_memory import keep_freed_memory, run_steps_in_this_thread
    from maerec_jax.reading.named_images import LoadedAhead, open_images
    from maerec_jax.reading.recognizer import Recognizer
    from maerec_jax.scenes.detection import load_detector

    run_steps_in_this_thread()
    if jax.default_backend() == "cpu":
        keep_freed_memory()
    keep_compiled_programs()
    check_outputs(arguments.sheet)
    sources, refused = [], []
    for name in arguments.images:
        try:
            sources.append(open_images(name))
        except (UserError, DataError) as error:
            refused.append(str(error))
    if not sources:
        raise UserError("; ".join(refused))
    detector = load_detector(config=arguments.detection) if arguments.detect else None
    recognizer = Recognizer.load(
        arguments.checkpoint, arguments.reading, arguments.batch_size, tell=_tell, adapters=arguments.adapters
    )
    for reason in refused:
        _tell(f"not read: {printable(reason)}")
    for _, source in sources:
        for note in getattr(source, "notes", ()):
            _tell(note)
    failed = len(refused) + sum(getattr(source, "left_out", 0) for _, source in sources)
    total = failed + sum(len(source) for _, source in sources)
    work: _Work = _Words(arguments, recognizer) if detector is None else _Scenes(arguments, recognizer, detector)
    # Between the lines of a terminal a bar has no place.
    with Progress(console=Console(stderr=True), transient=True, disable=sys.stdout.isatty()) as progress:
        bar = progress.add_task("reading", total=total)
        for names, loaded in LoadedAhead(sources, work.load, work.size):
            readable = []
            for name, image in zip(names, loaded, strict=True):
                if isinstance(image, Exception):
                    failed += 1
                    reason = str(image) if name in str(image) else f"{name}: {image}"
                    progress.console.print(
                        f"not read: {printable(reason)}", markup=False, highlight=False, soft_wrap=True
                    )
                else:
                    readable.append((name, image))
            work.read(readable)
            progress.advance(bar, len(names))
    work.finish()
    if failed:
        _tell(f"{failed:,} of {total:,} images could not be read")
    return 1 if failed else 0


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class _Work(Protocol):
    """What is done with images."""

    size: int
    """How many of them at a time."""

    def load(self, pixels: "np.ndarray", name: str) -> Any:
        """Make what ``read`` takes of an image."""
        ...

    def read(self, images: list[tuple[str, Any]]) -> None:
        """Read images, and print what was read."""
        ...

    def finish(self) -> None:
        """Write what belongs to the end."""
        ...


class _Words:
    """Images are words."""

    def __init__(self, arguments: PredictArguments, recognizer: "Recognizer") -> None:
        self._arguments, self._recognizer = arguments, recognizer
        self.size = arguments.batch_size * len(recognizer.reader.shapes)
        self._show, self._sheet = WordPrinter(arguments.format), _Sheet(arguments.sheet)
        self._done, self._large = 0, 0

    def load(self, pixels: "np.ndarray", name: str) -> "tuple[np.ndarray, Prepared]":
        self._recognizer.reader.columns([name])  # the lexicon may have no words for it
        return pixels, self._recognizer.prepare_pixels(pixels, name)

    def read(self, images: "list[tuple[str, tuple[np.ndarray, Prepared]]]") -> None:
        words = self._recognizer.read_prepared(prepared for _, (_, prepared) in images)
        for (name, (pixels, prepared)), word in zip(images, words, strict=True):
            self._show(name, word)
            self._sheet.add(prepared, word)
            self._large += min(pixels.shape[:2]) >= _LARGE
            if self._arguments.visualise:
                self._draw(name, pixels, prepared, word)
            self._done += 1

    def finish(self) -> None:
        self._sheet.save()
        if self._large:
            _tell(
                f"{self._large:,} of {self._done:,} images are at least {_LARGE} pixels high and wide, and were read "
                "as one word each: --detect finds the words of whole pictures"
            )

    def _draw(self, name: str, pixels: "np.ndarray", prepared: "Prepared", word: Word) -> None:
        from data_pipelines.images.resizing import turn_image
        from maerec_jax.reading.pictures import annotated_picture, save_picture

        maps = self._recognizer.attention(prepared, word) if self._arguments.attention and word.text else None
        picture = annotated_picture(
            turn_image(pixels, word.turns), word.text, word.confidence, word.character_confidences, maps
        )
        save_picture(picture, _drawn(self._arguments.visualise, self._done, name, ".png"))


class _Scenes:
    """Images are pictures in which words have to be found."""

    size = 1  # a picture may have a hundred megabytes

    def __init__(self, arguments: PredictArguments, recognizer: "Recognizer", detector: Detector) -> None:
        from maerec_jax.scenes.scene_reader import SceneReader

        self._folder, self._reader = arguments.visualise, SceneReader(recognizer, detector, arguments.crops)
        self._show, self._sheet = ScenePrinter(arguments.format), _Sheet(arguments.sheet)
        self._done, self._without_words = 0, 0

    def load(self, pixels: "np.ndarray", name: str) -> "PreparedScene":
        return self._reader.prepare_pixels(pixels, name)

    def read(self, images: "list[tuple[str, PreparedScene]]") -> None:
        from maerec_jax.reading.pictures import save_picture
        from maerec_jax.scenes.drawing import annotated_scene

        scenes = self._reader.read_prepared(prepared for _, prepared in images)
        for (name, prepared), scene in zip(images, scenes, strict=True):
            self._show(name, scene)
            self._without_words += not scene.words
            for each in scene.words:
                self._sheet.add(each.prepared, each.word)
            if self._folder:
                picture = annotated_scene(prepared.pixels, scene)
                save_picture(picture, _drawn(self._folder, self._done, name, ".jpg"))
            self._done += 1

    def finish(self) -> None:
        self._sheet.save()
        if self._without_words:
            _tell(f"{self._without_words:,} of {self._done:,} pictures have no words")


class _Sheet:
    """The first words with their readings in one picture."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._pictures: list[np.ndarray] = []
        self._samples: list[dict[str, Any]] = []

    def add(self, prepared: "Prepared", word: Word) -> None:
        if self._path and len(self._samples) < 48:
            self._pictures.append(prepared.picture(word))
            self._samples.append({"text": None, "reading": word.text, "confidence": word.confidence})

    def save(self) -> None:
        from maerec_jax.reading.pictures import readings_sheet, save_picture

        picture = readings_sheet(self._pictures, self._samples)
        if picture is not None:
            save_picture(picture, self._path)


def _drawn(folder: str, number: int, name: str, ending: str) -> Path:
    """Where an image is drawn: files of folders may share a name, and names may be too long with a number before."""
    stem = Path(name).stem.encode()[:80].decode(errors="ignore")
    return Path(folder) / f"{number:06d}_{stem}{ending}"


if __name__ == "__main__":
    sys.exit(run_command(PredictArguments, predict, "python -m maerec_jax.predict"))
