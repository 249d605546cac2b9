"""Read word images: ``python -m maerec_jax.predict IMAGE_OR_FOLDER_OR_LMDB ... --checkpoint runs/maerec_s``."""

import csv
import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from maerec_jax.command import check_outputs, keep_compiled_programs, run_command
from maerec_jax.evaluation.marking import printable
from maerec_jax.reading import ReadingConfig, Word

if TYPE_CHECKING:
    import numpy as np

    from data_pipelines.records import Source
    from maerec_jax.recognizer import Prepared, Recognizer


@dataclass(frozen=True)
class PredictArguments:
    """Read the words in image files, and print file, text and confidence for each.

    The confidence is the mean of the model's probabilities of the characters. Images that cannot be read are named, the
    others are read, and the exit status is 1.
    """

    images: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Image files, folders that are searched with their subfolders, and LMDBs as Union14M has them."""
    checkpoint: str = ""
    """Workdir of a fine-tuning run, one of its checkpoints, or an exported .safetensors file; by default the weights
    that come with the package, if any do."""
    adapters: str = ""
    """File of adapters and text decoder of a LoRA fine-tuning; the checkpoint is then the one that it started from."""
    format: Literal["table", "jsonl", "csv"] = "table"
    """Output: a line of columns, a JSON object with the confidence of each character, or comma-separated values."""
    visualise: str = ""
    """Also draw each image with its reading, coloured by confidence, into this folder."""
    attention: bool = False
    """Show in these pictures where the model looked for each character, too."""
    sheet: str = ""
    """Also draw the words with their readings into this one PNG file (the first 48)."""
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


def predict(arguments: PredictArguments) -> int:
    """Read and print; returns 1 if an image could not be read, else 0."""
    import jax
    from rich.console import Console
    from rich.progress import Progress

    from data_pipelines.records import DataError
    from maerec_jax.config import UserError
    from maerec_jax.pictures import readings_sheet, save_picture
    from maerec_jax.recognizer import Recognizer
    from maerec_jax.training.host_memory import keep_freed_memory, run_steps_in_this_thread

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
    recognizer = Recognizer.load(
        arguments.checkpoint, arguments.reading, arguments.batch_size, tell=_tell, adapters=arguments.adapters
    )
    for reason in refused:
        _tell(f"not read: {printable(reason)}")
    for _, source in sources:
        for note in getattr(source, "notes", ()):
            _tell(note)
    failed, done = len(refused) + sum(getattr(source, "left_out", 0) for _, source in sources), 0
    total = failed + sum(len(source) for _, source in sources)
    show = _Output(arguments.format)
    pictures: list[np.ndarray] = []
    samples: list[dict[str, Any]] = []
    chunks = _Chunks(recognizer, sources, arguments.batch_size * len(recognizer.reader.shapes))
    # Between the lines of a terminal a bar has no place.
    with Progress(console=Console(stderr=True), transient=True, disable=sys.stdout.isatty()) as progress:
        bar = progress.add_task("reading", total=total)
        for names, loaded in chunks:
            for name, image in zip(names, loaded, strict=True):
                if isinstance(image, Exception):
                    failed += 1
                    reason = str(image) if name in str(image) else f"{name}: {image}"
                    progress.console.print(
                        f"not read: {printable(reason)}", markup=False, highlight=False, soft_wrap=True
                    )
            pairs = zip(names, loaded, strict=True)
            readable = [(name, image) for name, image in pairs if not isinstance(image, Exception)]
            words = recognizer.read_prepared(image.prepared for _, image in readable)
            for (name, image), word in zip(readable, words, strict=True):
                show(name, word)
                if len(samples) < 48:
                    pictures.append(image.prepared.ways[image.prepared.turns.index(word.turns)])
                    samples.append({"text": None, "reading": word.text, "confidence": word.confidence})
                if arguments.visualise:
                    stem = Path(name).stem.encode()[:80].decode(errors="ignore")
                    _visualise(arguments, recognizer, f"{done:06d}_{stem}.png", image, word)
                done += 1
            progress.advance(bar, len(names))
    picture = readings_sheet(pictures, samples)
    if arguments.sheet and picture is not None:
        save_picture(picture, arguments.sheet)
    if failed:
        _tell(f"{failed:,} of {total:,} images could not be read")
    return 1 if failed else 0


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def open_images(name: str) -> tuple[str, "Source"]:
    """What a name on the command line stands for, an image, a folder or an LMDB.

    Returns:
      What to put before the names of its images, and the images.

    Raises:
      UserError: where there is nothing of that name.
    """
    from data_pipelines.packed_strings import PackedStrings
    from data_pipelines.sources import Folder, ImageFolder, LmdbWords
    from maerec_jax.config import UserError

    path = Path(name)
    if path.is_dir():
        if (path / "data.mdb").is_file():
            return "", LmdbWords(path=name, labelled=False).open(Path())
        return name.rstrip("/") + "/", Folder(path=".").open(path)
    if not path.exists():
        raise UserError(f"no such image or folder: {name}")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{os.fsencode(name)!r}: its name is not UTF-8: rename it") from error
    return "", ImageFolder(Path(), PackedStrings.pack([name]))


@dataclass(frozen=True)
class _Loaded:
    """An image as it is stored, and as it is read."""

    pixels: "np.ndarray"
    prepared: "Prepared"


class _Chunks:
    """Images and their names, some at a time; the next are loaded while these are read.

    An image that cannot be loaded is given as its error.
    """

    def __init__(self, recognizer: "Recognizer", sources: list[tuple[str, "Source"]], size: int) -> None:
        self._recognizer, self._sources, self._size = recognizer, sources, size

    def __iter__(self) -> Iterator[tuple[list[str], list[_Loaded | Exception]]]:
        places = ((prefix, source, index) for prefix, source in self._sources for index in range(len(source)))
        with ThreadPoolExecutor(1) as pool:
            pending = pool.submit(self._load, list(islice(places, self._size)))
            while True:
                names, loaded = pending.result()
                if not names:
                    return
                pending = pool.submit(self._load, list(islice(places, self._size)))
                yield names, loaded

    def _load(self, places: list[tuple[str, "Source", int]]) -> tuple[list[str], list[_Loaded | Exception]]:
        names = [prefix + source.name(index) for prefix, source, index in places]
        return names, [self._image(name, source, index) for name, (_, source, index) in zip(names, places, strict=True)]

    def _image(self, name: str, source: "Source", index: int) -> _Loaded | Exception:
        from data_pipelines.decoding import DecodeError, pixels_of
        from data_pipelines.records import RecordError
        from maerec_jax.config import UserError

        try:
            pixels = pixels_of(source[index])
            self._recognizer.reader.columns([name])  # the lexicon may have no words for it
            return _Loaded(pixels, self._recognizer.prepare_pixels(pixels, name))
        except (DecodeError, RecordError, UserError) as error:
            return error


class _Output:
    """Prints readings in one of the formats."""

    def __init__(self, form: str) -> None:
        self._form = form
        self._csv = csv.writer(sys.stdout)
        if form == "csv":
            self._csv.writerow(["file", "text", "confidence"])

    def __call__(self, name: str, word: Word) -> None:
        if self._form == "jsonl":
            print(json.dumps({"file": name, **word.described()}, ensure_ascii=False))
        elif self._form == "csv":
            self._csv.writerow([name, word.text, f"{word.confidence:.6f}"])
        else:
            others = "".join(f"  | {other.text}" for other in word.alternatives)
            print(f"{word.confidence:6.1%}  {word.text:<24}  {printable(name)}{others}")


def _visualise(arguments: PredictArguments, recognizer: "Recognizer", name: str, image: _Loaded, word: Word) -> None:
    """Draw an image with its reading."""
    from data_pipelines.resizing import turn_image
    from maerec_jax.pictures import annotated_picture, save_picture

    maps = recognizer.attention(image.prepared, word) if arguments.attention and word.text else None
    picture = annotated_picture(
        turn_image(image.pixels, word.turns), word.text, word.confidence, word.character_confidences, maps
    )
    save_picture(picture, Path(arguments.visualise) / name)


if __name__ == "__main__":
    sys.exit(run_command(PredictArguments, predict, "python -m maerec_jax.predict"))
