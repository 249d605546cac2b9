"""Measure a recogniser: ``python -m maerec_jax.evaluate --checkpoint DIR [--root DIR --annotations FILE ...]``."""

import json
import sys
from dataclasses import dataclass, replace
from functools import partial

from maerec_jax.command import run_command


@dataclass(frozen=True)
class EvaluateArguments:
    """Read labelled words and print word accuracies: of the validation data of the run, or of annotation files.

    Every labelled word counts, those with characters that the model cannot write too.
    """

    checkpoint: str
    """Workdir of a fine-tuning run, or one of its checkpoints."""
    root: str = ""
    """Data root; that of the run by default."""
    annotations: tuple[str, ...] = ()
    """Annotation files (.jsonl or .json), relative to the data root, each a line of the table."""
    turn: bool | None = None
    """Read images that are higher than wide also turned to the left and to the right, and take the surest reading; by
    default if the run was trained so (data.turn_vertical)."""
    batch_size: int = 256
    """Images a step."""
    workers: int = 0
    """Worker processes that read and decode."""
    sheets: str = ""
    """Also draw the first 48 words of each set with their readings into this folder."""
    json: str = ""
    """Also write the table to this JSON file."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {self.batch_size}")


def evaluate(arguments: EvaluateArguments) -> int:
    """Evaluate, print the table, and return 0."""
    from pathlib import Path

    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from data_pipelines.sources import Annotations
    from maerec_jax.config import UserError
    from maerec_jax.models.maerec import MAERecConfig
    from maerec_jax.training.checkpoint import load_params
    from maerec_jax.training.data import open_sources
    from maerec_jax.training.evaluation import Evaluator
    from maerec_jax.training.loop import make_task
    from maerec_jax.training.pictures import save_picture
    from maerec_jax.training.sharding import make_mesh, put_whole, state_shardings

    config, params, step = load_params(arguments.checkpoint)
    if not isinstance(config.model, MAERecConfig):
        raise UserError(f"{arguments.checkpoint} holds a masked autoencoder, which cannot read: fine-tune it first")
    # Every word counts, those with characters that the model cannot write too: it reads them wrong.
    data = replace(config.data, unknown_characters="keep", root=arguments.root or config.data.root)
    data = data if arguments.turn is None else replace(data, turn_vertical=arguments.turn)
    sets: dict[str, tuple] = {name: (Annotations(path=name),) for name in arguments.annotations}
    if not sets:
        if not data.validation:
            raise UserError("the run has no validation data: give --annotations")
        sets = {"validation": data.validation}
    config = replace(config, data=data)
    console, mesh, task = Console(stderr=True), make_mesh(), make_task(config)
    params = put_whole(params, state_shardings(params, mesh))
    table = Table(title=f"{arguments.checkpoint}, step {step} (%)")
    columns = {
        "word_accuracy": "WA",
        "word_accuracy_ignore_case": "WAIC",
        "word_accuracy_ignore_case_symbols": "WAICS",
        "word_accuracy_36_characters": "36 chars",
        "edit_similarity": "1-NED",
    }
    table.add_column("set", overflow="fold")
    for column in ("words", *columns.values()):
        table.add_column(column, justify="right")
    if arguments.json:
        Path(arguments.json).parent.mkdir(parents=True, exist_ok=True)
    results = {}
    for name, specs in sets.items():
        notes: list[str] = []
        sources = open_sources(config, specs, notes.append)
        for note in notes:
            console.print(f"{name}: {note}", markup=False, highlight=False)
        evaluator = Evaluator.of_run(config, task, sources, arguments.batch_size, arguments.workers, mesh)
        with Progress(console=console, transient=True) as progress:
            bar = progress.add_task(name, total=len(sources))
            found = evaluator(params, partial(progress.console.print, markup=False), partial(progress.advance, bar))
        table.add_row(name, f"{found.metrics['words']:,.0f}", *(f"{100 * found.metrics[c]:.2f}" for c in columns))
        results[name] = found.metrics
        if arguments.sheets and found.picture is not None:
            save_picture(found.picture, Path(arguments.sheets) / f"{Path(name).with_suffix('').as_posix()}.png")
    Console().print(table)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(EvaluateArguments, evaluate, "python -m maerec_jax.evaluate"))
