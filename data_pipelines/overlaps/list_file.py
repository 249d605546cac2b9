"""Lists of training records that are also benchmark images, and sources without the records on such lists."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError

from data_pipelines.errors import DataError
from data_pipelines.packed_strings import PackedStrings
from data_pipelines.sources.combining import Sources, Subset
from data_pipelines.sources.lmdb_words import LmdbSource
from data_pipelines.sources.records import Source

Kind = Literal["bytes", "label", "pixels", "equal", "place", "near", "picture"]
"""How a copy was recognised: by equal bytes; by near hashes, equal labels and a high correlation of the pixels; or by
near hashes and a very high correlation alone. And of copies within training sets: by equal pixels; by the same place in
the same picture; by nearly equal hashes and equal labels; or as a word without a label by its picture."""

_FORM = '{"train": "...", "benchmark": "...", "kind": "bytes", "correlation": 1.0}'


@dataclass(frozen=True)
class Overlap:
    """A training record that shows a benchmark image, or what another record shows that stays. A list file has one a
    line, as a JSON object."""

    train: Annotated[str, Field(min_length=1)]  # name of the training record, relative to the data root
    benchmark: str = ""  # name of the benchmark record, or of the record that stays
    kind: Kind = "pixels"  # how it was recognised
    correlation: float = 1.0  # of the aligned pixels, at most 1; or intersection over union, or the share of equal bits

    def to_json(self) -> str:
        """The line of a list file, without its end."""
        return json.dumps(asdict(self), ensure_ascii=False)


_OVERLAP = TypeAdapter(Overlap)


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
                        yield _OVERLAP.validate_json(line)
                    except ValidationError as error:
                        first = error.errors()[0]
                        problem = ": ".join([*map(str, first["loc"]), first["msg"]])
                        raise DataError(f"{path}:{number}: {problem}; expected {_FORM}") from error
    except OSError as error:
        problem = f"{path}: cannot be read ({error.strerror}); give a list that find_overlaps has written"
        raise DataError(problem) from error


def leave_out(sources: Sources, names: Iterable[str]) -> tuple[Sources, int, set[str]]:
    """Sources without the records of these names; how many those are; and the names that no source has a record of.

    Names are compared with those that the sources give their records. Weights stay, and so do sources that hold none of
    the names. Looking takes about a second for three million files, and no time for an LMDB, where a name says which
    record it is. Raises ``DataError`` where a source has no record left.
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
    if getattr(source, "drawn", False):  # when they are read, and without end
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
