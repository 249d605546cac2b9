"""Lines of another file about the records of a list: in step with it where both have one order, else by an index."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Generic, TypeVar

import numpy as np

from data_pipelines.construct.records import Span
from data_pipelines.errors import DataError

Told = TypeVar("Told")
Parse = Callable[[bytes], tuple[str, Told]]
"""The name of the record that a line is about, and what it tells. Raises ``ValueError`` for another line."""

_ENTRY = np.dtype([("name", "<u8"), ("start", "<i8")])  # a hash, and the place of the line in bytes


@dataclass(frozen=True)
class MatchedLines(Generic[Told]):
    """A file with a line about each record of a list. Small and picklable: lines are read when they are asked for.

    All its names may have one beginning that those of the list have not, such as a folder's.
    """

    path: Path  # the file
    parse: Parse[Told]  # picklable
    prefix: str  # what its names begin with
    starts: dict[int, int] | None  # where its lines begin for the span that begins with a line; None for another order
    index: Path  # for another order: ``_ENTRY`` of all its lines, by rising hashes
    others: int  # how many of its lines are about other records

    @classmethod
    def match(
        cls, path: Path, parse: Parse[Told], spans: Sequence[Span], first_names: Sequence[str], index: Path
    ) -> "MatchedLines[Told]":
        """Find out the order of a file; writes an ``index`` where it is another than that of the list in ``spans``.

        ``first_names`` are the names of the first record of each span. Raises ``DataError`` where the file cannot be
        read, has no line about the first record, or two lines about one record.
        """
        path = path.absolute()  # machines of a cluster have other working folders
        lines = cls(path, parse, "", None, index, 0)
        try:
            names = (name for name, _ in lines._places())
            name = next((name for name in names if f"/{name}".endswith(f"/{first_names[0]}")), None)
            if name is None:
                raise DataError(f"{path}: has no line about {first_names[0]}, the first record: is it of another set?")
            prefix = name.removesuffix(first_names[0])
            starts = lines._starts(spans, [prefix + each for each in first_names])
            count = sum(span.lines for span in spans)
            return cls(path, parse, prefix, starts, index, 0 if starts else lines._write_index() - count)
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error

    def told(self, span: Span, names: Sequence[str]) -> list[Told]:
        """What the file tells of each of the records of a span, which have these names.

        Raises ``DataError`` for a record that it has no line about.
        """
        wanted = [self.prefix + name for name in names]
        with self.path.open("rb") as file:
            if self.starts:
                file.seek(self.starts[span.first])
                lines = list(islice(file, span.lines))
            else:
                lines = [_line_at(file, start) for start in self._looked_up(names)]
        try:
            block = [*map(self.parse, lines)]
        except ValueError:
            block = [
                self._parsed(line, f":{span.first + row}" if self.starts else "") for row, line in enumerate(lines, 1)
            ]
        if [name for name, _ in block] == wanted:
            return [told for _, told in block]
        of = dict(block)  # some lines may stand further down: evaluate reads words that stand upright last
        for row, name in enumerate(wanted):
            if name not in of:
                place = f"{self.path}:{span.first + row + 1}"
                raise DataError(f"{place}: is about {block[row][0]}, where {name} was expected")
        return [of[name] for name in wanted]

    def _looked_up(self, names: Sequence[str]) -> list[int]:
        """Where the lines about these begin."""
        entries = np.load(self.index, mmap_mode="r")
        hashes = np.array([_hash(self.prefix + name) for name in names], np.uint64)
        found = entries[np.searchsorted(entries["name"], hashes).clip(max=len(entries) - 1)]
        for row in np.flatnonzero(found["name"] != hashes)[:1]:
            raise DataError(f"{self.path}: has no line about {self.prefix}{names[row]}")
        return found["start"].tolist()

    def _parsed(self, line: bytes, place: str) -> tuple[str, Told]:
        try:
            return self.parse(line)
        except ValueError as error:
            raise DataError(f"{self.path}{place}: {error}") from error

    def _places(self) -> Iterator[tuple[str, int]]:
        """The name in each line, and where the line begins."""
        start = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield self._parsed(line, f":{number}")[0], start
                start += len(line)

    def _starts(self, spans: Sequence[Span], first_names: Sequence[str]) -> dict[int, int] | None:
        """Where the lines of each span begin, if the file has as many, and these are about the same first record."""
        starts, start = {}, 0
        with self.path.open("rb") as file:
            for span, name in zip(spans, first_names, strict=True):
                block = list(islice(file, span.lines))
                if len(block) < span.lines or self._parsed(block[0], f":{span.first + 1}")[0] != name:
                    return None
                starts[span.first], start = start, start + sum(map(len, block))
            return None if file.read(1) else starts

    def _write_index(self) -> int:
        """Write the index; returns the number of lines."""
        entries = np.fromiter(((_hash(name), start) for name, start in self._places()), _ENTRY)
        entries.sort(order="name")
        for row in np.flatnonzero(entries["name"][1:] == entries["name"][:-1])[:1].tolist():
            with self.path.open("rb") as file:
                file.seek(entries["start"][row])
                name, _ = self._parsed(file.readline(), "")
            raise DataError(f"{self.path}: has two lines about {name}: leave one of them out")
        np.save(self.index, entries)
        return len(entries)


def _line_at(file: BinaryIO, start: int) -> bytes:
    file.seek(start)
    return file.readline()


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
