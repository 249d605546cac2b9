"""Measure training: python scripts/benchmarks/training.py --stage mae --model s --batch-size 32"""

import sys
import tempfile
from dataclasses import dataclass
from itertools import permutations
from statistics import median
from typing import Literal

from rich.console import Console
from rich.table import Table
from training_steps import Settings, make_step
from turns import Contenders

CONSOLE = Console(width=None if sys.stdout.isatty() else 160, markup=False, highlight=False)
Dtype = Literal["float32", "bfloat16"]
AGREEMENT = {"float32": 1e-3, "bfloat16": 2e-2}  # relative difference of losses and gradient norms that is let pass
KINDS = ("jax", "torch", "torch-compile")


@dataclass(frozen=True)
class TrainingArguments:
    """Time whole training steps, beside the same step in plain PyTorch.

    A step starts from uint8 images on the device: normalisation, masks or dropout, loss, gradients, AdamW. In PyTorch
    it uses maerec_jax/interop/pytorch_twin.py, fused AdamW, and autocast for bfloat16. Contenders:

    jax: the project's step; jax@PATH: the step of another checkout of this project

    torch: plain PyTorch

    torch-compile: the same with torch.compile

    First, all compute loss and gradient norm of the same weights and batch, without dropout; they must agree. Then
    they take turns. The table shows medians over the rounds, and medians and ranges of the ratios in each round.
    Utilisation is the model's operations over the device's peak. Each contender has its own process, with threads for
    all cores. All must fit into memory together; one that does not is reported and left out.

    On a busy machine, compare processor times instead of wall times, on one core: taskset -c 0 python ...
    """

    stage: tuple[Literal["mae", "maerec"], ...] = ("mae", "maerec")
    """Stage to train."""
    model: Literal["s", "b", "tiny"] = "s"
    """Size of the model."""
    batch_size: int = 32
    """Images per step."""
    rounds: int = 7
    """Turns per contender."""
    steps: int = 0
    """Steps per turn; 0 for about one second."""
    dtypes: tuple[Dtype, ...] = ("float32",)
    """Dtypes to measure with every contender."""
    contenders: tuple[str, ...] = KINDS
    """Contenders (see above). The first must be jax: all start from its weights."""

    def __post_init__(self) -> None:
        unknown = {name.partition("@")[0] for name in self.contenders} - set(KINDS)
        if unknown or not self.contenders[0].startswith("jax"):
            raise ValueError(f"contenders are {', '.join(KINDS)}, jax the first, not {' '.join(self.contenders)}")


def compare(running: Contenders, dtypes: dict[str, Dtype]) -> None:
    """See that all contenders compute the same; ends the program where they do not."""
    reference: tuple[float, float] | None = None
    for name in running.names:
        found = running.ask(name, "compare")
        if found is None:
            continue
        CONSOLE.print(f"{name}: {found[0]:.6f} loss, {found[1]:.6f} gradient norm")
        reference = reference or found
        allowed = max(AGREEMENT[dtypes[name]], AGREEMENT[next(iter(dtypes.values()))])
        for what, value, wanted in zip(("loss", "gradient norm"), found, reference, strict=True):
            if not abs(value - wanted) <= allowed * abs(wanted):
                sys.exit(f"{name}: its {what} is {value}, not {wanted}: it computes something else")


def take_turns(running: Contenders, rounds: int, steps: int) -> dict[str, list[tuple[float, float]]]:
    """Seconds of a step and of the processor in it: the first step, then in each round; of contenders that lasted."""
    found, taken = {}, {}
    for name in running.names:
        first, second = running.ask(name, "run", 1), running.ask(name, "run", 1)
        if first and second:
            found[name], taken[name] = [first], steps or max(1, round(1.0 / second[0]))
    for _ in range(rounds):
        for name in running.names:
            if made := running.ask(name, "run", taken[name]):
                found[name].append((made[0] / taken[name], made[1] / taken[name]))
    return {name: found[name] for name in running.names}


def measure(arguments: TrainingArguments, settings: Settings) -> None:
    """Print all numbers of a stage."""
    dtypes = {f"{kind} {dtype}": dtype for dtype in arguments.dtypes for kind in arguments.contenders}
    with Contenders(CONSOLE) as running:
        for name, dtype in dtypes.items():
            running.start(name, make_step, name.removesuffix(f" {dtype}"), settings, dtype)
        if (first := next(iter(dtypes))) not in running.names:
            sys.exit("the first contender gives the weights that all start from")
        compare(running, dtypes)
        for name in running.names:
            CONSOLE.print(f"{name}: {running.ask(name, 'device')}")
        limits = {dtype: running.ask(first, "limit", dtype) for dtype in arguments.dtypes}
        found = take_turns(running, arguments.rounds, arguments.steps)
    size = settings.batch_size
    title = f"{settings.stage} {settings.model}, {size} images a step"
    table = Table(title, "images/s", "from", "to", "s a step", "processor s", "utilisation", "first step, s")
    for name, (first_step, *times) in found.items():
        wall, processor = zip(*times, strict=True)
        rates = (size / median(wall), size / max(wall), size / min(wall))
        seconds = (median(wall), median(processor))
        rest = (f"{rates[0] / limits[dtypes[name]]:.0%}", f"{first_step[0]:.1f}")
        table.add_row(name, *(f"{rate:,.2f}" for rate in rates), *(f"{t:.3f}" for t in seconds), *rest)
    CONSOLE.print(table)
    table = Table("times as fast", "median", "from", "to", "by processor time", "from", "to")
    for ours, other in permutations(found, 2):
        if ours.startswith("jax ") and dtypes[ours] == dtypes[other]:
            rounds = list(zip(found[ours][1:], found[other][1:], strict=True))
            by_wall_and_processor = ([b[kind] / a[kind] for a, b in rounds] for kind in (0, 1))
            numbers = (f(ratios) for ratios in by_wall_and_processor for f in (median, min, max))
            table.add_row(f"{ours} / {other}", *(f"{x:.2f}" for x in numbers))
    CONSOLE.print(table)


def benchmark(arguments: TrainingArguments) -> int:
    for stage in arguments.stage:
        with tempfile.TemporaryDirectory() as folder:
            weights = f"{folder}/weights.npz"
            measure(arguments, Settings(stage, arguments.model, arguments.batch_size, weights))
    return 0


if __name__ == "__main__":
    # Not above: the processes of jax@PATH import this file, and take all of the project from PATH.
    from data_pipelines.command import run_command

    sys.exit(run_command(TrainingArguments, benchmark, "python scripts/benchmarks/training.py"))
