"""Find benchmark images in training sets, and write a list of the training records to leave out.

python -m data_pipelines.find_overlaps --root /path/to/Union14M --out overlaps.jsonl
  --train Union14M-L/train_annos/mmocr1.0/train_easy.json Union14M-U/cc_lmdb
  --benchmark Union14M-L/Union14M-Benchmarks/general/annotation.json

Found are equal files, and re-encoded, resized or slightly cropped copies (up to 5 % at each edge). The list has a JSON
object a line: train, benchmark, kind (bytes, label or pixels), correlation. A training run leaves its records out with
--data.exclude overlaps.jsonl, a path relative to its data root. Use the same root here: names are relative to it.
"""

import os
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from data_pipelines.errors import DataError
from data_pipelines.overlaps.index import IndexOptions
from data_pipelines.overlaps.search import NAMED, BenchmarkIndex, Findings, Thresholds, find_overlaps
from data_pipelines.prepared import Records
from data_pipelines.prepared.layout import MANIFEST
from data_pipelines.sources.combining import Sources, SourceSpec
from data_pipelines.sources.files import Annotations, Folder, LmdbWords


@dataclass(frozen=True)
class Arguments:
    """Where to look, for what, and how closely."""

    train: tuple[str, ...]
    """Training sets, relative to the root: lists (.jsonl, .json, .tsv, .txt), and folders of LMDBs, prepared sets or
    images."""
    benchmark: tuple[str, ...]
    """Benchmarks, in the same forms."""
    root: str = "."
    """The data root; that of the training runs that are to use the list."""
    out: str = "overlaps.jsonl"
    """The list to write."""
    workers: int = 0
    """Worker processes; 0 to work in this one. The list does not depend on it."""
    scratch: str = ""
    """Folder for temporary files (3 KB a benchmark image); the system's by default."""
    most: int = 8
    """Benchmark images that one training image is compared with at most, the nearest first."""
    thresholds: Thresholds = field(default_factory=Thresholds)
    """From which correlation on a pair is a copy."""
    index: IndexOptions = field(default_factory=IndexOptions)
    """How near hashes are looked for."""


def spec_by_ending(root: Path, path: str) -> SourceSpec:
    """The source that a path names: a list of images, or the folder of an LMDB, a prepared set or images."""
    if path.endswith((".jsonl", ".json")) or (root / path).is_file():
        return Annotations(path=path)
    if (root / path / "data.mdb").is_file():
        return LmdbWords(path=path)
    if (root / path / MANIFEST).is_file():
        return Records(path=path)
    return Folder(path=path)


def run(arguments: Arguments, console: Console) -> Findings:
    """Search, write the list, and return all findings but the overlaps, which are in the list.

    The list appears under its name only when it is complete. Raises ``DataError`` for what cannot be used.
    """
    if not arguments.train or not arguments.benchmark:
        raise DataError("nothing to compare: give --train and --benchmark")
    if arguments.workers < 0 or arguments.most < 1:
        raise DataError("--workers must not be negative, and --most at least 1")
    root, out = Path(arguments.root), Path(arguments.out)
    training, benchmark = (
        Sources.open([spec_by_ending(root, path) for path in paths], root)
        for paths in (arguments.train, arguments.benchmark)
    )
    total, kinds, copied = Findings(), Counter[str](), set[str]()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    unfinished = out.with_name(out.name + ".unfinished")
    out.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="overlaps-", dir=arguments.scratch or None) as folder,
        unfinished.open("w", encoding="utf-8") as file,
        Progress(*columns, console=console, transient=True) as progress,
    ):
        bar = progress.add_task("benchmarks", total=len(benchmark))
        index = BenchmarkIndex.build(
            benchmark, Path(folder), arguments.index, arguments.workers, lambda n: progress.advance(bar, n)
        )
        for line in _about(index):
            progress.console.print(line, markup=False, highlight=False)
        bar = progress.add_task("training images", total=len(training))
        for part in find_overlaps(training, index, arguments.thresholds, arguments.workers, arguments.most):
            for overlap in part.overlaps:
                file.write(overlap.to_json() + "\n")
                copied.add(overlap.benchmark)
            kinds.update({overlap.train: overlap.kind for overlap in reversed(part.overlaps)}.values())
            for field_name in ("records", "unreadable", "flat", "examined", "compared"):
                setattr(total, field_name, getattr(total, field_name) + getattr(part, field_name))
            for problem in part.problems[: NAMED - len(total.problems)]:
                progress.console.print(f"cannot be compared: {problem}", markup=False, highlight=False)
                total.problems.append(problem)
            progress.advance(bar, part.records)
    os.replace(unfinished, out)
    title = f"{sum(kinds.values()):,} of {total.records:,} training records are copies: {out}"
    table = Table("", "", title=title, show_header=False)
    for what, number in (
        ("equal bytes", kinds["bytes"]),
        ("near, with the same label", kinds["label"]),
        ("near, with no label or another", kinds["pixels"]),
        ("benchmark images that they show", len(copied)),
        ("flat training images: looked for by bytes alone", total.flat),
        ("training images that cannot be decoded: the same", total.unreadable),
        ("pairs of hashes compared", total.examined),
        ("pairs of images compared", total.compared),
    ):
        table.add_row(what, f"{number:,}")
    console.print(table)
    return total


def _about(index: BenchmarkIndex) -> list[str]:
    lines = [f"cannot be compared: {problem}" for problem in index.problems]
    if index.unreadable:
        lines.append(f"{index.unreadable:,} benchmark images cannot be decoded: only equal files are found")
    if index.flat:
        lines.append(f"{index.flat:,} benchmark images are flat: only equal files are found")
    crowded, hidden = index.hashes.passed_over()
    if crowded:
        lines.append(
            f"{crowded:,} keys belong to more than {index.options.max_bucket} hashes and are passed over; "
            f"{hidden:,} benchmark images have no others, and only equal files of these are found"
        )
    return lines


def main(arguments: Arguments) -> int:
    """Run the command; what cannot be used becomes one line on stderr and status 1."""
    try:
        run(arguments, Console(stderr=True))
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        if error.filename is None:
            raise
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments, prog="python -m data_pipelines.find_overlaps", description=__doc__)))
