"""Measure reading: python scripts/benchmarks/reading.py"""

import json
import os
import statistics
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.table import Table
from turns import ContenderProcess, DroppedOutError

from data_pipelines.command import run_command

CONSOLE = Console(width=None if sys.stdout.isatty() else 150)
Contender = Literal["cached", "all-places", "recomputed", "torch", "torch-recomputed", "encoder"]
# Of the 7,104 training labels of a sample of Union14M-L.
LABELS_OF_LENGTH = {
    1: 138, 2: 330, 3: 1218, 4: 1534, 5: 1092, 6: 938, 7: 755, 8: 462, 9: 283, 10: 175, 11: 86, 12: 47, 13: 20, 14: 11,
    15: 2, 16: 7, 18: 1, 19: 1, 20: 2, 21: 1, 24: 1,
}  # fmt: skip
_FIRST = -1  # the turn that comes before those that count
# Words that may be read otherwise, where two classes are as good as equally likely and rounding decides.
ALLOWED = {"float32": 0.01, "bfloat16": 0.2}


@dataclass(frozen=True)
class DecodeArguments:
    """Measure how fast words are read, from uint8 images that lie on the device to tokens.

    Words are as long as real ones: each run draws lengths, and the models are made to end their words there. All that
    is computed for a word is as it would be, so random weights serve as well as trained ones. The contenders are

    cached: the project's reading, with kept keys and values, until the last word of the batch has ended;

    all-places: the same, but for as many steps as there are places (48);

    recomputed: as many full passes over all places, with nothing kept but the encoded image: the reference's way;

    torch: the PyTorch twin (maerec_jax/interop/pytorch_twin.py), cached, in inference mode, where torch is installed;

    torch-recomputed: the reference's way in PyTorch;

    encoder: the image encoder alone, which all of them run.

    They take turns, each in a process of its own and on the same lengths, and have to write the same tokens. Ratios
    compare the runs of the same turns, "decoding" with the encoder's time taken off. Compile times are those without a
    cache. The machine should be idle: PyTorch's threads wait for each other much longer than JAX's where it is not.
    """

    size: Literal["s", "b", "tiny"] = "s"
    """Size of the model."""
    checkpoint: str = ""
    """A recogniser, whose sizes and weights are taken instead: a workdir or checkpoint of a fine-tuning run."""
    batch_sizes: tuple[int, ...] = (1, 8, 32, 256)
    """Images that are read at once."""
    contenders: tuple[Contender, ...] = ("cached", "all-places", "recomputed", "torch", "encoder")
    """What is measured, and in which order it takes turns; the ratios are those of "cached"."""
    labels: str = ""
    """List of images and labels, in any form that training reads (.jsonl, .json, .txt), from whose labels lengths are
    drawn; by default the lengths of 7,104 labels of Union14M-L."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the computation."""
    int8: bool = False
    """Hold the weights as 8-bit integers; leaves out PyTorch."""
    seconds: float = 10.0
    """How long each contender runs at each batch size, compiling and its first run not counted."""
    fewest: int = 3
    """The fewest runs of each, however long they take. With 0 of both the first run is all."""
    seed: int = 0
    """For lengths, images and weights."""
    json: str = ""
    """Also write all numbers to this file."""

    def __post_init__(self) -> None:
        if not self.batch_sizes or min(self.batch_sizes) < 1:
            raise ValueError(f"batch_sizes must be 1 or more, not {self.batch_sizes}")
        if not self.contenders or len(set(self.contenders)) < len(self.contenders):
            raise ValueError(f"name each contender once, not {self.contenders}")
        if self.seconds < 0 or self.fewest < 0:
            raise ValueError(f"seconds and fewest must not be negative, but are {self.seconds} and {self.fewest}")


def load(arguments: DecodeArguments) -> tuple[Any, Any]:
    """The recogniser's config and parameters."""
    import jax
    import jax.numpy as jnp

    from data_pipelines.errors import UserError
    from maerec_jax.models.int8 import quantize
    from maerec_jax.models.maerec import MAERec, MAERecConfig
    from maerec_jax.weights.checkpoint import load_params

    if arguments.checkpoint:
        run, params, _ = load_params(arguments.checkpoint)
        if not isinstance(run.model, MAERecConfig):
            raise UserError(f"{arguments.checkpoint} holds a masked autoencoder, which cannot read")
        config = run.model
    else:
        config = {"s": MAERecConfig.small, "b": MAERecConfig.base, "tiny": MAERecConfig.tiny}[arguments.size]()
        image, token = jnp.zeros((1, *config.encoder.image_size, 3)), jnp.zeros((1, 1), int)
        params = jax.device_get(jax.jit(MAERec(config).init)(jax.random.key(arguments.seed), image, token)["params"])
    config = replace(config, encoder=replace(config.encoder, remat=False))
    return config, quantize(params) if arguments.int8 else params


def known_lengths(labels: str) -> np.ndarray:
    """Lengths of labels, int (labels,)."""
    from data_pipelines.errors import UserError
    from data_pipelines.sources.annotations import read_annotations

    if not labels:
        return np.repeat(list(LABELS_OF_LENGTH), list(LABELS_OF_LENGTH.values()))
    texts = read_annotations(Path(labels)).texts
    if texts is None or not len(texts):
        raise UserError(f"{labels}: no labels")
    return np.array([len(text) for text in texts])


class Running(ContenderProcess):
    """A contender at a batch size in its process, and what was measured of it."""

    def __init__(self, name: str, arguments: DecodeArguments, config: Any, params: Any, image: np.ndarray) -> None:
        from reading_ways import make_actions

        super().__init__(make_actions, name, config, params, image, arguments.dtype)
        self.name, self.compiling = name, self.ask("compiling")
        self.seconds: dict[int, float] = {}
        """What each turn took."""
        self._budget, self._fewest = arguments.seconds, arguments.fewest

    @property
    def unfinished(self) -> bool:
        """Whether it has to run again."""
        counted = [seconds for turn, seconds in self.seconds.items() if turn != _FIRST]
        return len(counted) < self._fewest or sum(counted) < self._budget


def check(found: dict[str, np.ndarray], dtype: str) -> None:
    """See that all contenders have read the same. Raises ``UserError`` where they have not."""
    from data_pipelines.errors import UserError

    reference, *others = found
    for name in others:
        differ = int((found[name] != found[reference]).any(axis=1).sum())
        if differ > ALLOWED[dtype] * len(found[name]):
            raise UserError(f"{name} reads {differ} of {len(found[name])} words otherwise than {reference}")


def start(
    arguments: DecodeArguments, config: Any, params: Any, image: np.ndarray, lengths: np.ndarray
) -> Iterator[Running]:
    """Start all contenders, let each run once, and see that they read the same."""
    words: dict[str, np.ndarray] = {}
    for name in arguments.contenders:
        try:
            one = Running(name, arguments, config, params, image)
            one.seconds[_FIRST], out = one.ask("run", lengths)
        except DroppedOutError as error:
            CONSOLE.print(f"{name}: left out: {error}", highlight=False, markup=False)
            continue
        if name != "encoder":
            words[name] = out
        yield one
    if words:
        check(words, arguments.dtype)


def take_turns(arguments: DecodeArguments, config: Any, params: Any, size: int) -> list[Running]:
    """Time all contenders on batches of a size; returns those that lasted."""
    rng = np.random.default_rng(arguments.seed)
    image = rng.integers(0, 256, (size, *config.encoder.image_size, 3), np.uint8)
    known = np.minimum(known_lengths(arguments.labels), config.decoder.max_length - 1)
    running = list(start(arguments, config, params, image, rng.choice(known, size)))
    number = 0
    while any(one.unfinished for one in running):
        lengths = rng.choice(known, size)
        for one in [one for one in running if one.unfinished]:
            try:
                one.seconds[number] = one.ask("run", lengths)[0]
            except DroppedOutError as error:
                CONSOLE.print(f"{one.name}: left out: {error}", highlight=False, markup=False)
                running.remove(one)
        number += 1
    for one in running:
        one.stop()
        if len(one.seconds) > 1:
            del one.seconds[_FIRST]
    return running


def measure(arguments: DecodeArguments, config: Any, params: Any, size: int) -> dict[str, Any]:
    """All numbers of a batch size."""
    contenders = {one.name: one for one in take_turns(arguments, config, params, size)}
    result: dict[str, Any] = {"batch_size": size, "contenders": {}, "ratios": {}}
    for name, one in contenders.items():
        seconds = list(one.seconds.values())
        percentiles = dict(zip(("p50", "p90", "p99"), np.percentile(seconds, (50, 90, 99)).tolist(), strict=True))
        mean = statistics.fmean(seconds)
        result["contenders"][name] = {
            "compiling": one.compiling, "runs": len(seconds), **percentiles, "images_per_second": size / mean,
            "seconds": seconds,
        }  # fmt: skip
    encoder = statistics.median(contenders["encoder"].seconds.values()) if "encoder" in contenders else None
    for name, one in contenders.items():
        if "cached" not in contenders or name in ("cached", "encoder"):
            continue
        ours = contenders["cached"].seconds
        turns = [turn for turn in one.seconds if turn in ours]
        theirs, own = (statistics.fmean(x[turn] for turn in turns) for x in (one.seconds, ours))
        ratios = {"reading": theirs / own}
        if encoder is not None and encoder < own:
            ratios["decoding"] = (theirs - encoder) / (own - encoder)
        result["ratios"][name] = ratios
    return result


def show(result: dict[str, Any], arguments: DecodeArguments) -> None:
    """Print the numbers of a batch size."""
    title = f"{result['batch_size']} images, {arguments.dtype}{', int8 weights' if arguments.int8 else ''}"
    columns = ("p50, ms", "p90, ms", "p99, ms", "images/s", "runs", "compiling, s", "cached is", "its decoding is")
    table = Table("", *columns, title=title)
    for name, numbers in result["contenders"].items():
        ratios = result["ratios"].get(name, {})
        cells = [f"{1000 * numbers[p]:,.1f}" for p in ("p50", "p90", "p99")]
        cells += [f"{numbers['images_per_second']:,.1f}", str(numbers["runs"])]
        cells.append(f"{numbers['compiling']:.1f}" if numbers["compiling"] else "")
        cells += [f"{ratios[kind]:.1f} times as fast" if kind in ratios else "" for kind in ("reading", "decoding")]
        table.add_row(name, *cells)
    CONSOLE.print(table)


def benchmark(arguments: DecodeArguments) -> int:
    """Measure and print."""
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # on GPUs each process takes the memory that it needs
    import jax

    if arguments.int8:
        arguments = replace(arguments, contenders=tuple(c for c in arguments.contenders if not c.startswith("torch")))
    config, params = load(arguments)
    device = f"{jax.devices()[0].platform} ({jax.devices()[0].device_kind}), jax {jax.__version__}"
    CONSOLE.print(device, highlight=False)
    results = []
    for size in arguments.batch_sizes:
        results.append(measure(arguments, config, params, size))
        show(results[-1], arguments)
    if arguments.json:
        settings = {**asdict(arguments), "device": device}
        Path(arguments.json).write_text(json.dumps({"settings": settings, "results": results}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(DecodeArguments, benchmark, "scripts/benchmarks/reading.py"))
