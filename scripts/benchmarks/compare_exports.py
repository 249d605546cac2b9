"""Compare exported files with their checkpoint: compare_exports.py FILE --checkpoint DIR --data ROOT"""

import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro
from exported_readers import Read, open_reader
from rich.console import Console
from rich.progress import track
from rich.table import Table

from data_pipelines.command import run_command
from maerec_jax.reading.scoring import HEADLINE, Scores

if TYPE_CHECKING:
    from data_pipelines.charset import Charset
    from maerec_jax.reading.reader import Word
    from maerec_jax.reading.recognizer import Prepared, Recognizer

CONSOLE = Console(width=None if sys.stdout.isatty() else 120)
_SHOWN = 20


@dataclass(frozen=True)
class CompareArguments:
    """Read sets of labelled words with a checkpoint and with what was exported of it, and compare texts and accuracies.

    The checkpoint reads as ``Recognizer`` does. Differences of 1e-6 in what the models compute decide about a text only
    where two classes are as good as equally likely: such texts are listed with how likely both were.
    """

    files: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Files that maerec_jax.export wrote: .onnx, .stablehlo, or .safetensors."""
    checkpoint: str
    """What they come from: the workdir of a fine-tuning run, or one of its checkpoints."""
    data: str
    """Data root."""
    sets: tuple[str, ...] = ()
    """As those of maerec_jax.evaluate: names of sets, or annotation files and folders relative to the data root."""
    batch_size: int = 64
    """Images at a time."""

    def __post_init__(self) -> None:
        if not self.files or self.batch_size < 1:
            raise ValueError("name exported files, and a batch size of at least 1")


def read_all(read: Read, images: "Sequence[Prepared]", charset: "Charset", batch_size: int) -> "list[Word]":
    """Read images as ``Recognizer.read_prepared`` does, those of one size at a time."""
    from maerec_jax.reading.reader import word_of

    groups: dict[tuple[int, ...], list[tuple[int, int]]] = defaultdict(list)
    for number, image in enumerate(images):
        for way, pixels in enumerate(image.ways):
            groups[pixels.shape].append((number, way))
    best: dict[int, Any] = {}
    for places in groups.values():
        for start in range(0, len(places), batch_size):
            rows = places[start : start + batch_size]
            tokens_BT, probability_BT = read(np.stack([images[number].ways[way] for number, way in rows]))
            made = {"tokens_BKT": tokens_BT[:, None], "probability_BKT": probability_BT[:, None]}
            for row, (number, _) in enumerate(rows):
                word = word_of(made, row, charset)
                if number not in best or word.confidence > best[number].confidence:
                    best[number] = word
    return [best[number] for number in range(len(images))]


def images_of(recognizer: "Recognizer", source: Any) -> Iterator[tuple["Prepared", str, str]]:
    """Prepared images of a set that can be decoded, their labels and their names."""
    from data_pipelines.errors import RecordError
    from data_pipelines.images.decoding import DecodeError, pixels_of

    for index in range(len(source)):
        try:
            record = source[index]
            image = recognizer.prepare_pixels(pixels_of(record), source.name(index))
        except (DecodeError, RecordError) as error:
            CONSOLE.print(f"left out: {source.name(index)}: {error}", markup=False, highlight=False)
            continue
        yield image, record.text, source.name(index)


class Tally:
    """Accuracies of each reader over the words of a set, and where texts are not those of the checkpoint."""

    def __init__(self, names: Sequence[str]) -> None:
        self.scores = {name: Scores() for name in names}
        self.other_texts = dict.fromkeys(names[1:], 0)
        self.largest = dict.fromkeys(names[1:], 0.0)
        """How far confidences are from the checkpoint's where the texts are the same."""
        self.lines: list[str] = []

    def add(self, words: "dict[str, Word]", truth: str, image: str) -> None:
        """Count what the readers, the checkpoint first, have read in an image."""
        ours = next(iter(words.values()))
        for name, word in words.items():
            self.scores[name].add(word.text, truth)
            if word.text != ours.text:
                self.other_texts[name] += 1
                self.lines.append(f"{name}: {image}: {_told(word)}, checkpoint {_told(ours)}, label {truth!r}")
            elif word is not ours:
                self.largest[name] = max(self.largest[name], abs(word.confidence - ours.confidence))

    def add_rows(self, table: Table, title: str) -> None:
        """A row for each reader: words, accuracies in percent, the number of other texts."""
        for name, scores in self.scores.items():
            found = scores.summary()
            accuracies = [f"{100 * found[metric]:.2f}" for metric in ("word_accuracy", HEADLINE)]
            others = f"{self.other_texts[name]:,}" if name in self.other_texts else ""
            table.add_row(title, f"{scores.words:,}", name, *accuracies, others)
            title = ""
        table.add_section()


def _told(word: "Word") -> str:
    return f"{word.text!r} (least likely character {min(word.character_confidences, default=0.0):.4f})"


def compare(arguments: CompareArguments) -> int:
    """Read, print the tables; returns 0."""
    from dataclasses import replace

    from maerec_jax.evaluation.sets import find_sets
    from maerec_jax.reading.recognizer import Recognizer
    from maerec_jax.training.data import open_sources
    from maerec_jax.weights.finding import load_recognizer

    def message(text: str) -> None:
        CONSOLE.print(text, markup=False, highlight=False)

    config = load_recognizer(arguments.checkpoint)[0]
    config = replace(config, data=replace(config.data, root=arguments.data, unknown_characters="keep"))
    recognizer = Recognizer.load(arguments.checkpoint, batch_size=arguments.batch_size)
    charset = recognizer.reader.config.charset
    readers = {Path(file).name: open_reader(file) for file in arguments.files}
    names = ["checkpoint", *readers]
    table = Table("set", "words", "read with", "WA", "WAICS", "other texts")
    total, progress = Tally(names), Console(stderr=True)
    for measured in find_sets(Path(arguments.data), arguments.sets, message):
        source = open_sources(config, (measured.spec,), message)
        tally = Tally(names)
        stream, size = images_of(recognizer, source), 8 * arguments.batch_size
        parts = range(-(-len(source) // size))
        for _ in track(parts, measured.name, console=progress, transient=True, disable=not progress.is_terminal):
            chunk = list(islice(stream, size))
            images = [image for image, _, _ in chunk]
            words = {"checkpoint": list(recognizer.read_prepared(images))}
            words |= {name: read_all(read, images, charset, arguments.batch_size) for name, read in readers.items()}
            for i, (_, truth, image) in enumerate(chunk):
                for each in (tally, total):
                    each.add({name: words[name][i] for name in names}, truth, image)
        tally.add_rows(table, measured.name)
    total.add_rows(table, "all")
    CONSOLE.print(table)
    for name, value in total.largest.items():
        message(f"{name}: where the text is the same, confidences differ by {value:.1e} at most")
    for line in total.lines[:_SHOWN]:
        message(line)
    if len(total.lines) > _SHOWN:
        message(f"and {len(total.lines) - _SHOWN:,} other texts")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(CompareArguments, compare, "python scripts/benchmarks/compare_exports.py"))
