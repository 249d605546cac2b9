"""Compile the published recipes for TPU pods, and print the table of docs/ahead_of_time.md.

    python scripts/benchmarks/ahead_of_time.py

Needs no TPU, but the compiler: pip install -e '.[ahead]'. Each row takes several minutes to compile. Results are kept
in the cache of maerec_jax.compile_ahead: repeat a stopped command to resume it.
"""

from dataclasses import replace
from itertools import product
from pathlib import Path

import tyro
from rich.progress import track

from data_pipelines.command import CACHE
from maerec_jax.ahead.compilation import compile_step, prepare_environment
from maerec_jax.ahead.report import Report, markdown_cells
from maerec_jax.config import load_config_module
from maerec_jax.costs.chips import parse_topology

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
# Images a chip on v5e and on v5p: powers of two that fit without remat.
IMAGES = {"mae_vit_s": (64, 256), "maerec_s": (64, 256), "mae_vit_b": (32, 128), "maerec_b": (32, 128)}
TOPOLOGIES = ("v5e:2x4", "v5e:16x16", "v5p:8x8x8")


def make_report(name: str, topology_name: str) -> Report:
    """Compile one row, or take it from the cache."""
    topology = parse_topology(topology_name)
    config = load_config_module(str(CONFIGS / f"{name}.py")).get_config()
    config = replace(config, batch_size=IMAGES[name][topology_name.startswith("v5p")] * topology.chips)
    return Report(name, config, topology, compile_step(config, topology, CACHE / "compile_ahead"))


def main() -> None:
    prepare_environment()
    reports = [make_report(*row) for row in track(list(product(IMAGES, TOPOLOGIES)), "compile")]
    rows = [markdown_cells(report) for report in reports]
    print("Compiled with", ", ".join(f"{k} {v}" for k, v in reports[0].compiled.versions.items()), end=".\n\n")
    for cells in (rows[0], ["---"] * len(rows[0]), *(row.values() for row in rows)):
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
