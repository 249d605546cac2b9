"""Read words: ``python -m maerec_jax.predict IMAGE_OR_FOLDER_OR_LMDB ... --checkpoint runs/maerec_s [--detect]``."""

import csv
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import numpy as np
import tyro

from data_pipelines.command import check_outputs, keep_compiled_programs, main_of, tell
from data_pipelines.errors import DataError, UserError
from data_pipelines.images.crops import Crops
from data_pipelines.images.resizing import turn_image
from data_pipelines.sources.records import Source
from maerec_jax.reading.marking import printable
from maerec_jax.reading.named_images import loaded_ahead, open_images
from maerec_jax.reading.settings import ReadingArguments
from maerec_jax.scenes.regions import LARGE, DetectionConfig, Detector, is_large

if TYPE_CHECKING:  # what takes long to import has no part in --help, nor in reading what does not need it
    from maerec_jax.reading.recognizer import Prepared, Recognizer
    from maerec_jax.reading.word import Word
    from maerec_jax.scenes.scene_reader import PreparedScene

_ON_SHEET = 48


@dataclass(frozen=True)
class PredictArguments(ReadingArguments):
    """Read the words in images. Prints confidence, text and file name.

    An image shows one word. With --detect, it is a whole picture whose words are found first.

    The confidence is the mean probability of the characters.

    Images that cannot be read are reported and skipped; the exit status is then 1.
    """

    images: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Image files, folders (with subfolders), ZIP archives, and LMDBs in the format of Union14M."""
    follow_links: bool = False
    """Search subfolders that are links, too."""
    format: Literal["table", "jsonl", "csv"] = "table"
    """Output: table for people; jsonl, an object per image with character confidences; csv, a row per word."""
    min_confidence: float = 0.0
    """Leave out readings with a lower confidence, from 0 to 1, and count them."""
    visualise: str = ""
    """Folder for a picture of each image with its reading, coloured by confidence."""
    attention: bool = False
    """Add attention maps to the --visualise pictures: where the model looked for each character."""
    sheet: str = ""
    """PNG file for an overview of the first 48 words and their readings."""
    detect: bool = False
    """Find and read the words of whole pictures. Needs: pip install -e '.[detect]'"""
    crops: Crops = "box"
    """How found words are cut out: box, as in Union14M; rectified, turned level; app, a box with margins."""
    detection: DetectionConfig = field(default_factory=DetectionConfig)
    """How words are found (with --detect)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.images:
            raise ValueError("no images: name image files, folders or LMDBs to read")
        if self.sheet and not self.sheet.lower().endswith(".png"):
            raise ValueError(f"--sheet {self.sheet} must end in .png")
        if self.attention and not self.visualise:
            raise ValueError("--attention needs --visualise, the folder for its pictures")
        if self.attention and self.detect:
            raise ValueError("--attention is for images of single words: leave out --attention or --detect")
        if not 0 <= self.min_confidence <= 1:
            raise ValueError(f"--min-confidence must be from 0 to 1, not {self.min_confidence}")
        if not self.detect and (self.crops != "box" or self.detection != DetectionConfig()):
            raise ValueError("--crops and --detection need --detect")


def predict(arguments: PredictArguments) -> int:
    """Read and print; returns 1 if an image could not be read, else 0."""
    import jax
    from rich.console import Console

    from data_pipelines.progress import progress_bar
    from maerec_jax.distributed.host_memory import keep_freed_memory, run_steps_in_this_thread
    from maerec_jax.reading.recognizer import Recognizer
    from maerec_jax.scenes.detection import load_detector

    run_steps_in_this_thread()
    if jax.default_backend() == "cpu":
        keep_freed_memory()
    keep_compiled_programs()
    check_outputs(arguments.sheet)
    sources, refused = _open(arguments.images, arguments.follow_links)
    detector = load_detector(config=arguments.detection) if arguments.detect else None
    recognizer = Recognizer.load(
        arguments.checkpoint, arguments.reading, arguments.batch_size, tell=tell, adapters=arguments.adapters
    )
    for reason in refused:
        tell(f"not read: {printable(reason)}")
    for _, source in sources:
        for note in getattr(source, "notes", ()):
            tell(note)
    failed = len(refused) + sum(getattr(source, "left_out", 0) for _, source in sources)
    total = failed + sum(len(source) for _, source in sources)
    work = _Words(arguments, recognizer) if detector is None else _Scenes(arguments, recognizer, detector)
    output = _Output(arguments, work.columns, work.ending)
    # Between the lines of a terminal a bar has no place.
    with progress_bar(Console(stderr=True), disable=sys.stdout.isatty()) as progress:
        bar = progress.add_task("reading", total=total)
        for loaded in loaded_ahead(sources, work.load, work.size):
            readable: list[tuple[str, Any]] = []
            for name, image in loaded:
                if isinstance(image, Exception):
                    failed += 1
                    reason = printable(str(image) if name in str(image) else f"{name}: {image}")
                    progress.console.print(f"not read: {reason}", markup=False, highlight=False, soft_wrap=True)
                else:
                    readable.append((name, image))
            for read in work.read(readable):
                output.add(read)
            progress.advance(bar, len(loaded))
    if written := output.finish():
        tell(written)
    if work.left_out:
        tell(f"{work.left_out:,} readings below {100 * arguments.min_confidence:.6g}% confidence are left out")
    if output.noted:
        tell(f"{output.noted:,} of {output.done:,} {work.note}")
    if failed:
        tell(f"{failed:,} of {total:,} images could not be read")
    return 1 if failed else 0


def _open(names: Sequence[str], follow_links: bool) -> tuple[list[tuple[str, Source]], list[str]]:
    """What can be opened of the names on the command line, and why the others cannot."""
    sources, refused = [], []
    for name in names:
        try:
            sources.append(open_images(name, follow_links))
        except (UserError, DataError) as error:
            refused.append(str(error))
    if not sources:
        raise UserError("; ".join(refused))
    return sources, refused


class _Read(NamedTuple):
    """What was read in an image, in all the forms in which it may be shown."""

    name: str
    described: dict[str, Any]  # for JSON
    rows: Sequence[Sequence[str]]  # for comma-separated values
    text: str  # for people
    words: "list[tuple[Prepared, Word]]"
    draw: Callable[[], np.ndarray]
    noted: bool  # whether it is one of those that the note at the end counts


class _Words:
    """Images are words."""

    columns, ending = ("text", "confidence"), ".png"
    note = (
        f"images are at least {LARGE} pixels high and wide, and were read as one word each; "
        "use --detect to find the words of whole pictures"
    )

    def __init__(self, arguments: PredictArguments, recognizer: "Recognizer") -> None:
        self._attention, self._recognizer = arguments.attention, recognizer
        self._least, self.left_out = arguments.min_confidence, 0
        model = recognizer.handling
        if self._attention and not model.has_attention:
            raise UserError(f"a model of kind {model.kind!r} has no attention maps: leave out --attention")
        self.size = arguments.batch_size * len(recognizer.handling.shapes)

    def load(self, pixels: np.ndarray, name: str) -> "tuple[np.ndarray, Prepared]":
        self._recognizer.handling.columns([name])  # the lexicon may have no words for it
        return pixels, self._recognizer.prepare_pixels(pixels, name)

    def read(self, images: "Sequence[tuple[str, tuple[np.ndarray, Prepared]]]") -> Iterator[_Read]:
        words = self._recognizer.read_prepared(prepared for _, (_, prepared) in images)
        for (name, (pixels, prepared)), word in zip(images, words, strict=True):
            if word.confidence < self._least:
                self.left_out += 1
                continue
            text = f"{word.confidence:6.1%}  {word.text:<24}  {printable(name)}{word.remark}{_others(word)}"
            rows = [(word.text, f"{word.confidence:.6f}")]
            draw = partial(self._draw, pixels, prepared, word)
            yield _Read(name, word.described(), rows, text, [(prepared, word)], draw, is_large(pixels))

    def _draw(self, pixels: np.ndarray, prepared: "Prepared", word: "Word") -> np.ndarray:
        from maerec_jax.reading.pictures import annotated_picture, outlined

        maps = self._recognizer.attention(prepared, word) if self._attention and word.text else None
        pixels = outlined(pixels, word.character_boxes) if word.character_boxes else pixels
        image = turn_image(pixels, word.turns)
        return annotated_picture(image, word.text, word.confidence, word.character_confidences, maps)


class _Scenes:
    """Images are pictures in which words have to be found."""

    columns, ending = ("text", "confidence", "detection_confidence", "polygon"), ".jpg"
    note = "pictures have no words"
    size = 1  # a picture may have a hundred megabytes

    def __init__(self, arguments: PredictArguments, recognizer: "Recognizer", detector: Detector) -> None:
        from maerec_jax.scenes.scene_reader import SceneReader

        self._reader = SceneReader(recognizer, detector, arguments.crops)
        self._least, self.left_out = arguments.min_confidence, 0
        self.load = self._reader.prepare_pixels

    def read(self, images: "Sequence[tuple[str, PreparedScene]]") -> Iterator[_Read]:
        from maerec_jax.scenes.drawing import annotated_scene

        scenes = self._reader.read_prepared(prepared for _, prepared in images)
        for (name, prepared), whole in zip(images, scenes, strict=True):
            scene = replace(whole, words=tuple(each for each in whole.words if each.word.confidence >= self._least))
            self.left_out += len(whole.words) - len(scene.words)
            count = f"{len(scene.words)} word{'s' * (len(scene.words) != 1)}" if scene.words else "no words"
            lines, rows = [f"{printable(name)}  ({scene.width} x {scene.height}, {count})"], []
            for each in scene.words:
                word, (left, top), (right, bottom) = each.word, each.polygon_N2.min(axis=0), each.polygon_N2.max(axis=0)
                place = f"{right - left:.0f} x {bottom - top:.0f} at {left:.0f}, {top:.0f}"
                lines.append(f"{word.confidence:8.1%}  {word.text:<24}  {place}{word.remark}{_others(word)}")
                polygon = " ".join(f"{x:.1f},{y:.1f}" for x, y in each.polygon_N2)
                rows.append((word.text, f"{word.confidence:.6f}", f"{each.detection_confidence:.6f}", polygon))
            words = [(each.prepared, each.word) for each in scene.words]
            draw = partial(annotated_scene, prepared.pixels, scene)
            yield _Read(name, scene.described(), rows, "\n".join(lines), words, draw, not whole.words)


def _others(word: "Word") -> str:
    return "".join(f"  | {other.text}" for other in word.alternatives)


class _Output:
    """Prints and draws what was read: each image at once, the sheet at the end."""

    def __init__(self, arguments: PredictArguments, columns: Sequence[str], ending: str) -> None:
        self._arguments, self._ending, self._csv = arguments, ending, csv.writer(sys.stdout)
        self._sheet: list[tuple[Prepared, Word]] = []
        self.done, self.noted = 0, 0
        if arguments.format == "csv":
            self._csv.writerow(["file", *columns])

    def add(self, read: _Read) -> None:
        if self._arguments.format == "jsonl":
            print(json.dumps({"file": read.name, **read.described}, ensure_ascii=False))
        elif self._arguments.format == "csv":
            self._csv.writerows([read.name, *row] for row in read.rows)
        else:
            print(read.text)
        if self._arguments.visualise:
            from maerec_jax.reading.pictures import save_picture

            # Files of several folders may share a name, and names may be too long with a number before.
            stem = Path(read.name).stem.encode()[:80].decode(errors="ignore")
            save_picture(read.draw(), Path(self._arguments.visualise) / f"{self.done:06d}_{stem}{self._ending}")
        if self._arguments.sheet:
            self._sheet += read.words[: _ON_SHEET - len(self._sheet)]
        self.done += 1
        self.noted += read.noted

    def finish(self) -> str:
        """Draw the sheet; returns a line that says which pictures were written, "" for none."""
        written = []
        if self._arguments.visualise and self.done:
            written.append(f"{self.done:,} picture{'s' * (self.done > 1)} to {self._arguments.visualise}")
        if words := len(self._sheet):
            from maerec_jax.reading.pictures import readings_sheet, save_picture

            samples = [{"text": None, "reading": word.text, "confidence": word.confidence} for _, word in self._sheet]
            sheet = readings_sheet([prepared.picture(word) for prepared, word in self._sheet], samples)
            assert sheet is not None
            save_picture(sheet, self._arguments.sheet)
            written.append(f"{words} word{'s' * (words > 1)} to {self._arguments.sheet}")
        return f"wrote {' and '.join(written)}" if written else ""


main = main_of(PredictArguments, predict, "maerec_jax.predict")

if __name__ == "__main__":
    sys.exit(main())
