"""Measure exported files: python scripts/benchmarks/exports.py --checkpoint DIR, or --size s --places 6"""

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Literal

import jax
import numpy as np
from models import Size, recognizer
from rich.console import Console
from rich.table import Table
from turns import Contenders, cores, ratio

from data_pipelines.command import run_command
from data_pipelines.errors import RecordError
from data_pipelines.images.decoding import DecodeError, pixels_of
from maerec_jax.config import TrainConfig
from maerec_jax.distributed.host_memory import keep_freed_memory, run_steps_in_this_thread
from maerec_jax.evaluation.sets import find_sets
from maerec_jax.interop.onnx_file import write_onnx
from maerec_jax.interop.stablehlo_file import write_stablehlo
from maerec_jax.reading.reader import jitted
from maerec_jax.reading.recognizer import Recognizer
from maerec_jax.reading.scoring import HEADLINE, Scores
from maerec_jax.weights.finding import save_weights

CONSOLE = Console(width=None if sys.stdout.isatty() else 120, markup=False, highlight=False)
Kind = Literal["jax", "onnx", "onnx-int8", "stablehlo"]
FILES: dict[Kind, tuple[str, Callable[..., Any]]] = {
    "jax": (".safetensors", save_weights),
    "onnx": (".onnx", write_onnx),
    "onnx-int8": ("-int8.onnx", partial(write_onnx, int8=True)),
    "stablehlo": (".stablehlo", write_stablehlo),
}
"""How a file is named, and what writes it."""
Batch = dict[str, np.ndarray]
"""``image``, uint8 RGB (B, H, W, 3); ``width``, int32 (B), for models that keep the aspect ratio."""
Step = Callable[[Batch], dict[str, np.ndarray]]
"""To ``tokens_BKT`` and ``probability_BKT``, as ``reading.reader.Reader.step``."""


@dataclass(frozen=True)
class ExportArguments:
    """Measure how long a checkpoint and its exported files take to read; with --data, compare their accuracies.

    Contenders take turns on the same random images, each in its own process with threads for all cores.

    Ratios compare runs of the same turn. Use an idle machine.
    """

    checkpoint: str = ""
    """Recogniser: workdir, checkpoint or .safetensors file."""
    size: Size = "s"
    """Size of a random model, if no checkpoint is given."""
    places: int = 0
    """Length of all words in characters; 0 leaves it to the model."""
    contenders: tuple[Kind, ...] = ("jax", "onnx", "onnx-int8", "stablehlo")
    """Contenders; times, and with --data texts, are compared with those of the first."""
    batch_sizes: tuple[int, ...] = (1, 32)
    """Images per batch; with --data only the last is used."""
    seconds: float = 10.0
    """Seconds per contender and batch size (at least 3 runs)."""
    data: str = ""
    """Data root: read labelled sets instead, and compare texts and accuracies."""
    sets: tuple[str, ...] = ()
    """Names of sets, or annotation lists and folders relative to the data root, as in maerec_jax.evaluate."""


def endless(config: TrainConfig, params: Any, places: int) -> tuple[TrainConfig, Any]:
    """The recogniser as one that never ends a text before the last of so many places."""
    model: Any = config.model
    classifier = params["decoder"]["classifier"]
    is_end = np.arange(model.charset.n_classes) == model.charset.start_end
    unlikely = {**classifier, "bias": classifier["bias"] - 1e4 * is_end.astype(np.float32)}
    model = replace(model, decoder=replace(model.decoder, max_length=places))
    return replace(config, model=model), {**params, "decoder": {**params["decoder"], "classifier": unlikely}}


def write_files(config: TrainConfig, params: Any, contenders: Sequence[Kind], folder: Path) -> dict[str, Path]:
    """A file for each contender."""
    found: dict[str, Path] = {}
    for name in contenders:
        ending, write = FILES[name]
        found[name] = folder / f"model{ending}"
        with CONSOLE.status(f"writing {found[name].name}"):
            write(found[name], config, params, 0)
    return found


def open_step(path: Path) -> Step:
    """What reads with an exported file, or with weights as ``Recognizer`` does."""
    if path.suffix == ".safetensors":
        reader = Recognizer.load(path).reader
        compiled = jitted(reader.step)
        return lambda batch: jax.device_get(compiled(reader.weights, batch))
    sys.path.append(str(Path(__file__).parents[1]))
    from read_exported import open_onnx, open_stablehlo

    read = open_onnx(str(path), cores())[1] if path.suffix == ".onnx" else open_stablehlo(str(path))[1]

    def step(batch: Batch) -> dict[str, np.ndarray]:
        tokens_BT, probability_BT = read(*(batch[name] for name in ("image", "width") if name in batch))
        return {"tokens_BKT": tokens_BT[:, None], "probability_BKT": probability_BT[:, None]}

    return step


class Reading:
    def __init__(self, path: Path) -> None:
        run_steps_in_this_thread()
        keep_freed_memory()
        self._step = open_step(path)

    def run(self, batch: Batch) -> tuple[float]:
        """Seconds that reading takes."""
        begin = time.perf_counter()
        self._step(batch)
        return (time.perf_counter() - begin,)


def random_batch(rng: np.random.Generator, model: Any, images: int) -> Batch:
    """Images that fill the whole width."""
    height, width = model.image_size
    batch = {"image": rng.integers(0, 256, (images, height, width, 3), np.uint8)}
    return batch | ({"width": np.full(images, width, np.int32)} if model.keep_ratio is not None else {})


def measure(arguments: ExportArguments, files: dict[str, Path], model: Any) -> Table:
    """Times of all contenders."""
    rng = np.random.default_rng(0)
    table = Table("images", "contender", "file", "runs", "median ms", "time, of the first's")
    for batch in arguments.batch_sizes:
        images = partial(random_batch, rng, model, batch)
        with Contenders(CONSOLE) as running:
            for name, path in files.items():
                if running.start(name, Reading, path):
                    running.ask(name, "run", images())  # compiles
            found = running.take_turns(arguments.seconds, 3, images)
        for name, turns in found.items():
            size = f"{files[name].stat().st_size / 1e6:.1f} MB"
            numbers = f"{1e3 * median(turns.values()):.2f}", f"{ratio(turns, next(iter(found.values()))):.2f}"
            table.add_row(str(batch), name, size, str(len(turns)), *numbers)
        table.add_section()
    return table


def compare(arguments: ExportArguments, files: dict[str, Path], first: Recognizer) -> Table:
    """Accuracies in percent of all contenders over sets of labelled words, and how many texts are not the first's."""
    recognizers: dict[str, Any] = {}
    for name, path in files.items():
        recognizers[name] = copy(first)
        recognizers[name]._read = open_step(path)
    table = Table("set", "words", "read with", "WA", "WAICS", "other texts", "confidences differ by")
    for title, spec in find_sets(Path(arguments.data), arguments.sets, CONSOLE.print).items():
        source = spec.open(Path(arguments.data))
        images, labels = [], []
        for index in range(len(source)):
            try:
                images.append(first.prepare_pixels(pixels_of(source[index])))
            except (DecodeError, RecordError) as error:
                CONSOLE.print(f"left out: {source.name(index)}: {error}")
                continue
            labels.append(source.text(index) or "")
        words = {name: list(each.read_prepared(images)) for name, each in recognizers.items()}
        reference = next(iter(words.values()))
        for name, read in words.items():
            scores = Scores()
            for word, label in zip(read, labels, strict=True):
                scores.add(word.text, label)
            told = scores.summary()
            same = [(a, b) for a, b in zip(read, reference, strict=True) if a.text == b.text]
            most = max((abs(a.confidence - b.confidence) for a, b in same), default=0.0)
            cells = [f"{100 * told[metric]:.2f}" for metric in ("word_accuracy", HEADLINE)]
            cells += [f"{len(read) - len(same):,}", f"{most:.0e}"]
            table.add_row(title, f"{len(read):,}", name, *cells)
        table.add_section()
    return table


def benchmark(arguments: ExportArguments) -> int:
    config, params = recognizer(arguments.checkpoint, arguments.size)
    if arguments.places:
        config, params = endless(config, params, arguments.places)
    with tempfile.TemporaryDirectory() as folder:
        files = write_files(config, params, arguments.contenders, Path(folder))
        if arguments.data:
            table = compare(arguments, files, Recognizer(config, params, batch_size=arguments.batch_sizes[-1]))
        else:
            table = measure(arguments, files, config.model)
    CONSOLE.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(ExportArguments, benchmark, "python scripts/benchmarks/exports.py"))
