"""Measure a recogniser: ``python -m maerec_jax.evaluate --checkpoint DIR_OR_FILE --data ROOT ...``."""

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from data_pipelines.command import check_outputs, keep_compiled_programs, run_command
from maerec_jax.distributed.cluster import Cluster, run_together
from maerec_jax.distributed.host_memory import keep_freed_memory, run_steps_in_this_thread
from maerec_jax.reading.reader import ReadingConfig

if TYPE_CHECKING:
    from maerec_jax.config import TrainConfig
    from maerec_jax.evaluation.measuring import SetReader
    from maerec_jax.evaluation.predictions import PredictionsFile
    from maerec_jax.evaluation.sets import MeasuredSet
    from maerec_jax.evaluation.table import Table
    from maerec_jax.reading.reader import Reader


@dataclass(frozen=True)
class EvaluateArguments:
    """Read labelled words and print word accuracies in the paper's form, or compare two evaluations.

    By default Union14M-Benchmark and the common benchmarks are measured, as far as the data root holds them. Every
    labelled word counts, those with characters that the model cannot write, and images that cannot be used, too.

    With --predictions, an evaluation that is stopped goes on with the same command.
    """

    checkpoint: str = ""
    """Workdir of a fine-tuning run, one of its checkpoints, an exported .safetensors file, or maerec_tiny or
    maerec_tiny_rendered, which come with the package (docs/weights.md); by default maerec_tiny."""
    adapters: str = ""
    """File of adapters and text decoder of a LoRA fine-tuning; the checkpoint is then the one that it started from."""
    data: str = ""
    """Data root. Without it, the validation data of the run are measured where they were in training."""
    sets: tuple[str, ...] = ()
    """What to measure: names of sets (curve, IC13_857, ...), "benchmark" or "common" for all of them, or annotation
    files, LMDBs, prepared sets and folders that hold such, relative to the data root."""
    image_field: str = ""
    """The field that names the image in JSON records of annotation files given by path, if it is none of the usual."""
    text_field: str = ""
    """The field that holds the label in them."""
    json: str = ""
    """Also write the table to this JSON file, and the predictions beside it if nothing is said of them."""
    csv: str = ""
    """Also write the table to this CSV file."""
    predictions: str = ""
    """Write what was read in each image to this .jsonl file, as it is read."""
    report: str = ""
    """Also write an HTML page: table, accuracy by length and shape, calibration, confusions, the worst errors."""
    overwrite: bool = False
    """Begin again where the file of predictions is there already."""
    compare: tuple[str, ...] = ()
    """Instead of measuring, compare two evaluations: their --json or --predictions files."""
    reading: Annotated[ReadingConfig, tyro.conf.arg(name="")] = field(default_factory=ReadingConfig)
    batch_size: int = 256
    """Images a step, over all devices."""
    workers: int = 0
    """Worker processes that read and decode images, in each process."""
    cluster: Annotated[Cluster, tyro.conf.arg(name="")] = field(default_factory=Cluster)

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {self.batch_size}")
        if self.compare and len(self.compare) != 2:
            raise ValueError(f"--compare takes two evaluations, not {len(self.compare)}")
        if self.compare and (self.csv or self.predictions or self.report):
            raise ValueError("a comparison is written to --json only")
        if self.json.endswith(".jsonl"):
            raise ValueError("--json is a table; predictions, a line each, are --predictions FILE.jsonl")
        if self.sets and not self.data:
            raise ValueError("--sets are relative to the data root: give --data, too")


def evaluate(arguments: EvaluateArguments) -> int:
    """Evaluate or compare, print the table, and return 0."""
    if arguments.compare:
        return _compare(arguments)
    run_steps_in_this_thread()
    return run_together(arguments.cluster, lambda: _measure(arguments))


def _compare(arguments: EvaluateArguments) -> int:
    from rich.console import Console

    from maerec_jax.evaluation.compare import compare

    check_outputs(arguments.json)
    first, second = map(Path, arguments.compare)
    found = compare(first, second)
    Console().print(found.to_rich())
    if arguments.json:
        _write(arguments.json, found.to_dict())
    return 0


def _measure(arguments: EvaluateArguments) -> int:
    import jax

    from maerec_jax.distributed.cluster import agree
    from maerec_jax.distributed.sharding import make_mesh
    from maerec_jax.evaluation.measuring import SetReader
    from maerec_jax.evaluation.predictions import PredictionsFile
    from maerec_jax.evaluation.table import Table
    from maerec_jax.reading.reader import Reader
    from maerec_jax.weights.finding import load_recognizer

    keep_compiled_programs()
    if jax.default_backend() == "cpu":
        keep_freed_memory()
    first, place = jax.process_index() == 0, _predictions_path(arguments)
    if first:
        check_outputs(arguments.json, arguments.csv, arguments.report, str(place or ""))
    message: Callable[[str], None] = _print_to_stderr if first else _ignore
    config, params, step = load_recognizer(arguments.checkpoint, arguments.adapters)
    config, measured = _choose(config, arguments, message)
    reader = Reader(config, params, arguments.reading, make_mesh(), tell=message)
    sets = [SetReader(s, config, reader, arguments.batch_size, arguments.workers, message) for s in measured]
    made_with = _made_with(reader, params, step, sets)
    agree({"the recogniser or the sets": made_with})
    with tempfile.TemporaryDirectory() as scratch:
        predictions = PredictionsFile(place or Path(scratch) / "predictions.jsonl", made_with)
        if first:
            predictions.prepare(arguments.overwrite)
        _read(sets, predictions, first, message)
        if first:
            _show(arguments, Table.from_predictions(predictions.read()), predictions, sets, step)
    return 0


def _choose(
    config: "TrainConfig", arguments: EvaluateArguments, message: Callable[[str], None]
) -> tuple["TrainConfig", list["MeasuredSet"]]:
    """The run's config with the data root, keeping all words; and what to measure."""
    from data_pipelines.errors import UserError
    from maerec_jax.evaluation.sets import Fields, MeasuredSet, find_sets

    data = replace(config.data, unknown_characters="keep", root=arguments.data or config.data.root)
    config = replace(config, data=data)
    if arguments.data:
        fields = Fields(arguments.image_field, arguments.text_field)
        return config, find_sets(Path(arguments.data), arguments.sets, message, fields)
    if not data.validation:
        raise UserError("there are no validation data of a run: give --data, the folder that holds the sets")
    if not Path(data.root).is_dir():
        raise UserError(f"the data root of the run, {data.root}, is not here: give --data")
    if len(data.validation) == 1:
        return config, [MeasuredSet("validation", data.validation[0])]
    return config, [MeasuredSet(f"validation.{i}", spec) for i, spec in enumerate(data.validation)]


def _made_with(reader: "Reader", params: Any, step: int, sets: list["SetReader"]) -> dict[str, Any]:
    """What decides about the readings: the weights, how they read, and the words."""
    import zlib

    import jax
    import numpy as np

    from maerec_jax.evaluation.measuring import describe

    digest = 0
    for leaf in jax.tree.leaves(params):
        digest = zlib.crc32(np.ascontiguousarray(leaf).tobytes(), digest)
    return {
        "step": step,
        "weights": f"crc32 {digest:08x}",
        **describe(reader),
        "sets": {s.name: {"words": len(s.source), "names and labels": s.digest()} for s in sets},
    }


def _predictions_path(arguments: EvaluateArguments) -> Path | None:
    if arguments.predictions:
        return Path(arguments.predictions)
    return Path(arguments.json).with_suffix(".jsonl") if arguments.json else None


def _read(sets: list["SetReader"], predictions: "PredictionsFile", first: bool, message: Callable[[str], None]) -> None:
    """Read what is not read yet, and let the first process write it down."""
    from contextlib import nullcontext

    import numpy as np
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from maerec_jax.distributed.cluster import array_of_first

    sizes = {set_reader.name: len(set_reader.source) for set_reader in sets}
    # Only the first looks into the file, which the others may not have, or see late.
    found = predictions.done(sizes) if first else {name: np.zeros(size, bool) for name, size in sizes.items()}
    done = {name: array_of_first(read) for name, read in found.items()}
    if already := sum(int(read.sum()) for read in done.values()):
        message(f"{predictions.path}: going on after {already:,} words that are read already")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        predictions if first else nullcontext(),
        Progress(*columns, console=Console(stderr=True), transient=True, disable=not first) as progress,
    ):
        for set_reader in sets:
            read = done[set_reader.name]
            bar = progress.add_task(set_reader.name, total=len(read), completed=int(read.sum()))
            for batch in set_reader.read(read):
                if first:
                    predictions.add(batch)
                progress.advance(bar, len(batch))


def _show(
    arguments: EvaluateArguments, table: "Table", predictions: "PredictionsFile", sets: list["SetReader"], step: int
) -> None:
    """Print the table, and write what was asked for."""
    import os

    import jax
    from rich.console import Console

    from maerec_jax.weights.finding import SHIPPED

    title = f"{arguments.checkpoint or SHIPPED[0]}, step {step:,}"
    Console().print(table.to_rich(title))
    details = {name: str(value) for name, value in predictions.made_with.items() if name != "sets"}
    details |= {"devices": f"{jax.device_count()} {jax.devices()[0].device_kind}", "jax": jax.__version__}
    if arguments.json:
        beside = os.path.relpath(predictions.path, Path(arguments.json).parent)
        if beside.startswith(os.pardir):
            _print_to_stderr(f"{arguments.json}: to compare it later, keep its predictions in the same folder")
        _write(arguments.json, {"title": title, **details, **table.to_dict(), "predictions": beside})
    if arguments.csv:
        _write(arguments.csv, table.to_csv())
    if arguments.report:
        from maerec_jax.evaluation.report import write_report

        by_name = {set_reader.name: set_reader for set_reader in sets}
        write_report(
            Path(arguments.report),
            title,
            details,
            table,
            predictions.read(),
            lambda prediction: by_name[prediction.set].picture(prediction),
        )


def _write(path: str, content: Any) -> None:
    import json

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    Path(path).write_text(text, encoding="utf-8")


def _print_to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _ignore(text: str) -> None:
    del text


if __name__ == "__main__":
    sys.exit(run_command(EvaluateArguments, evaluate, "python -m maerec_jax.evaluate"))
