"""Compile the published recipes for TPU pods, and write the table in docs/ahead_of_time.md.

    python scripts/benchmarks/ahead_of_time.py

Needs libtpu (pip install 'maerec-jax[ahead]') and no TPU. Each row is a compile of several minutes; results are kept in
the cache of maerec_jax.compile_ahead, so that a run that was stopped goes on where it was. The table is written anew
after every row.
"""

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from data_pipelines.command import CACHE
from maerec_jax.ahead.compilation import compile_step, prepare_environment
from maerec_jax.ahead.report import Report, markdown_cells
from maerec_jax.config import load_config_module
from maerec_jax.costs.chips import parse_topology

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENT = REPOSITORY / "docs" / "ahead_of_time.md"
RESULTS = CACHE / "compile_ahead"
BEGIN, END = "<!-- scripts/benchmarks/ahead_of_time.py writes from here -->\n", "<!-- to here -->\n"

# Images a chip on v5e and on v5p: powers of two that fit without remat.
CONFIGS = {"mae_vit_s": (64, 256), "maerec_s": (64, 256), "mae_vit_b": (32, 128), "maerec_b": (32, 128)}
TOPOLOGIES = ("v5e:2x4", "v5e:16x16", "v5p:8x8x8")


def rows() -> list[tuple[str, str, int]]:
    """Config, topology and images a chip of each row."""
    return [
        (config, topology, images[topology.startswith("v5p")])
        for config, images in CONFIGS.items()
        for topology in TOPOLOGIES
    ]


def make_report(name: str, topology_name: str, images: int, cache: Path) -> Report:
    """Compile one row, or take it from the cache."""
    topology = parse_topology(topology_name)
    config = load_config_module(str(REPOSITORY / "configs" / f"{name}.py")).get_config()
    config = replace(config, batch_size=images * topology.chips)
    return Report(f"configs/{name}.py", config, topology, compile_step(config, topology, cache))


def write_table(document: Path, reports: list[Report]) -> None:
    """Put the table in its place in the document."""
    text = document.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    if not rest or END not in rest:
        raise SystemExit(f"{document} has no lines {BEGIN.strip()} and {END.strip()}")
    versions = sorted({f"{k} {v}" for report in reports for k, v in report.compiled.versions.items()})
    rows = [markdown_cells(report) for report in reports]
    columns = list(max(rows, key=len))
    cells = [columns, ["---"] * len(columns), *([row.get(name, "-") for name in columns] for row in rows)]
    lines = [f"Compiled with {', '.join(versions)}.", "", *(f"| {' | '.join(row)} |" for row in cells), ""]
    document.write_text(before + BEGIN + "\n".join(lines) + END + after)


def main() -> int:
    """Compile row after row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--document", type=Path, default=DOCUMENT, help="the Markdown file with the table")
    parser.add_argument("--cache", type=Path, default=RESULTS, help="where results are kept")
    arguments = parser.parse_args()
    prepare_environment()
    console = Console(stderr=True)
    wanted = rows()
    done: dict[tuple[str, str, int], Report] = {}
    # The small topologies first, so that a table of all configs is there early.
    for number, row in enumerate(sorted(wanted, key=lambda row: TOPOLOGIES.index(row[1])), start=1):
        begin = time.perf_counter()
        done[row] = make_report(*row, arguments.cache)
        write_table(arguments.document, [done[known] for known in wanted if known in done])
        console.print(f"{number} of {len(wanted)}: {' '.join(map(str, row))}, {time.perf_counter() - begin:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
