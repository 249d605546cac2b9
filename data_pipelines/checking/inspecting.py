"""Looking at every record of a source and counting what is wrong with it, without stopping at any."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipelines.charset import composed
from data_pipelines.errors import DataError, MissingError, OutsideError
from data_pipelines.images.decoding import DecodeError, decode_image
from data_pipelines.prepared import RecordSource
from data_pipelines.sources.annotations import Listing, read_annotations
from data_pipelines.sources.files import AnnotatedImages
from data_pipelines.sources.lmdb_words import LmdbSource, has_labels, images_of, stated_count
from data_pipelines.sources.records import Source
from data_pipelines.union14m.catalogue import Place

PROBLEMS = {
    "broken_files": "annotation files, LMDBs and prepared sets that cannot be read at all, or hold no records",
    "malformed": "lines or entries of annotation lists that are not records",
    "differing": "records in only one of a set's annotation lists",
    "outside": "names and links that point outside the data root",
    "damaged_files": "missing or changed files of prepared sets: copy or prepare them again",
    "wrong_count": "difference between the num-samples of an LMDB and its images",
    "missing": "missing images",
    "unreadable": "images that cannot be decoded",
    "missing_labels": "missing labels",
    "broken_labels": "labels that are not UTF-8",
    "empty": "labels that are empty or only spaces",
}
"""What makes records unusable, and what each kind means."""

NOTES = {
    "cut_off": "truncated JPEG files that can still be decoded",
    "vertical": "images at least twice as high as wide",
    "too_long": "labels with more characters than a recogniser learns",
    "outside_charset": "labels with characters that a recogniser cannot write",
    "unlabelled": "records without labels, of which only pre-training makes use",
    "decomposed": "labels in decomposed Unicode form (NFD), which are taken as composed ones (NFC)",
}
"""What is worth knowing about records that can be used."""


class Offender(NamedTuple):
    """A record or file that has a problem: its path, or its LMDB and key; and what is wrong, or its label."""

    name: str
    detail: str


@dataclass(frozen=True)
class Rules:
    """What to look for."""

    characters: str  # the characters that a recogniser can write
    max_length: int  # the longest label that a recogniser learns, in characters
    listed: int  # how many offenders of each kind are named
    follow_links: bool = False  # whether images behind links out of the data root are read


@dataclass
class Findings:
    """What was found in some records. Its size depends on how many offenders are listed, not on the records."""

    listed: int  # how many offenders of each kind are kept: the first ones
    records: int = 0  # how many records were looked at
    images: int = 0  # how many images were read and decoded without error
    counts: Counter[str] = field(default_factory=Counter)  # how often each of ``PROBLEMS`` and ``NOTES`` was found
    reasons: Counter[str] = field(default_factory=Counter)  # why images are unreadable; numbers are written as #
    characters: Counter[str] = field(default_factory=Counter)  # in how many labels each one outside the charset is
    offenders: dict[str, list[Offender]] = field(default_factory=dict)  # the first offenders of each kind

    @property
    def problems(self) -> int:
        """How many problems there are."""
        return sum(self.counts[kind] for kind in PROBLEMS)

    def add(self, kind: str, name: str, detail: str, count: int = 1) -> None:
        """Count a problem, or one that stands for ``count``."""
        self.counts[kind] += count
        listed = self.offenders.setdefault(kind, [])
        if len(listed) < self.listed:
            listed.append(Offender(name, detail))

    def __iadd__(self, other: "Findings") -> "Findings":
        """Add what was found in later records."""
        self.records += other.records
        self.images += other.images
        self.counts += other.counts
        self.reasons += other.reasons
        self.characters += other.characters
        for kind, offenders in other.offenders.items():
            self.offenders[kind] = (self.offenders.get(kind, []) + offenders)[: self.listed]
        return self


def open_place(root: Path, place: Place, found: Findings, follow_links: bool = False) -> Source | None:
    """The records of a set under ``root``; None where there are none. What is wrong with it is added to ``found``."""
    if place.kind == "annotations":
        listing = _read_lists(root, place.paths, place.word_set.labelled, found)
        return None if listing is None else AnnotatedImages(root, listing, follow_links)
    try:
        if place.kind == "lmdb":
            return _open_lmdb(root, place.paths[0], place.word_set.labelled, found)
        return RecordSource.load(root / place.paths[0], place.paths[0])
    except DataError as error:
        found.add("broken_files", place.paths[0], str(error))
        return None


def _read_lists(root: Path, paths: Iterable[str], labelled: bool | None, found: Findings) -> Listing | None:
    """The first of ``paths`` that has records; they are annotation files that should list the same ones."""
    kept: Listing | None = None
    first, intact = "", False
    for path in paths:
        before = found.problems

        def note(error: DataError, path: str = path) -> None:
            found.add("outside" if isinstance(error, OutsideError) else "malformed", path, str(error))

        try:
            listing = read_annotations(root / path, note, root=root)
        except OSError as error:
            found.add("broken_files", path, f"cannot be read ({error.strerror})")
            continue
        if not len(listing.names):
            if found.problems == before:
                found.add("broken_files", path, "holds no records")
        elif listing.texts is None and labelled:
            found.add("broken_files", path, "holds names of images without labels")
        elif kept is None:
            kept, first, intact = listing, path, found.problems == before
        elif intact and found.problems == before:
            _compare(kept, first, listing, path, found)
    return kept


def _open_lmdb(root: Path, path: str, labelled: bool | None, found: Findings) -> LmdbSource | None:
    """The records of the LMDB in the folder ``path`` under ``root``, as many as it has keys for.

    Where it is not known whether they are labelled, they are if there is any label.

    Raises ``DataError`` where it cannot be opened.
    """
    stated, problem = None, ""
    try:
        stated = stated_count(root / path)
    except DataError as error:
        problem = str(error)
    images = images_of(root / path, stated)
    size, last = len(images), max(images.stop - 1, 0)
    there = f"the last image {last}" if images else "but it has no keys image-000000001 and so on"
    if stated is None:
        problem = problem or f"has no num-samples, {there}"
        found.add("wrong_count", path, problem, max(size, 1))
    elif stated != size:
        found.add("wrong_count", path, f"num-samples is {stated}, {there}", abs(stated - size))
    labelled = has_labels(root / path) if labelled is None else labelled
    return LmdbSource(str((root / path).resolve()), path, size, labelled, first=images.start) if images else None


def inspect(source: Source, indices: range, rules: Rules) -> Findings:
    """Read and decode the records ``indices`` of ``source``, and compare their labels with ``rules``."""
    found, known = Findings(rules.listed, len(indices)), set(composed(rules.characters))
    # So that a bad label does not keep its image from being looked at.
    images = replace(source, labelled=False) if isinstance(source, LmdbSource) else source
    for index in indices:
        _inspect_image(images, index, found)
        _inspect_label(source, index, known, rules.max_length, found)
    return found


def _inspect_image(source: Source, index: int, found: Findings) -> None:
    try:
        data = source[index].image
        if not isinstance(data, bytes):
            return
        height, width = decode_image(data).shape[:2]
    except (MissingError, OutsideError) as error:
        found.add("missing" if isinstance(error, MissingError) else "outside", source.name(index), str(error))
        return
    except (DecodeError, DataError) as error:
        reason = str(error)
        if isinstance(error, DataError):  # its message names the file
            reason = f"cannot be read ({getattr(error.__cause__, 'strerror', None) or error.__cause__})"
        found.add("unreadable", source.name(index), reason)
        found.reasons[re.sub(r"\d+", "#", reason)] += 1
        return
    found.images += 1
    if height >= 2 * width:
        found.add("vertical", source.name(index), f"{width} x {height} pixels")
    # FF D9 ends a JPEG file; in the data of an image, which follows the last FF DA, it cannot stand.
    if data.startswith(b"\xff\xd8") and data.find(b"\xff\xd9", data.rfind(b"\xff\xda")) < 0:
        found.add("cut_off", source.name(index), f"{len(data)} bytes")


def _inspect_label(source: Source, index: int, known: set[str], max_length: int, found: Findings) -> None:
    try:
        text = source.text(index)
    except DataError as error:
        kind = "missing_labels" if isinstance(error, MissingError) else "broken_labels"
        found.add(kind, source.name(index), str(error))
        return
    if text is None:
        found.counts["unlabelled"] += 1
        return
    if getattr(source, "stored_text", source.text)(index) != text:
        found.add("decomposed", source.name(index), repr(text[:100]))
    if not text.strip():
        found.add("empty", source.name(index), repr(text))
    if len(text) > max_length:
        found.add("too_long", source.name(index), f"{len(text)} characters: {text[:100]!r}")
    if unknown := set(text) - known:
        found.characters.update(sorted(unknown))
        found.add("outside_charset", source.name(index), repr(text[:100]))


def _compare(one: Listing, path: str, other: Listing, other_path: str, found: Findings) -> None:
    """Add the records that stand in one of two labelled lists only, whatever their order."""
    if (one.names, one.texts) == (other.names, other.texts):
        return
    sums, other_sums = (
        np.fromiter(map(hash, zip(each.names, map(composed, each.texts or ()), strict=True)), np.int64, len(each.names))
        for each in (one, other)
    )
    for index in np.flatnonzero(~np.isin(sums, other_sums)).tolist():
        found.add("differing", path, f"{one.names[index]} has a label here that it has not in {other_path}")
    for index in np.flatnonzero(~np.isin(other_sums, sums)).tolist():
        found.add("differing", other_path, f"{other.names[index]} has a label here that it has not in {path}")
