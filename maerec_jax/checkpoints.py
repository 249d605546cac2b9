"""List the checkpoints of a run: ``python -m maerec_jax.checkpoints runs/maerec_s``."""

import sys
from dataclasses import dataclass
from typing import Annotated

import tyro
from etils import epath

from data_pipelines.command import main_of
from data_pipelines.errors import UserError
from maerec_jax.config import read_json
from maerec_jax.models.interface import RecogniserConfig
from maerec_jax.weights.checkpoint import CONFIG_FILE, FOLDER, default_step, read_score
from maerec_jax.weights.checkpoint_files import damage, size, unfinished_steps, written_steps


@dataclass(frozen=True)
class CheckpointsArguments:
    """List the checkpoints of a run: their steps, validation scores and sizes, and what each can be used for."""

    workdir: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Workdir of the run: a folder, or a place in a bucket."""


def checkpoints(arguments: CheckpointsArguments) -> int:
    """Print a line for each checkpoint."""
    workdir = epath.Path(arguments.workdir)
    config, folder = read_json(workdir / CONFIG_FILE), workdir / FOLDER
    lacks = {step: damage(folder / str(step)) for step in written_steps(folder)}
    scores = {step: read_score(folder / str(step)) for step, lacking in lacks.items() if lacking is None}
    unfinished = unfinished_steps(folder)
    if not lacks and not unfinished:
        raise UserError(f"{workdir} has no checkpoint yet")
    reads = "read, evaluate, export, --init-from" if isinstance(config.model, RecogniserConfig) else "--init-from"
    print(f"{'step':>9}  {'score':>7}  {'MiB':>9}  for")
    for step, lacking in lacks.items():
        use = f"nothing: damaged ({lacking})"
        if step in scores:
            use = reads
            if len(scores) > 1 and step == default_step(scores):
                use += ", of which it is the default"
            if config.data.train and step == max(scores):
                use += "; train goes on from it"
        score = scores.get(step)
        told = "-" if score is None else f"{score:.4f}"
        print(f"{step:>9}  {told:>7}  {size(folder / str(step)) / 2**20:>9,.1f}  {use}")
    for step in unfinished:
        print(f"{step:>9}  {'-':>7}  {'-':>9}  nothing: being written, or left by a process that was killed")
    return 0


main = main_of(CheckpointsArguments, checkpoints, "maerec_jax.checkpoints")

if __name__ == "__main__":
    sys.exit(main())
