"""Several sources as one, and sources without the records that a dictionary cannot write."""

import unicodedata
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Literal

import numpy as np

from data_pipelines.charset import composed
from data_pipelines.errors import DataError, RecordError
from data_pipelines.packed_strings import PackedStrings, StringPacker
from data_pipelines.sources.records import Record, Source, SourceSpec, read_records

Mixing = Literal["by_size", "balanced"]
"""How sources without a weight divide what the others leave of the training records: by their sizes, or evenly."""

_EXAMPLES = 10


class Sources:
    """Sources end to end, as one source: record ``i`` of source ``s`` has the index ``starts[s] + i``."""

    def __init__(self, sources: Sequence[Source], weights: Sequence[float | None] | None = None) -> None:
        """``weights`` are the shares in which training draws from the sources, see ``proportions``."""
        self.sources = tuple(sources)
        self.weights = (None,) * len(self.sources) if weights is None else tuple(weights)
        if not self.sources:
            raise DataError("there are no sources; give at least one")
        self.starts = (0, *accumulate(len(source) for source in self.sources))

    @classmethod
    def open(cls, specs: Sequence[SourceSpec], root: Path, mixing: Mixing = "by_size") -> "Sources":
        """Open every spec under the data root ``root``. Raises ``DataError`` for the first that cannot be used."""
        weights = [spec.weight for spec in specs]
        free = weights.count(None)
        if mixing == "balanced" and len(specs) > 1 and free:
            share = _rest(weights) / free
            weights = [share if weight is None else weight for weight in weights]
        return cls([spec.open(Path(root)) for spec in specs], weights)

    @property
    def proportions(self) -> list[float] | None:
        """The share of each source in the training stream, or None where no source has a weight.

        Sources without a weight divide what the others leave of 1 by their sizes; if every source has a weight, the
        weights are scaled to sum to 1. Raises ``DataError`` where nothing is left or a weight is not positive.
        """
        given = [weight for weight in self.weights if weight is not None]
        if not given:
            return None
        if min(given) <= 0:
            raise DataError(f"a source has weight {min(given):g}; weights must be positive")
        if len(given) == len(self.weights):
            return [weight / sum(given) for weight in given]
        pairs = list(zip(self.sources, self.weights, strict=True))
        rest, whole = _rest(self.weights), sum(len(source) for source, weight in pairs if weight is None)
        return [rest * len(source) / whole if weight is None else weight for source, weight in pairs]

    @property
    def epoch(self) -> float:
        """How many images are drawn until each has come once, on average over the sources.

        Beside others, sources of words that are drawn on the fly do not count: their number means nothing.
        """
        drawn = [getattr(source, "drawn", False) for source in self.sources]
        if self.proportions is None or all(drawn) or not any(drawn):
            return len(self)
        own = [pair for pair, d in zip(zip(self.sources, self.proportions, strict=True), drawn, strict=True) if not d]
        return sum(len(source) for source, _ in own) / sum(share for _, share in own)

    def locate(self, index: int) -> tuple[int, int]:
        """The source that record ``index`` is in, and its index there. Raises ``IndexError`` outside the sources."""
        if not 0 <= index < self.starts[-1]:
            raise IndexError(f"record {index} of {self.starts[-1]}")
        number = bisect_right(self.starts, index) - 1
        return number, index - self.starts[number]

    def __len__(self) -> int:
        return self.starts[-1]

    def __getitem__(self, index: int) -> Record:
        number, inner = self.locate(index)
        return self.sources[number][inner]

    def read(self, indices: Sequence[int]) -> list[Record]:
        """The records ``indices``, in their order; those of each source are read together."""
        if len(self.sources) == 1:
            return read_records(self.sources[0], indices)
        numbers = np.searchsorted(self.starts, indices, side="right") - 1
        records: list[Record] = [None] * len(indices)  # type: ignore[list-item]
        for number in np.unique(numbers).tolist():
            places = np.flatnonzero(numbers == number)
            inner = (np.asarray(indices)[places] - self.starts[number]).tolist()
            for place, record in zip(places.tolist(), read_records(self.sources[number], inner), strict=True):
                records[place] = record
        return records

    def text(self, index: int) -> str | None:
        """The label of record ``index``; None in an unlabelled source."""
        number, inner = self.locate(index)
        return self.sources[number].text(inner)

    def name(self, index: int) -> str:
        """Where record ``index`` comes from."""
        number, inner = self.locate(index)
        return self.sources[number].name(inner)


def _rest(weights: Sequence[float | None]) -> float:
    """What is left of 1 for the sources without a weight."""
    given = sum(weight for weight in weights if weight is not None)
    if given >= 1:
        raise DataError(f"weights sum to {given:g}: nothing is left for the sources without one; lower them")
    return 1 - given


@dataclass(frozen=True)
class Subset:
    """Some records of a source, in the order of ``indices``."""

    source: Source  # the source that holds the records
    indices: np.ndarray = field(repr=False)  # int64: which of its records

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Record:
        return self.source[int(self.indices[index])]

    def read(self, indices: Sequence[int]) -> list[Record]:
        """The chosen records ``indices``, in their order, read together."""
        return read_records(self.source, self.indices[np.asarray(indices, np.int64)].tolist())

    def text(self, index: int) -> str | None:
        """The label of the chosen record ``index``."""
        return self.source.text(int(self.indices[index]))

    def name(self, index: int) -> str:
        """Where the chosen record ``index`` comes from."""
        return self.source.name(int(self.indices[index]))


@dataclass(frozen=True)
class Labels:
    """What labels have to be like."""

    characters: str  # the characters that can be written
    longest: int  # the most characters of a label; those that are longer are kept, and told of
    unknown: Literal["drop", "keep", "error"] = "drop"  # what becomes of labels with other characters
    cut: bool = True  # whether labels are learnt, longer ones up to there; else readings are measured by them


@dataclass
class CharacterReport:
    """What a comparison of labels with a set of characters found. ``str`` gives it as a few lines to print."""

    labels: Labels  # what they were compared with
    checked: int = 0  # number of labels looked at
    empty: int = 0  # number of labels that are empty or only spaces; these records are always left out
    unreadable: int = 0  # number of labels that are not there or not UTF-8; these records are always left out
    unknown: int = 0  # number of labels that hold a character outside the set
    composed: int = 0  # number of labels in another Unicode form than NFC; they are composed
    longer: int = 0  # number of labels that are longer than a model can write
    characters: Counter[str] = field(default_factory=Counter)  # in how many labels each unknown character was found
    examples: list[tuple[str, str]] = field(default_factory=list)  # name and label of the first ten of ``unknown``

    def __str__(self) -> str:
        """One line of counts, one of characters with their counts, and one for each example."""
        kept, longest = "kept" if self.labels.unknown == "keep" else "left out", self.labels.longest
        lines = [
            f"{self.checked:,} labels: {self.empty:,} empty (left out), "
            + (f"{self.unreadable:,} missing or not UTF-8 (left out), " if self.unreadable else "")
            + f"{self.unknown:,} with unknown characters ({kept})"
        ]
        if self.composed:
            lines.append(f"{self.composed:,} labels in decomposed Unicode form (NFD) are taken as composed ones (NFC)")
        if self.longer:
            what = " and cut: raise max_length" if self.labels.cut else ", more than the model has learnt to write"
            lines.append(f"{self.longer:,} labels are longer than {longest} characters{what}")
        if self.unknown:
            common = sorted(self.characters.items(), key=lambda item: (-item[1], item[0]))[:30]
            lines.append("unknown: " + ", ".join(f"{character!r} {count:,}" for character, count in common))
            lines += [f"  {name}: {text!r}" for name, text in self.examples]
        return "\n".join(lines)


def drop_unknown_characters(sources: Sources, labels: Labels) -> tuple[Sources, CharacterReport]:
    """Leave out the records of ``sources`` whose labels hold unknown characters, and say which they are.

    With "keep" they stay (the tokenizer writes the unknown token), with "error" the first raises ``DataError``. Records
    with a label that cannot be read, or with nothing but spaces, are left out in every case. An unlabelled source stays
    as it is, and so does one whose attribute ``characters`` says that its labels hold nothing else (words rendered on
    the fly: there are too many to look at). Weights stay. Raises ``DataError`` where a source has no record left.
    """
    report = CharacterReport(labels)
    return Sources([_drop_unknown(source, report) for source in sources.sources], sources.weights), report


def _drop_unknown(source: Source, report: CharacterReport) -> Source:
    """One source as ``drop_unknown_characters`` leaves it; what was found is added to ``report``."""
    characters, longest, action = report.labels.characters, report.labels.longest, report.labels.unknown
    by_construction = getattr(source, "characters", None)
    if by_construction is not None:
        outside = "".join(sorted(set(composed(by_construction)) - set(characters)))
        if outside and action != "keep":
            raise DataError(f"{source.name(0)}: draws {outside!r}, which the charset lacks; choose other characters")
        return source
    if not len(source) or source.text(0) is None:
        return source
    stored, unreadable = labels_of(source)
    labels, changed = compose_labels(stored)
    report.composed += changed
    keep = _with_text(labels)
    report.checked += len(labels)
    report.unreadable += unreadable
    report.empty += int(len(keep) - keep.sum()) - unreadable
    longer = np.flatnonzero(np.diff(labels.offsets) > longest)  # in bytes
    report.longer += sum(len(labels[index]) > longest for index in longer.tolist())
    for index, unknown in _unknown_characters(labels, characters):
        if not keep[index]:
            continue
        if action == "error":
            found = "".join(sorted(unknown))
            origin = getattr(source, "origin", None)
            where = source.name(index) if origin is None else f"{origin(index)}: {source.name(index)}"
            problem = f"label {labels[index]!r} holds {found!r}, unknown to the charset"
            raise DataError(f"{where}: {problem}: set data.unknown_characters to drop or keep")
        keep[index] = action == "keep"
        report.unknown += 1
        report.characters.update(unknown)
        if len(report.examples) < _EXAMPLES:
            report.examples.append((source.name(index), labels[index]))
    if keep.all():
        return source
    if not keep.any():
        raise DataError(f"{source.name(0)} and all {len(keep):,} records with it have no label within the charset")
    return Subset(source, np.flatnonzero(keep))


def labels_of(source: Source) -> tuple[PackedStrings, int]:
    """All labels as they are stored, "" for those that cannot be read, and how many these are."""
    labels, packer, unreadable = getattr(source, "labels", None), StringPacker(), 0
    if isinstance(labels, PackedStrings):
        return labels, 0
    text = getattr(source, "stored_text", source.text)
    for index in range(len(source)):
        try:
            packer.append(text(index) or "")
        except RecordError:
            packer.append("")
            unreadable += 1
    return packer.finish(), unreadable


def compose_labels(labels: PackedStrings) -> tuple[PackedStrings, int]:
    """Labels in composed form (NFC), and how many had another one."""
    if not len(labels.blob) or np.frombuffer(labels.blob, np.uint8).max() < 128:
        return labels, 0
    if unicodedata.is_normalized("NFC", bytes(labels.blob).decode(errors="replace")):  # then all parts of it are
        return labels, 0
    packer, changed = StringPacker(), 0
    for label in labels:
        packer.append(whole := composed(label))
        changed += whole != label
    return packer.finish(), changed


def _with_text(labels: PackedStrings) -> np.ndarray:
    """bool (labels,): which labels have anything but spaces."""
    starts, ends = labels.offsets[:-1], labels.offsets[1:]
    with_text = ends > starts
    # Nearly all labels start with a visible ASCII character: only the others are looked at.
    first = np.frombuffer(labels.blob or b" ", np.uint8)[np.minimum(starts, max(len(labels.blob) - 1, 0))]
    for index in np.flatnonzero(with_text & ((first <= 32) | (first >= 127))).tolist():
        with_text[index] = bool(labels[index].strip())
    return with_text


def _unknown_characters(labels: PackedStrings, characters: str) -> Iterator[tuple[int, set[str]]]:
    """Index and unknown characters of every label that has any."""
    known = set(characters)
    # Nearly all labels are known ASCII: those are passed by looking at the bytes of all labels at once.
    known_byte = np.array([byte < 128 and chr(byte) in known for byte in range(256)])
    suspicious = np.flatnonzero(~known_byte[np.frombuffer(labels.blob, np.uint8)])
    for index in np.unique(np.searchsorted(labels.offsets, suspicious, side="right") - 1).tolist():
        unknown = set(labels[index]) - known
        if unknown:
            yield index, unknown
