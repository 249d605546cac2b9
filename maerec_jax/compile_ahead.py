"""Compile a run's training step for TPUs that are not there: memory, collectives, and how long a step should take.

``python -m maerec_jax.compile_ahead --config configs/maerec_s.py --topology v5e:16x16``
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import tyro
from rich.console import Console

from data_pipelines.command import CACHE, guarded
from data_pipelines.errors import UserError

if TYPE_CHECKING:  # what takes long to import has no part in --help
    from maerec_jax.ahead.report import Report
    from maerec_jax.ahead.search import Candidate


@dataclass(frozen=True)
class CompileArguments:
    """Estimate memory and speed of training on TPUs, without having any.

    Compiles the training step of a config. Needs: pip install -e '.[ahead]'

    Config fields can be overridden, as in training: --batch-size 8192 --mesh.fsdp 16
    """

    config: str
    """Config file of the run."""
    topology: str
    """Chip and shape of a slice, for example v5e:2x4, v5p:8x8x16, v6e:16x16, v4:4x4x4, tpu7x:4x4x8."""
    num_slices: int = 1
    """Number of slices, connected by the data centre network."""
    search: bool = False
    """Search for the fastest batch size per chip, remat and mesh, starting from the config's."""
    max_compiles: int = 6
    """Configurations that the search compiles, at most."""
    json: str = ""
    """Write all results to this JSON file."""
    save: str = ""
    """Write operations, bytes, fusions and collectives to this JSON file: commit it, and see what a change does."""
    cache: str = str(CACHE / "compile_ahead")
    """Folder for results, so that nothing is compiled twice; "" for none."""


def main(arguments: Sequence[str] | None = None, name: str = "python -m maerec_jax.compile_ahead") -> int:
    """Run the command; returns its exit status: 0 also where the step turns out not to fit."""
    parsed, flags = tyro.cli(CompileArguments, args=arguments, prog=name, return_unknown_args=True)
    return guarded(lambda: _compile_ahead(parsed, flags))


def _compile_ahead(arguments: CompileArguments, flags: Sequence[str]) -> int:
    from maerec_jax.ahead.compilation import compile_step, prepare_environment
    from maerec_jax.ahead.report import Report, print_report
    from maerec_jax.ahead.search import Search
    from maerec_jax.config import config_from_flags
    from maerec_jax.costs.chips import parse_topology

    topology = parse_topology(arguments.topology, arguments.num_slices)
    config = config_from_flags(arguments.config, flags)
    if config.mesh.slices not in (1, topology.slices):
        raise UserError(f"mesh.slices is {config.mesh.slices}, but --num-slices is {topology.slices}")
    config = replace(config, mesh=replace(config.mesh, slices=topology.slices))
    prepare_environment()
    cache = Path(arguments.cache).expanduser() if arguments.cache else None
    console, progress = Console(highlight=False, markup=False), Console(stderr=True, highlight=False, markup=False)

    def evaluate(candidate: "Candidate | None") -> Report:
        chosen = candidate.apply(config, topology) if candidate else config
        return Report(arguments.config, chosen, topology, compile_step(chosen, topology, cache, progress.print))

    if arguments.search and arguments.save:
        raise UserError("--save is for the step of one configuration: leave out --search")
    if not arguments.search:
        report = evaluate(None)
        _write(arguments.save, report.summary())
        print_report(report, console)
        _write(arguments.json, report.to_json())
        return 0
    search = Search(config, topology, evaluate, arguments.max_compiles, progress.print)
    best = search.run()
    if best is not None:
        print_report(best, console)
    console.print(f"{len(search.tried)} configurations compiled or found in the cache")
    for reason in search.reasons:
        console.print(f"not tried: {reason}")
    console.print(_recommendation(best, config.accumulation), soft_wrap=True)
    tried = [report.to_json() for report in search.tried.values()]
    _write(arguments.json, {"best": best and best.to_json(), "tried": tried, "not_tried": search.reasons})
    return 0


def _recommendation(best: "Report | None", accumulation: int) -> str:
    from maerec_jax.ahead.report import remat_parts

    if best is None:
        return "no configuration fits: use more chips, or chips with more memory"
    mesh = best.config.mesh
    flags = [f"--batch-size {best.config.batch_size}"]
    for name, part in remat_parts(best.config.model).items():
        flags.append(f"--model.{name}.remat {part.remat}")
        if part.remat and part.remat_keeps != "nothing":
            flags.append(f"--model.{name}.remat-keeps {part.remat_keeps}")
    axes = {"fsdp": mesh.fsdp, "tensor": mesh.tensor, "slices": mesh.slices}
    flags += [f"--mesh.{name} {size}" for name, size in axes.items() if size > 1]
    flags += ["--accumulation 1"] if accumulation > 1 else []
    return f"recommended: python -m maerec_jax.train --config {best.name} {' '.join(flags)}"


def _write(file: str, result: object) -> None:
    if file:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
