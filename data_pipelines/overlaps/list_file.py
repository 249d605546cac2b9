"""Lists of training records that are also benchmark images, and sources without the records on such lists."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.packed_strings import PackedStrings
from data_pipelines.rendering.source import RenderedSource
from data_pipelines.sources.combining import Sources, Subset
from data_pipelines.sources.lmdb_words import LmdbSource
from data_pipelines.sources.records import Source

Kind = Literal["bytes", "label", "pixels"]
"""How a copy was recognised: by equal bytes; by near hashes, equal labels and a high correlation of the pixels; or by
near hashes and a very high correlation alone."""

_FORM = '{"train": "...", "benchmark": "...", "kind": "bytes", "correlation": 1.0}'


@dataclass(frozen=True)
class Overlap:
    """A training record that shows a benchmark image. A list file has one a line, as a JSON object."""

    train: str
    """Name of the training record, as its source gives it: relative to the data root."""
    benchmark: str
    """Name of the benchmark record."""
    kind: Kind
    """How it was recognised."""
    correlation: float
    """Correlation of the aligned pixels, at most 1."""

    def to_json(self) -> str:
        """The line of a list file, without its end."""
        return json.dumps(asdict(self), ensure_ascii=False)


def read_list(path: Path) -> Iterator[Overlap]:
    """The entries of a list file; empty lines are skipped.

    Only ``train`` is needed in a line, so that lists of other origin are easily made. Raises ``DataError`` with file
    and line for anything else, and where the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    try:
                        yield _entry(json.loads(line))
                    except (ValueError, KeyError, TypeError) as error:
                        raise DataError(f"{path}:{number}: {_problem(error)}; expected {_FORM}") from error
    except OSError as error:
        problem = f"{path}: cannot be read ({error.strerror}); give a list that find_overlaps has written"
        raise DataError(problem) from error


def _entry(record: dict) -> Overlap:
    if not isinstance(record, dict):
        raise TypeError("is no JSON object")
    entry = Overlap(
        record["train"], record.get("benchmark", ""), record.get("kind", "pixels"), record.get("correlation", 1.0)
    )
    if not (isinstance(entry.train, str) and entry.train and isinstance(entry.benchmark, str)):
        raise TypeError("train and benchmark must be names of records")
    if entry.kind not in get_args(Kind):
        raise ValueError(f"kind is {entry.kind!r}, not one of {', '.join(get_args(Kind))}")
    if isinstance(entry.correlation, bool) or not isinstance(entry.correlation, int | float):
        raise TypeError("correlation must be a number")
    return entry


def _problem(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"has no {error.args[0]!r}"
    if isinstance(error, json.JSONDecodeError):
        return f"is not valid JSON ({error.msg} at column {error.colno})"
    if isinstance(error, UnicodeError):
        return "is not valid UTF-8"
    return str(error)


def leave_out(sources: Sources, names: Iterable[str]) -> tuple[Sources, int, set[str]]:
    """Sources without the records of these names.

    Names are compared with those that the sources give their records. Weights of sources stay. Looking takes about a
    second for three million files, and no time for an LMDB, where a name says which record it is.

    Returns:
      sources: the sources; those that hold none of the names are the same objects.
      count: the number of records left out.
      unknown: names that no source has a record of.

    Raises ``DataError`` where a source has no record left.
    """
    wanted, found, count, parts = set(names), set[str](), 0, []
    for source in sources.sources:
        whole = source.source if isinstance(source, Subset) else source
        places = dict(_places(whole, wanted))
        found.update(places.values())
        indices = source.indices if isinstance(source, Subset) else np.arange(len(source) if places else 0)
        kept = indices[~np.isin(indices, list(places))]
        if not places or len(kept) == len(indices):
            parts.append(source)
            continue
        if not len(kept):
            raise DataError(f"{source.name(0)} and all {len(source):,} records with it are excluded; drop this source")
        count += len(indices) - len(kept)
        parts.append(Subset(whole, kept))
    return Sources(parts, sources.weights), count, wanted - found


def _places(source: Source, names: set[str]) -> Iterator[tuple[int, str]]:
    """Index and name of the records of a source that have one of the names."""
    if isinstance(source, RenderedSource):  # made up on the fly, and without end
        return
    if isinstance(source, LmdbSource):
        for name in names:
            digits = name.rpartition("-")[2]
            index = int(digits) - 1 if digits.isdecimal() else -1
            if 0 <= index < len(source) and source.name(index) == name:
                yield index, name
        return
    candidates: Iterable[int] = range(len(source))
    files = getattr(source, "names", None)
    if isinstance(files, PackedStrings):
        # Making the name of a record takes longer than a look at the last part of the name of its file.
        last = {PurePosixPath(name).name for name in names}
        candidates = (index for index, file in enumerate(files) if file.rpartition("/")[2] in last)
    for index in candidates:
        name = source.name(index)
        if name in names:
            yield index, name
