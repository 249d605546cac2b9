"""An evaluation from arguments to files: of one model or several, or a comparison of two evaluations."""

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from data_pipelines.command import check_outputs, keep_compiled_programs, tell
from data_pipelines.errors import DataError, UserError
from data_pipelines.progress import progress_bar
from data_pipelines.sources.files import with_links
from maerec_jax.config import SourceConfig, TrainConfig
from maerec_jax.distributed.cluster import run_together
from maerec_jax.distributed.host_memory import keep_freed_memory, run_steps_in_this_thread
from maerec_jax.distributed.processes import agree, array_of_first
from maerec_jax.distributed.sharding import make_mesh
from maerec_jax.evaluation.arguments import EvaluateArguments, is_table
from maerec_jax.evaluation.compare import compare
from maerec_jax.evaluation.measured_model import SETTINGS, MeasuredModel, name_of, names_of
from maerec_jax.evaluation.measuring import SetReader, made_with
from maerec_jax.evaluation.models_table import ModelsTable, is_models_table
from maerec_jax.evaluation.predictions import MADE_WITH, PredictionsFile, read_predictions
from maerec_jax.evaluation.report import write_report
from maerec_jax.evaluation.sets import find_sets
from maerec_jax.evaluation.table import Table
from maerec_jax.reading.reader import Reader
from maerec_jax.weights.finding import load_recognizer
from maerec_jax.weights.shipped_files import SHIPPED


def evaluate(arguments: EvaluateArguments) -> int:
    """Evaluate or compare, print the table, and return 0."""
    if arguments.compare:
        check_outputs(arguments.json)
        found = compare(*map(Path, arguments.compare))
        Console().print(found.to_rich())
        if arguments.json:
            _write(arguments.json, found.to_dict())
        return 0
    if arguments.models and all(map(is_table, arguments.models)):
        return _run_models(arguments, True)  # without asking for devices
    run_steps_in_this_thread()
    return run_together(arguments.cluster, lambda: _run(arguments))


def _run(arguments: EvaluateArguments) -> int:
    keep_compiled_programs()
    if jax.default_backend() == "cpu":
        keep_freed_memory()
    if arguments.models:
        return _run_models(arguments, jax.process_index() == 0)
    if made := _measure(arguments):
        Console().print(made.table.to_rich(made.title))
    return 0


def _run_models(arguments: EvaluateArguments, first: bool) -> int:
    """Measure one model after the other, but for those measured earlier, and print the table of all."""
    # FOLDER/*.json is tables and, beside them, what predictions were made with.
    entries = [entry for entry in arguments.models if not entry.endswith(MADE_WITH)]
    if not entries:
        raise UserError(f"--models: {arguments.models[0]} is no table: give the .json beside it")
    named = list(zip(names_of(entries), entries, strict=True))
    alone = {name: _alone(arguments, entry, name) for name, entry in named if not is_table(entry)}
    found: dict[str, MeasuredModel] = {}
    if first:
        _check_outputs(arguments, alone.values())
        found = {name: MeasuredModel.from_file(Path(entry)) for name, entry in named if is_table(entry)}
        for made in found.values():
            next(iter(found.values())).check_same_sets(made.name, made.words)
    for own in alone.values():
        _load(own, lambda text: None)  # what cannot be used is told before hours are spent on others
    for number, (name, own) in enumerate(alone.items(), 1):
        if first:
            tell(f"{name}: {number} of {len(alone)} to be measured")
        if made_now := _measure(own, next(iter(found.values()), None)):
            found[name] = made_now
    if first:
        table = ModelsTable(tuple(found[name] for name, _ in named))
        Console().print(table.to_rich())
        if arguments.json:
            _write(arguments.json, table.to_dict())
        if arguments.csv:
            Path(arguments.csv).write_text(table.to_csv(), encoding="utf-8")
    return 0


def _alone(arguments: EvaluateArguments, model: str, name: str) -> EvaluateArguments:
    """How one of several models is measured: its files are named after it, in a folder named as those of all."""
    files = {
        ending: str(Path(path).with_suffix("") / f"{name}.{ending}") if path else ""
        for ending, path in (("json", arguments.json), ("jsonl", arguments.predictions))
    }
    return replace(arguments, models=(), checkpoint=model, csv="", json=files["json"], predictions=files["jsonl"])


def _check_outputs(arguments: EvaluateArguments, alone: Iterable[EvaluateArguments]) -> None:
    """See to it that several models write over nothing but what the same command has written."""
    outputs = [arguments.json, arguments.csv]
    for own in alone:
        outputs += [own.json, own.predictions_file]
        if own.json and Path(own.json).exists() and not Path(own.predictions_file).exists():
            raise UserError(f"{own.json} exists, but not its predictions ({own.predictions_file}): give another --json")
    check_outputs(*outputs)
    if arguments.json and Path(arguments.json).exists() and not is_models_table(Path(arguments.json)):
        raise UserError(f"{arguments.json} exists, and is no table of several models: give another --json")


def _measure(arguments: EvaluateArguments, other: MeasuredModel | None = None) -> MeasuredModel | None:
    """Measure one model, on the same sets as ``other``, and write its files; processes but the first get nothing."""
    first, file = jax.process_index() == 0, arguments.predictions_file
    if first:
        check_outputs(arguments.json, arguments.csv, arguments.report, file)
    message: Callable[[str], None] = tell if first else lambda text: None
    config, params, step, reader = _load(arguments, message)
    root, measured = _choose(config, arguments, message)
    size, workers = arguments.batch_size, arguments.workers
    specs = {name: with_links(spec, arguments.follow_links) for name, spec in measured.items()}
    sets = {name: SetReader(name, spec, root, reader, size, workers, message) for name, spec in specs.items()}
    words = {name: len(each.source) for name, each in sets.items()}
    if other:
        other.check_same_sets(arguments.checkpoint, words)
    how = made_with(reader, params, step, sets)
    agree({"the recogniser or the sets": how})
    with tempfile.TemporaryDirectory() as scratch:
        predictions = PredictionsFile(Path(file or f"{scratch}/predictions.jsonl"), how)
        if first:
            predictions.prepare(arguments.overwrite)
        _read(sets, predictions, first)
        if not first:
            return None
        size = sum(leaf.size for leaf in jax.tree.leaves(params))
        return _conclude(arguments, predictions, sets, {"kind": config.model.kind, "parameters": size})


def _load(arguments: EvaluateArguments, message: Callable[[str], None]) -> tuple[TrainConfig, Any, int, Reader]:
    """A model: the run that it comes from, its parameters, its step, and what reads with it."""
    config, params, step = load_recognizer(arguments.checkpoint, arguments.adapters)
    return config, params, step, Reader(config, params, arguments.reading, make_mesh(), tell=message)


def _choose(
    config: TrainConfig, arguments: EvaluateArguments, message: Callable[[str], None]
) -> tuple[Path, dict[str, SourceConfig]]:
    """The data root, and what to measure."""
    data, root = config.data, Path(arguments.data or config.data.root)
    if arguments.data:
        return root, find_sets(root, arguments.sets, message, arguments.image_field, arguments.text_field)
    if not data.validation:
        raise UserError("this model comes without validation data: give --data, the folder that holds the sets")
    if not root.is_dir():
        raise UserError(f"the run's data root {data.root} does not exist: give --data")
    names = ["validation"] if len(data.validation) == 1 else [f"validation.{i}" for i in range(len(data.validation))]
    return root, dict(zip(names, data.validation, strict=True))


def _read(sets: Mapping[str, SetReader], predictions: PredictionsFile, first: bool) -> None:
    """Read what is not read yet, and let the first process write it down."""
    sizes = {name: len(set_reader.source) for name, set_reader in sets.items()}
    # Only the first looks into the file, which the others may not have, or see late.
    found = predictions.done(sizes) if first else {name: np.zeros(size, bool) for name, size in sizes.items()}
    done = {name: array_of_first(read) for name, read in found.items()}
    already = sum(int(read.sum()) for read in done.values())
    if already and first:
        tell(f"{predictions.path}: resuming after {already:,} words")
    with progress_bar(Console(stderr=True), disable=not first) as progress:
        for name, set_reader in sets.items():
            read = done[name]
            bar = progress.add_task(name, total=len(read), completed=int(read.sum()))
            for batch in set_reader.read(read):
                if first:
                    predictions.add(batch)
                progress.advance(bar, len(batch))


def _conclude(
    arguments: EvaluateArguments, predictions: PredictionsFile, sets: Mapping[str, SetReader], model: dict[str, Any]
) -> MeasuredModel:
    """Make the table, and write what was asked for."""
    table = Table.from_predictions(read_predictions(predictions.path))
    if not table.scored:
        again = "repeat the command with --overwrite" if arguments.predictions_file else "repeat the command"
        raise DataError(
            f"none of the {table.unusable:,} images of {', '.join(sets)} could be used, so there is no score: repair "
            f"them, and {again}"
        )
    title = f"{arguments.checkpoint or SHIPPED[0]}, step {predictions.made_with['step']:,}"
    details = {name: str(value) for name, value in predictions.made_with.items() if name != "sets"}
    settings = {name: details[name] for name in SETTINGS if name in details}
    details |= {"devices": f"{jax.device_count()} {jax.devices()[0].device_kind}", "jax": jax.__version__}
    if arguments.json:
        beside = os.path.relpath(predictions.path, Path(arguments.json).parent)
        if beside.startswith(os.pardir):
            tell(f"{arguments.json}: to compare it later, write its predictions to the same folder")
        about = {"title": title, "model": model, **details}
        _write(arguments.json, {**about, **table.to_dict(), "predictions": beside})
    if arguments.csv:
        Path(arguments.csv).write_text(table.to_csv(), encoding="utf-8")
    if arguments.report:
        made_from = title, details, table, read_predictions(predictions.path)
        write_report(Path(arguments.report), *made_from, lambda each: sets[each.set].picture(each))
    return MeasuredModel(name_of(arguments.checkpoint), title, table, **model, settings=settings)


def _write(path: str, data: dict[str, Any]) -> None:
    Path(path).write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
