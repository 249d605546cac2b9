"""Measure reading: python scripts/benchmarks/reading.py"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any, Literal

import jax
import numpy as np
from models import Size, recognizer
from reading_ways import make_reading
from rich.console import Console
from rich.table import Table
from turns import Contenders, ratio

from data_pipelines.command import run_command
from data_pipelines.errors import UserError
from data_pipelines.sources.annotations import read_annotations
from maerec_jax.models.int8 import quantize

CONSOLE = Console(width=None if sys.stdout.isatty() else 150, markup=False, highlight=False)
Way = Literal["cached", "all-places", "recomputed", "torch", "encoder"]
# Of the 7,104 training labels of a sample of Union14M-L.
LABELS_OF_LENGTH = {
    1: 138, 2: 330, 3: 1218, 4: 1534, 5: 1092, 6: 938, 7: 755, 8: 462, 9: 283, 10: 175, 11: 86, 12: 47, 13: 20, 14: 11,
    15: 2, 16: 7, 18: 1, 19: 1, 20: 2, 21: 1, 24: 1,
}  # fmt: skip
# Words that may be read otherwise, where two classes are as good as equally likely and rounding decides.
ALLOWED = {"float32": 0.01, "bfloat16": 0.2}


@dataclass(frozen=True)
class DecodeArguments:
    """Measure how fast words are read, from uint8 images on the device to tokens.

    Words have realistic lengths, at which the models are made to stop; so random weights will do. Contenders:

    cached: the project's decoding, with cached keys and values, until the last word of the batch has ended

    all-places: the same, but always 48 steps

    recomputed: a full pass over all positions per step, as in the original code

    torch: the PyTorch twin (maerec_jax/interop/pytorch_twin.py), cached, if torch is installed

    encoder: the image encoder alone

    Contenders take turns in processes of their own, and must write the same tokens. Ratios compare runs of a turn;
    "decoding" excludes the encoder. Compile times are without a cache. Use an idle machine, for PyTorch's sake.
    """

    size: Size = "s"
    """Size of the model."""
    checkpoint: str = ""
    """Recogniser to measure instead: workdir, checkpoint or .safetensors file."""
    batch_sizes: tuple[int, ...] = (1, 8, 32, 256)
    """Images per batch."""
    contenders: tuple[Way, ...] = ("cached", "all-places", "recomputed", "torch", "encoder")
    """Contenders, in the order of their turns; ratios are relative to "cached"."""
    labels: str = ""
    """Annotation list to draw word lengths from; default: the lengths of 7,104 labels of Union14M-L."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the computation."""
    int8: bool = False
    """Use 8-bit weights; leaves out PyTorch."""
    seconds: float = 10.0
    """Seconds per contender and batch size, without compiling and the first run."""
    fewest: int = 3
    """Runs of each contender, at least. With 0 here and for seconds, only the first run is made."""

    def __post_init__(self) -> None:
        if not self.batch_sizes or min(self.batch_sizes) < 1:
            raise ValueError(f"batch_sizes must be 1 or more, not {self.batch_sizes}")
        if not self.contenders or len(set(self.contenders)) < len(self.contenders):
            raise ValueError(f"name each contender once, not {self.contenders}")
        if self.seconds < 0 or self.fewest < 0:
            raise ValueError(f"seconds and fewest must not be negative, but are {self.seconds} and {self.fewest}")


def known_lengths(labels: str) -> np.ndarray:
    """Lengths of labels, int (labels,)."""
    if not labels:
        return np.repeat(list(LABELS_OF_LENGTH), list(LABELS_OF_LENGTH.values()))
    texts = read_annotations(Path(labels)).texts
    if texts is None or not len(texts):
        raise UserError(f"{labels}: no labels")
    return np.array([len(text) for text in texts])


def check(found: dict[str, np.ndarray], dtype: str) -> None:
    """See that all contenders have read the same. Raises ``UserError`` where they have not."""
    reference, *others = found
    for name in others:
        differ = int((found[name] != found[reference]).any(axis=1).sum())
        if differ > ALLOWED[dtype] * len(found[name]):
            raise UserError(f"{name} reads {differ} of {len(found[name])} words otherwise than {reference}")


def measure(arguments: DecodeArguments, config: Any, params: Any, size: int) -> Table:
    """All numbers of a batch size."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (size, *config.encoder.image_size, 3), np.uint8)
    known = np.minimum(known_lengths(arguments.labels), config.decoder.max_length - 1)
    with Contenders(CONSOLE) as running:
        for way in arguments.contenders:
            running.start(way, make_reading, way, config, params, image, arguments.dtype)
        lengths = rng.choice(known, size)
        first = {name: running.ask(name, "run", lengths) for name in running.names}
        words = {name: first[name][1] for name in running.names if name != "encoder"}
        if words:
            check(words, arguments.dtype)
        found = running.take_turns(arguments.seconds, arguments.fewest, lambda: rng.choice(known, size))
        seconds = {name: turns or {0: first[name][0]} for name, turns in found.items()}
        compiling = {name: running.ask(name, "compile_seconds") for name in seconds}
    encoder = median(seconds["encoder"].values()) if "encoder" in seconds else None
    title = f"{size} images, {arguments.dtype}{', int8 weights' if arguments.int8 else ''}"
    columns = ("p50, ms", "p90, ms", "p99, ms", "images/s", "runs", "compiling, s", "cached is", "its decoding is")
    table = Table("", *columns, title=title)
    for name, turns in seconds.items():
        times = list(turns.values())
        cells = [f"{1000 * percentile:,.1f}" for percentile in np.percentile(times, (50, 90, 99))]
        cells += [f"{size / fmean(times):,.1f}", str(len(times)), f"{compiling[name]:.1f}"]
        if "cached" in seconds and name not in ("cached", "encoder"):
            cells.append(f"{ratio(turns, seconds['cached'], fmean):.1f} times as fast")
            if encoder is not None and encoder < fmean(seconds["cached"].values()):
                cells.append(f"{ratio(turns, seconds['cached'], fmean, encoder):.1f} times as fast")
        table.add_row(name, *cells)
    return table


def benchmark(arguments: DecodeArguments) -> int:
    run, params = recognizer(arguments.checkpoint, arguments.size)
    model: Any = run.model
    config = replace(model, encoder=replace(model.encoder, remat=False))
    if arguments.int8:
        arguments = replace(arguments, contenders=tuple(c for c in arguments.contenders if c != "torch"))
        params = quantize(params)
    CONSOLE.print(f"{jax.devices()[0].platform} ({jax.devices()[0].device_kind}), jax {jax.__version__}")
    for size in arguments.batch_sizes:
        CONSOLE.print(measure(arguments, config, params, size))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(DecodeArguments, benchmark, "scripts/benchmarks/reading.py"))
