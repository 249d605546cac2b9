"""Compile a run's training step for TPUs that are not there: memory, collectives, and how long a step should take.

``python -m maerec_jax.compile_ahead --config configs/maerec_s.py --topology v5e:16x16``
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipelines.command import CACHE, fail, guarded

if TYPE_CHECKING:
    from maerec_jax.ahead.report import Report

_USAGE = """python -m maerec_jax.compile_ahead --config FILE --topology v5e:16x16 [--num-slices N] [options] [overrides]

Compiles the training step of the config for TPUs, without any: needs libtpu (pip install 'maerec-jax[ahead]').

  --topology NAME     chip and shape of a slice: v5e:2x4, v5p:8x8x16, v6e:16x16, v4:4x4x4, tpu7x:4x4x8
  --num-slices N      number of slices, joined by the network of the data centre (1)
  --search            look for the fastest images a chip, remat and mesh, starting from those of the config
  --max-compiles N    how many of them to compile at most (6)
  --json FILE         write everything there, too
  --cache DIR         where results are kept, so that nothing is compiled twice (~/.cache/maerec_jax/compile_ahead);
                      "" for nowhere

Every field of the config can be overridden, as in training: --batch-size 8192 --mesh.fsdp 16
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0 also where the step turns out not to fit."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser("python -m maerec_jax.compile_ahead", _USAGE, add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    parser.add_argument("--topology")
    parser.add_argument("--num-slices", type=int, default=1)
    parser.add_argument("--search", action="store_true")
    parser.add_argument("--max-compiles", type=int, default=6)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--cache", default=str(CACHE / "compile_ahead"))
    parsed, flags = parser.parse_known_args(arguments)
    if parsed.config is None or parsed.topology is None:
        print(_USAGE)
        if {"-h", "--help"} & set(flags):
            return 0
        return fail(f"--{'config' if parsed.config is None else 'topology'} is missing")
    return guarded(lambda: _compile_ahead(parsed, flags))


def _compile_ahead(parsed: argparse.Namespace, flags: Sequence[str]) -> int:
    from rich.console import Console

    from data_pipelines.errors import UserError
    from maerec_jax.ahead.compilation import compile_step, prepare_environment
    from maerec_jax.ahead.report import Report, print_report
    from maerec_jax.ahead.search import Candidate, search
    from maerec_jax.config import config_from_flags
    from maerec_jax.costs.chips import parse_topology

    topology = parse_topology(parsed.topology, parsed.num_slices)
    config = config_from_flags(parsed.config, flags)
    if config.mesh.slices not in (1, topology.slices):
        raise UserError(f"mesh.slices is {config.mesh.slices}, but --num-slices {topology.slices}")
    config = replace(config, mesh=replace(config.mesh, slices=topology.slices))
    prepare_environment()
    cache = Path(parsed.cache).expanduser() if parsed.cache else None
    console, progress = Console(), Console(stderr=True)

    def message(text: str) -> None:
        progress.print(text, markup=False, highlight=False)

    def evaluate(candidate: Candidate) -> Report:
        chosen = candidate.apply(config, topology)
        return Report(parsed.config, chosen, topology, compile_step(chosen, topology, cache, message))

    if not parsed.search:
        report = Report(parsed.config, config, topology, compile_step(config, topology, cache, message))
        print_report(report, console)
        _write(parsed.json, report.to_json())
        return 0
    found = search(config, topology, evaluate, parsed.max_compiles, message)
    if found.best is not None:
        print_report(found.best, console)
    console.print(f"{len(found.tried)} configurations compiled or known from before", highlight=False)
    for reason in found.reasons:
        console.print(f"not tried: {reason}", markup=False, highlight=False)
    console.print(_recommendation(found.best, config.accumulation), markup=False, highlight=False, soft_wrap=True)
    _write(
        parsed.json,
        {
            "best": found.best and found.best.to_json(),
            "tried": [report.to_json() for _, report in found.tried],
            "not_tried": list(found.reasons),
        },
    )
    return 0


def _recommendation(best: "Report | None", accumulation: int) -> str:
    from maerec_jax.models.maerec import MAERecConfig

    if best is None:
        return "nothing that was tried fits: take more chips, or ones with more memory"
    config, mesh = best.config, best.config.mesh
    flags = [f"--batch-size {config.batch_size}", f"--model.encoder.remat {config.model.encoder.remat}"]
    if isinstance(config.model, MAERecConfig):
        flags.append(f"--model.decoder.remat {config.model.decoder.remat}")
    for part in ("encoder", "decoder"):
        chosen = getattr(config.model, part, None)
        if chosen is not None and chosen.remat and chosen.remat_keeps != "nothing":
            flags.append(f"--model.{part}.remat-keeps {chosen.remat_keeps}")
    axes = {"fsdp": mesh.fsdp, "tensor": mesh.tensor, "slices": mesh.slices}
    flags += [f"--mesh.{name} {size}" for name, size in axes.items() if size > 1]
    flags += ["--accumulation 1"] if accumulation > 1 else []
    return f"recommended: python -m maerec_jax.train --config {best.name} {' '.join(flags)}"


def _write(file: Path | None, result: object) -> None:
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
