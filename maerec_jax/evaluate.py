"""Measure a recogniser: ``python -m maerec_jax.evaluate --checkpoint DIR_OR_FILE --data ROOT ...``."""

import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from data_pipelines.command import check_outputs, keep_compiled_programs, main_of, tell
from data_pipelines.errors import UserError
from maerec_jax.config import TrainConfig
from maerec_jax.distributed.cluster import Cluster, agree, array_of_first, run_together
from maerec_jax.distributed.host_memory import keep_freed_memory, run_steps_in_this_thread
from maerec_jax.distributed.sharding import make_mesh
from maerec_jax.evaluation.compare import compare
from maerec_jax.evaluation.measuring import SetReader, made_with
from maerec_jax.evaluation.predictions import PredictionsFile, read_predictions
from maerec_jax.evaluation.report import write_report
from maerec_jax.evaluation.sets import MeasuredSet, find_sets
from maerec_jax.evaluation.table import Table
from maerec_jax.reading.reader import Reader, ReadingArguments
from maerec_jax.weights.finding import SHIPPED, load_recognizer


@dataclass(frozen=True)
class EvaluateArguments(ReadingArguments):
    """Read labelled words and print word accuracies in the paper's form, or compare two evaluations.

    By default Union14M-Benchmark and the common benchmarks are measured, as far as the data root holds them. Every
    labelled word counts, those with characters that the model cannot write, and images that cannot be used, too.

    With --predictions, an evaluation that is stopped goes on with the same command.
    """

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
        check_outputs(arguments.json)
        found = compare(*map(Path, arguments.compare))
        Console().print(found.to_rich())
        if arguments.json:
            _write(arguments.json, found.to_dict())
        return 0
    run_steps_in_this_thread()
    return run_together(arguments.cluster, lambda: _measure(arguments))


def _measure(arguments: EvaluateArguments) -> int:
    keep_compiled_programs()
    if jax.default_backend() == "cpu":
        keep_freed_memory()
    first = jax.process_index() == 0
    file = arguments.predictions or (arguments.json and str(Path(arguments.json).with_suffix(".jsonl")))
    if first:
        check_outputs(arguments.json, arguments.csv, arguments.report, file)
    message: Callable[[str], None] = tell if first else lambda text: None
    config, params, step = load_recognizer(arguments.checkpoint, arguments.adapters)
    root, measured = _choose(config, arguments, message)
    reader = Reader(config, params, arguments.reading, make_mesh(), tell=message)
    sets = [SetReader(s, root, reader, arguments.batch_size, arguments.workers, message) for s in measured]
    how = made_with(reader, params, step, sets)
    agree({"the recogniser or the sets": how})
    with tempfile.TemporaryDirectory() as scratch:
        predictions = PredictionsFile(Path(file or f"{scratch}/predictions.jsonl"), how)
        if first:
            predictions.prepare(arguments.overwrite)
        _read(sets, predictions, first)
        if first:
            _show(arguments, predictions, sets)
    return 0


def _choose(
    config: TrainConfig, arguments: EvaluateArguments, message: Callable[[str], None]
) -> tuple[Path, list[MeasuredSet]]:
    """The data root, and what to measure."""
    data, root = config.data, Path(arguments.data or config.data.root)
    if arguments.data:
        return root, find_sets(root, arguments.sets, message, arguments.image_field, arguments.text_field)
    if not data.validation:
        raise UserError("there are no validation data of a run: give --data, the folder that holds the sets")
    if not root.is_dir():
        raise UserError(f"the data root of the run, {data.root}, is not here: give --data")
    names = ["validation"] if len(data.validation) == 1 else [f"validation.{i}" for i in range(len(data.validation))]
    return root, [MeasuredSet(name, spec) for name, spec in zip(names, data.validation, strict=True)]


def _read(sets: Sequence[SetReader], predictions: PredictionsFile, first: bool) -> None:
    """Read what is not read yet, and let the first process write it down."""
    sizes = {set_reader.name: len(set_reader.source) for set_reader in sets}
    # Only the first looks into the file, which the others may not have, or see late.
    found = predictions.done(sizes) if first else {name: np.zeros(size, bool) for name, size in sizes.items()}
    done = {name: array_of_first(read) for name, read in found.items()}
    already = sum(int(read.sum()) for read in done.values())
    if already and first:
        tell(f"{predictions.path}: going on after {already:,} words that are read already")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not first) as progress:
        for set_reader in sets:
            read = done[set_reader.name]
            bar = progress.add_task(set_reader.name, total=len(read), completed=int(read.sum()))
            for batch in set_reader.read(read):
                if first:
                    predictions.add(batch)
                progress.advance(bar, len(batch))


def _show(arguments: EvaluateArguments, predictions: PredictionsFile, sets: Sequence[SetReader]) -> None:
    """Print the table, and write what was asked for."""
    table = Table.from_predictions(read_predictions(predictions.path))
    title = f"{arguments.checkpoint or SHIPPED[0]}, step {predictions.made_with['step']:,}"
    Console().print(table.to_rich(title))
    details = {name: str(value) for name, value in predictions.made_with.items() if name != "sets"}
    details |= {"devices": f"{jax.device_count()} {jax.devices()[0].device_kind}", "jax": jax.__version__}
    if arguments.json:
        beside = os.path.relpath(predictions.path, Path(arguments.json).parent)
        if beside.startswith(os.pardir):
            tell(f"{arguments.json}: to compare it later, keep its predictions in the same folder")
        _write(arguments.json, {"title": title, **details, **table.to_dict(), "predictions": beside})
    if arguments.csv:
        Path(arguments.csv).write_text(table.to_csv(), encoding="utf-8")
    if arguments.report:
        by_name = {set_reader.name: set_reader for set_reader in sets}
        made_from = title, details, table, read_predictions(predictions.path)
        write_report(Path(arguments.report), *made_from, lambda each: by_name[each.set].picture(each))


def _write(path: str, data: dict[str, Any]) -> None:
    Path(path).write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


main = main_of(EvaluateArguments, evaluate, "maerec_jax.evaluate")

if __name__ == "__main__":
    sys.exit(main())
