"""Measure how the baselines read: python scripts/benchmarks/baselines.py"""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import jax
import numpy as np
from baseline_ways import config_of, images_of, make_reading, random_state
from rich.console import Console
from rich.table import Table
from turns import Contenders, ratio

from data_pipelines.command import run_command
from data_pipelines.errors import UserError

CONSOLE = Console(width=None if sys.stdout.isatty() else 150, markup=False, highlight=False)
Model = Literal["aster", "abinet", "abinet-language", "nrtr", "satrn", "sar"]
Way = Literal["jax", "torch-original", "torch"]
# Words that may be read otherwise, where two classes are as good as equally likely and rounding decides.
ALLOWED = 0.05


@dataclass(frozen=True)
class BaselineArguments:
    """Measure how fast the baselines read beside PyTorch, greedily, in float32, from uint8 images to tokens.

    Contenders:

    jax: this project's reading; it stops when the last word of the batch has ended

    torch-original: the PyTorch twin (maerec_jax/interop/pytorch_baselines.py), eager, with the original's algorithm:
    all steps, and NRTR and SATRN run their whole decoder in each

    torch: the twin with a cache, which stops as jax does; ABINet has no steps, so it is left out there

    Contenders take turns in processes of their own, and must write the same tokens. Weights are random, so most words
    do not end before the last place: real ones are shorter, which favours those that stop. Use an idle machine.
    """

    models: tuple[Model, ...] = ("aster", "abinet", "abinet-language", "nrtr", "satrn", "sar")
    """Models to measure."""
    contenders: tuple[Way, ...] = ("jax", "torch-original", "torch")
    """Contenders, in the order of their turns; ratios are relative to "jax"."""
    tiny: bool = False
    """Tiny models, instead of those of the published sizes."""
    batch_size: int = 32
    """Images per batch."""
    seconds: float = 10.0
    """Seconds per contender, without compiling and the first run."""
    fewest: int = 3
    """Runs of each contender, at least. With 0 here and for seconds, only the first run is made."""
    json: str = ""
    """Write all numbers to this JSON file."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, not {self.batch_size}")
        for name in ("models", "contenders"):
            given = getattr(self, name)
            if not given or len(set(given)) < len(given):
                raise ValueError(f"name each of {name} once, not {given}")
        if self.seconds < 0 or self.fewest < 0:
            raise ValueError(f"seconds and fewest must not be negative, but are {self.seconds} and {self.fewest}")


def check(name: str, found: dict[str, np.ndarray]) -> None:
    """See that all contenders have read the same. Raises ``UserError`` where they have not."""
    reference, *others = found
    for other in others:
        differ = int((found[other] != found[reference]).any(axis=1).sum())
        if differ > ALLOWED * len(found[other]):
            raise UserError(f"{name}: {other} reads {differ} of {len(found[other])} words otherwise than {reference}")


def measure(arguments: BaselineArguments, name: str) -> dict[str, Any]:
    """All numbers of a model."""
    config = config_of(name, arguments.tiny)
    state = random_state(config)
    given = images_of(config, arguments.batch_size, np.random.default_rng(1))
    with Contenders(CONSOLE) as running:
        for way in arguments.contenders:
            if way != "torch" or config.kind != "abinet":
                running.start(way, make_reading, way, config, state, given)
        first = {way: running.ask(way, "run", None) for way in running.names}
        first = {way: made for way, made in first.items() if made is not None}
        check(name, {way: tokens for way, (_, tokens) in first.items()})
        found = running.take_turns(arguments.seconds, arguments.fewest, lambda: None)
        seconds = {way: turns or {0: first[way][0]} for way, turns in found.items()}
        compiling = {contender: running.ask(contender, "compile_seconds") for contender in seconds}
    tokens_BT = next(iter(first.values()))[1]
    steps = int((tokens_BT != config.charset.padding).any(axis=0).sum())
    result: dict[str, Any] = {"model": name, "steps": steps, "contenders": {}, "ratios": {}}
    for contender, turns in seconds.items():
        times = list(turns.values())
        result["contenders"][contender] = {"compiling": compiling[contender], "median": median(times), "seconds": times}
    for other in seconds.keys() - {"jax"} if "jax" in seconds else ():
        ours, theirs = seconds["jax"], seconds[other]
        each = [theirs[turn] / ours[turn] for turn in ours.keys() & theirs.keys()]
        result["ratios"][other] = {"median": ratio(theirs, ours), "range": [min(each), max(each)]}
    return result


def show(results: list[dict[str, Any]], arguments: BaselineArguments) -> None:
    title = f"{arguments.batch_size} images, float32: how many times as fast jax is"
    table = Table("", "steps", *(f"{way}, ms" for way in arguments.contenders), title=title)
    others = [way for way in arguments.contenders if way != "jax"]
    for way in others:
        table.add_column(f"against {way}")
    for result in results:
        times, ratios = result["contenders"], result["ratios"]
        cells = [f"{1000 * times[way]['median']:,.1f}" if way in times else "" for way in arguments.contenders]
        for found in (ratios.get(way) for way in others):
            cells.append(f"{found['median']:.2f} ({found['range'][0]:.2f} to {found['range'][1]:.2f})" if found else "")
        table.add_row(result["model"], str(result["steps"]), *cells)
    CONSOLE.print(table)


def benchmark(arguments: BaselineArguments) -> int:
    device = f"{jax.devices()[0].platform} ({jax.devices()[0].device_kind}), jax {jax.__version__}"
    CONSOLE.print(device)
    results = []
    for name in arguments.models:
        results.append(measure(arguments, name))
        CONSOLE.print(f"{name}: measured")
    show(results, arguments)
    if arguments.json:
        settings = {**asdict(arguments), "device": device}
        Path(arguments.json).write_text(json.dumps({"settings": settings, "results": results}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(BaselineArguments, benchmark, "scripts/benchmarks/baselines.py"))
