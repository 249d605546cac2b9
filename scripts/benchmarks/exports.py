"""Measure what exported files cost: python scripts/benchmarks/exports.py --checkpoint DIR, or --size s --places 6"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from exported_readers import open_reader, size_of
from rich.console import Console
from rich.table import Table
from turns import ContenderProcess, DroppedOutError

from data_pipelines.command import run_command

CONSOLE = Console(width=None if sys.stdout.isatty() else 120)
_FEWEST = 3
Contender = Literal["jax", "onnx", "onnx-int8", "stablehlo"]


@dataclass(frozen=True)
class BenchmarkArguments:
    """Measure how long reading takes with a checkpoint and with what is exported of it, from images to tokens.

    The contenders take turns on the same random images, each in a process of its own with as many threads as there are
    cores. Ratios compare runs of the same turns. The machine should be idle: onnxruntime's threads wait for each other
    busily.
    """

    checkpoint: str = ""
    """A recogniser: a workdir, a checkpoint or a .safetensors file."""
    size: Literal["tiny", "s", "b"] = "s"
    """Without a checkpoint: a model of this size with random weights."""
    places: int = 0
    """Places that are read: all words are made to go on for as many. 0 leaves their ends to the model."""
    contenders: tuple[Contender, ...] = ("jax", "onnx", "onnx-int8", "stablehlo")
    """What is measured; the ratios are those to the first."""
    image_size: tuple[int, int] = (32, 128)
    """Height and width of the images: the model's."""
    batch_sizes: tuple[int, ...] = (1, 32)
    """Images at a time."""
    seconds: float = 10.0
    """How long each contender runs at each batch size; at least 3 runs."""
    folder: str = ""
    """Where the exported files are kept; taken from there where they are there already. By default nowhere."""


def model_of(arguments: BenchmarkArguments) -> tuple[Any, Any]:
    """The run and the parameters that are measured."""
    import jax
    import jax.numpy as jnp

    from maerec_jax.config import TrainConfig
    from maerec_jax.models.maerec import MAERec, MAERecConfig
    from maerec_jax.weights.finding import load_recognizer

    if arguments.checkpoint:
        config, params, _ = load_recognizer(arguments.checkpoint)
    else:
        kinds = {"tiny": MAERecConfig.tiny, "s": MAERecConfig.small, "b": MAERecConfig.base}
        random = kinds[arguments.size]()
        config = TrainConfig(model=random)
        image = jnp.zeros((1, *random.encoder.image_size, 3))
        init = jax.jit(MAERec(random).init)
        params = jax.device_get(init(jax.random.key(0), image, jnp.zeros((1, 1), int))["params"])
    model = config.model
    assert isinstance(model, MAERecConfig)
    if arguments.places:
        # No text ends before the last place.
        classifier = params["decoder"]["classifier"]
        is_end = np.arange(model.charset.n_classes) == model.charset.start_end
        unlikely = {**classifier, "bias": classifier["bias"] - 1e4 * is_end.astype(np.float32)}
        params = {**params, "decoder": {**params["decoder"], "classifier": unlikely}}
        model = replace(model, decoder=replace(model.decoder, max_length=arguments.places))
        config = replace(config, model=model)
    return config, params


def write_files(arguments: BenchmarkArguments, folder: Path) -> dict[str, Path]:
    """A file for each contender."""
    from maerec_jax.weights.finding import save_weights

    files = {"jax": ".safetensors", "onnx": ".onnx", "onnx-int8": "-int8.onnx", "stablehlo": ".stablehlo"}
    found: dict[str, Path] = {name: folder / f"model{files[name]}" for name in arguments.contenders}
    if all(path.exists() for path in found.values()):
        return found
    config, params = model_of(arguments)
    for name, path in found.items():
        with Console(stderr=True).status(f"writing {path.name}"):
            if name == "jax":
                save_weights(path, config, params, 0)
            elif name == "stablehlo":
                from maerec_jax.interop.stablehlo_file import write_stablehlo

                write_stablehlo(path, config, params, 0)
            else:
                from maerec_jax.interop.onnx_file import write_onnx

                write_onnx(path, config, params, 0, int8=name == "onnx-int8")
    return found


def make_actions(path: str) -> Mapping[str, Callable[..., Any]]:
    """What a contender can be asked for, in its process."""
    read = open_reader(path)

    def run(image_BHWC: np.ndarray) -> tuple[float, np.ndarray]:
        begin = time.perf_counter()
        tokens_BT = read(image_BHWC)[0]
        return time.perf_counter() - begin, tokens_BT

    return {"run": run}


def take_turns(arguments: BenchmarkArguments, files: dict[str, Path], batch: int) -> dict[str, list[float]]:
    """Seconds of each contender in each turn."""
    rng, shape = np.random.default_rng(0), (batch, *arguments.image_size, 3)
    running: dict[str, ContenderProcess] = {}
    for name, path in files.items():
        try:
            running[name] = ContenderProcess(make_actions, str(path))
            running[name].ask("run", rng.integers(0, 256, shape, np.uint8))  # compiles
        except DroppedOutError as error:
            running.pop(name, None)
            CONSOLE.print(f"{name}: left out: {error}", highlight=False, markup=False)
    seconds: dict[str, list[float]] = {name: [] for name in running}
    begin = time.perf_counter()
    while running and (
        len(next(iter(seconds.values()))) < _FEWEST or time.perf_counter() - begin < arguments.seconds * len(running)
    ):
        image = rng.integers(0, 256, shape, np.uint8)
        for name, one in running.items():
            seconds[name].append(one.ask("run", image)[0])
    for one in running.values():
        one.stop()
    return seconds


def benchmark(arguments: BenchmarkArguments) -> int:
    """Measure, print the table; returns 0."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(arguments.folder or scratch)
        folder.mkdir(parents=True, exist_ok=True)
        files = write_files(arguments, folder)
        table = Table("images", "contender", "file", "runs", "median ms", "time, of the first's")
        for batch in arguments.batch_sizes:
            seconds = take_turns(arguments, files, batch)
            base = next(iter(seconds.values()), [])
            for name, own in seconds.items():
                ratio = statistics.median(b / a for a, b in zip(base, own, strict=True))
                median = 1e3 * statistics.median(own)
                table.add_row(
                    str(batch), name, size_of(str(files[name])), str(len(own)), f"{median:.2f}", f"{ratio:.2f}"
                )
            table.add_section()
        CONSOLE.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(BenchmarkArguments, benchmark, "python scripts/benchmarks/exports.py"))
