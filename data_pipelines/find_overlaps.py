"""Find benchmark images in training sets: ``python -m data_pipelines.find_overlaps --train SETS --benchmark SETS``."""

import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from data_pipelines.command import main_of
from data_pipelines.errors import DataError
from data_pipelines.overlaps.search import NAMED, BenchmarkIndex, find_overlaps
from data_pipelines.prepared import Records
from data_pipelines.progress import progress_bar
from data_pipelines.sources.combining import Sources, SourceSpec
from data_pipelines.sources.files import Annotations, Folder, LmdbWords, with_links
from data_pipelines.union14m.catalogue import kind_at


@dataclass(frozen=True)
class Arguments:
    """Find benchmark images in training sets, and list the training records to leave out.

    Finds equal files, and copies that are re-encoded, resized or cropped by up to 5 % at each edge.

    Train without them: --data.exclude overlaps.jsonl, with the same data root as here.

    Example: --root /path/to/Union14M --train Union14M-U/cc_lmdb --benchmark MY_BENCHMARK/labels.jsonl
    """

    train: tuple[str, ...]
    """Training sets: annotation lists, LMDBs, prepared sets or image folders (paths relative to --root)."""
    benchmark: tuple[str, ...]
    """Benchmark sets, in the same forms."""
    root: str = "."
    """Data root; use the one of your training runs."""
    out: str = "overlaps.jsonl"
    """List to write: a JSON object per line (train, benchmark, kind, correlation)."""
    workers: int = 0
    """Worker processes; 0 for none. The list does not depend on it."""
    follow_links: bool = False
    """Also read images and folders behind links, wherever they lead."""


_SPECS: dict[str | None, Callable[..., SourceSpec]]
_SPECS = {"annotations": Annotations, "lmdb": LmdbWords, "records": Records, None: Folder}


def spec_by_ending(root: Path, path: str) -> SourceSpec:
    """The source that a path names: a list of images, or the folder of an LMDB, a prepared set or images."""
    kind = "annotations" if path.endswith((".jsonl", ".json")) else kind_at(root / path)
    return _SPECS[kind](path=path)


def run(arguments: Arguments) -> int:
    """Search, write the list, print what was found, and return the exit status.

    The list appears under its name only when it is complete. Raises ``DataError`` for what cannot be used.
    """
    if not arguments.train or not arguments.benchmark:
        raise DataError("--train and --benchmark each need at least one set")
    if arguments.workers < 0:
        raise DataError("--workers must not be negative")
    root, out, console = Path(arguments.root), Path(arguments.out), Console(stderr=True)
    training, benchmark = (
        Sources.open([with_links(spec_by_ending(root, path), arguments.follow_links) for path in paths], root)
        for paths in (arguments.train, arguments.benchmark)
    )
    for note in (note for part in (*training.sources, *benchmark.sources) for note in getattr(part, "notes", ())):
        console.out(note, highlight=False)
    counts, kinds, copied, named = Counter[str](), Counter[str](), set[str](), 0
    unfinished = out.with_name(out.name + ".unfinished")
    out.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="overlaps-") as folder,
        unfinished.open("w", encoding="utf-8") as file,
        progress_bar(console) as progress,
    ):
        advance = partial(progress.advance, progress.add_task("benchmarks", total=len(benchmark)))
        index = BenchmarkIndex.build(benchmark, Path(folder), arguments.workers, advance)
        for note in index.notes:
            console.out(note, highlight=False)
        advance = partial(progress.advance, progress.add_task("training images", total=len(training)))
        for part in find_overlaps(training, index, arguments.workers):
            for overlap in part.overlaps:
                file.write(overlap.to_json() + "\n")
                copied.add(overlap.benchmark)
            kinds.update({overlap.train: overlap.kind for overlap in reversed(part.overlaps)}.values())
            counts += part.counts
            for problem in part.problems[: NAMED - named]:
                console.out(f"cannot be compared: {problem}", highlight=False)
                named += 1
            advance(part.counts["records"])
    os.replace(unfinished, out)
    title = f"{kinds.total():,} of {counts['records']:,} training records are copies: {out}"
    table = Table("", "", title=title, show_header=False)
    for what, number in (
        ("equal bytes", kinds["bytes"]),
        ("near copies with the same label", kinds["label"]),
        ("near copies with another label or none", kinds["pixels"]),
        ("benchmark images found", len(copied)),
        ("flat training images (compared by bytes only)", counts["flat"]),
        ("undecodable training images (compared by bytes only)", counts["unreadable"]),
        ("pairs of hashes compared", counts["examined"]),
        ("pairs of images compared", counts["compared"]),
    ):
        table.add_row(what, f"{number:,}")
    console.print(table)
    return 0


main = main_of(Arguments, run, "data_pipelines.find_overlaps")

if __name__ == "__main__":
    sys.exit(main())
