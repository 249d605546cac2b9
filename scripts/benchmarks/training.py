"""Measure training: python scripts/benchmarks/training.py --stage mae --model s --batch-size 32

Times whole training steps as the loop takes them (``jit_train_step``: normalising uint8 images that lie on the device,
masks or dropout, loss, gradients, AdamW), beside a plain PyTorch implementation of the same step where PyTorch is
installed (``maerec_jax/interop/pytorch_twin.py``, fused AdamW, bfloat16 by autocast). Contenders are

  jax              the project's step; jax@PATH is that of another checkout of this project
  torch            PyTorch as it is
  torch-compile    the same, its loss through torch.compile

each in every dtype of --dtypes. First all compute the loss of the same weights and batch, and the norm of its gradient,
without dropout: where these differ nothing is timed. (torch-compile is compared before it is compiled.) Then they take
turns, round after round, so that whatever else the machine does hits all of them. What is printed are medians over the
rounds, and medians and ranges of the ratios in each round. Utilisation is the model's operations by
``maerec_jax.costs.work``, divided by the rate of the best large square matrix multiplication on the same device in
the same run and dtype, by whichever library does it faster.

Each contender has a process of its own, which sleeps while others take their turn. So each has its own threads, as many
as the cores of this process, and its own memory: on GPUs JAX is kept from reserving all of it in advance, and one that
finds no room drops out and is named. All of them together have to fit.

On a machine that is not idle wall time says little: two threads that wait for each other both wait for the slower one.
The processor's time is shown, too; it is comparable on one core, where no thread waits for another
(taskset -c 0 python scripts/benchmarks/training.py ...).
"""

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from training_steps import JaxStep, Settings, TorchStep, make_config, measure_peak
from turns import Actions, ContenderProcess, DroppedOutError

CONSOLE = Console(width=None if sys.stdout.isatty() else 160)
AGREEMENT = {"float32": 1e-3, "bfloat16": 2e-2}  # relative difference of losses and gradient norms that is let pass


@dataclass(frozen=True)
class Contender:
    """An implementation and the dtype that it computes in."""

    implementation: str
    dtype: str

    def __str__(self) -> str:
        return f"{self.implementation} {self.dtype}"


def make_actions(contender: Contender, settings: Settings) -> Actions:
    """What a contender can be asked for, in its process."""
    # Read when a library is loaded: memory is taken as it is needed.
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    implementation, _, checkout = contender.implementation.partition("@")
    sys.path.insert(0, checkout or str(Path(__file__).parents[2]))
    if implementation == "jax":
        step: Any = JaxStep(settings, contender.dtype)
    else:
        step = TorchStep(settings, contender.dtype, implementation == "torch-compile")
    peak = partial(measure_peak, step, contender.dtype)
    return {"run": step.run, "compare": step.compare, "device": step.device, "peak": peak}


class Running(ContenderProcess):
    """A contender in its process, and what was measured of it."""

    def __init__(self, contender: Contender, settings: Settings) -> None:
        super().__init__(make_actions, contender, settings)
        self.contender = contender
        self.first = 0.0
        self.seconds: list[float] = []
        self.processor: list[float] = []


def start(contenders: list[Contender], settings: Settings) -> list[Running]:
    """Start all contenders, one after the other, and see that they compute the same."""
    running: list[Running] = []
    reference: dict[str, float] = {}
    for contender in contenders:
        try:
            one = Running(contender, settings)
            found = dict(zip(("loss", "gradient norm"), one.ask("compare"), strict=True))
        except DroppedOutError as error:
            CONSOLE.print(f"{contender}: left out: {error}", highlight=False, markup=False)
            if not running:
                sys.exit("the first contender gives the weights that all start from")
            continue
        running.append(one)
        CONSOLE.print(
            f"{contender}: {found['loss']:.6f} loss, {found['gradient norm']:.6f} gradient norm", highlight=False
        )
        reference = reference or found
        for name, value in found.items():
            allowed = max(AGREEMENT[contender.dtype], AGREEMENT[contenders[0].dtype])
            if not abs(value - reference[name]) <= allowed * abs(reference[name]):
                sys.exit(f"{contender}: its {name} is {value}, not {reference[name]}: it computes something else")
    return running


def take_turns(running: list[Running], rounds: int, steps: int) -> list[Running]:
    """Time all contenders in turn; returns those that lasted."""
    turns: dict[str, int] = {}
    for number in range(-1, rounds):
        for one in list(running):
            try:
                if number < 0:
                    one.first = one.ask("run", 1)[0]
                    turns[str(one.contender)] = steps or max(1, round(1.0 / one.ask("run", 1)[0]))
                else:
                    times = turns[str(one.contender)]
                    seconds, processor = one.ask("run", times)
                    one.seconds.append(seconds / times)
                    one.processor.append(processor / times)
            except DroppedOutError as error:
                CONSOLE.print(f"{one.contender}: left out: {error}", highlight=False, markup=False)
                running.remove(one)
    return running


def measure(settings: Settings, contenders: list[Contender], rounds: int, steps: int) -> dict[str, Any]:
    """All numbers of a stage."""
    from maerec_jax.costs.work import step_work

    config = make_config(settings, "float32")
    work = step_work(config.model, config.model.encoder.image_size).model
    running = start(contenders, settings)
    devices = {one.contender.implementation: one.ask("device") for one in running}
    for implementation, device in devices.items():
        CONSOLE.print(f"{implementation}: {device}", highlight=False)
    peaks: dict[str, dict[str, float]] = {}
    for one in running:
        library = one.contender.implementation.partition("@")[0].partition("-")[0]
        found = peaks.setdefault(one.contender.dtype, {})
        if library not in found:
            found[library] = one.ask("peak")
            text = f"{found[library] / 1e12:,.3f} TFLOP/s in a {one.contender.dtype} matrix multiplication"
            CONSOLE.print(f"{library}: {text}", highlight=False)
    running = take_turns(running, rounds, steps)
    result: dict[str, Any] = {
        "stage": settings.stage,
        "model": settings.model,
        "batch_size": settings.batch_size,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "devices": devices,
        "operations_per_image": work,
        "peaks": peaks,
        "contenders": {},
        "ratios": {},
    }
    for one in running:
        rate = settings.batch_size / statistics.median(one.seconds)
        result["contenders"][str(one.contender)] = {
            "first_step": one.first,
            "seconds": one.seconds,
            "processor_seconds": one.processor,
            "images_per_second": rate,
            "utilisation": rate * work / max(peaks[one.contender.dtype].values()),
        }
    for ours, other in itertools.permutations(running, 2):
        if ours.contender.implementation == "jax" and ours.contender.dtype == other.contender.dtype:
            result["ratios"][f"{ours.contender} / {other.contender}"] = {
                "time": [b / a for a, b in zip(ours.seconds, other.seconds, strict=True)],
                "processor_time": [b / a for a, b in zip(ours.processor, other.processor, strict=True)],
            }
    for one in running:
        one.stop()
    return result


def show(result: dict[str, Any]) -> None:
    """Print the numbers of a stage."""
    name = f"{result['stage']} {result['model']}, {result['batch_size']} images a step"
    table = Table(name, "images/s", "from", "to", "s a step", "processor s", "utilisation", "first step, s")
    for contender, numbers in result["contenders"].items():
        seconds, size = numbers["seconds"], result["batch_size"]
        rates = (numbers["images_per_second"], size / max(seconds), size / min(seconds))
        times = (statistics.median(seconds), statistics.median(numbers["processor_seconds"]))
        rest = (f"{numbers['utilisation']:.0%}", f"{numbers['first_step']:.1f}")
        table.add_row(contender, *(f"{rate:,.2f}" for rate in rates), *(f"{t:.3f}" for t in times), *rest)
    CONSOLE.print(table)
    table = Table("times as fast", "median", "from", "to", "by processor time", "from", "to")
    for pair, ratios in result["ratios"].items():
        numbers = [f(ratios[kind]) for kind in ("time", "processor_time") for f in (statistics.median, min, max)]
        table.add_row(pair, *(f"{x:.2f}" for x in numbers))
    CONSOLE.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--stage", choices=("mae", "maerec"), nargs="+", default=["mae", "maerec"], help="what to train"
    )
    parser.add_argument("--model", choices=("s", "b", "tiny"), default="s", help="its size")
    parser.add_argument("--batch-size", type=int, default=32, help="images a step")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each contender")
    parser.add_argument("--steps", type=int, default=0, help="steps a turn; 0 for about a second of them")
    parser.add_argument("--dtypes", nargs="+", choices=AGREEMENT, default=["float32"], help="each contender in each")
    parser.add_argument("--contenders", nargs="+", default=["jax", "torch", "torch-compile"], help="see above")
    parser.add_argument("--json", help="also write all numbers to this file")
    arguments = parser.parse_args()
    contenders = [Contender(name, dtype) for dtype in arguments.dtypes for name in arguments.contenders]
    for contender in contenders:
        if contender.implementation.partition("@")[0] not in ("jax", "torch", "torch-compile"):
            parser.error(f"no such contender: {contender.implementation}")
    if not contenders[0].implementation.startswith("jax"):
        parser.error("the first contender has to be jax: it gives the weights that all start from")
    results = []
    for stage in arguments.stage:
        with tempfile.TemporaryDirectory() as folder:
            settings = Settings(stage, arguments.model, arguments.batch_size, folder)
            results.append(measure(settings, contenders, arguments.rounds, arguments.steps))
        show(results[-1])
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
