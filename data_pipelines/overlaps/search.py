"""The search for benchmark images in training sets: hash and index the benchmarks, hold each training image to them.

The benchmarks' thumbnails (2 KB an image) and hashes (400 bytes with the index) lie in files that all workers map;
training images are streamed and forgotten. What a training image costs does not depend on how many there are.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from etils import epath

from data_pipelines.errors import DataError
from data_pipelines.images.decoding import DecodeError, pixels_of
from data_pipelines.overlaps.alignment import aligned_correlation
from data_pipelines.overlaps.hashing import EDGES, HEIGHT, VIEWS, WIDTH, WORDS, hash_views, is_flat, thumbnail
from data_pipelines.overlaps.index import MAX_BUCKET, HashIndex
from data_pipelines.overlaps.list_file import Kind, Overlap
from data_pipelines.sources.records import Record, Source
from data_pipelines.storage import write_whole
from data_pipelines.worker_processes import in_chunks

NAMED = 5
"""How many unreadable records are named; all are counted."""


SAME_LABEL, NO_LABEL, OTHER_LABEL = 0.92, 0.95, 0.97
"""From which correlation of aligned pixels on a pair with near hashes is a copy: where both have a label, and these
agree but for case and symbols; where one has none; where they differ, as one of them is wrong, or a letter is small."""

_NOTES = "notes.json"
_MOST = 8  # benchmark images that one training image is compared with at most, the nearest first


@dataclass
class Findings:
    """Copies found in a part of the training records, and what the search met on the way."""

    overlaps: list[Overlap]  # the copies: those of a training record in one piece, the most certain first
    problems: list[str]  # names and problems of the first unreadable records
    counts: Counter[str]
    """``records`` looked at; of these ``unreadable`` and ``flat`` ones, that show next to nothing: only equal bytes are
    looked for; pairs of hashes ``examined``, and pairs of images whose pixels were ``compared``."""


class Looks(NamedTuple):
    """What is known of some records before they are compared."""

    thumbnails: np.ndarray  # uint8 (n, 32, 64); zeros where unreadable
    digests: np.ndarray  # uint64 (n,)
    pixels: np.ndarray  # uint64 (n,): digests of the decoded pixels; 0 where unreadable
    usable: np.ndarray  # bool (n,): readable and not flat
    problems: list[str]  # of those that are not readable
    records: list[Record | None]


def look_at(source: Source, start: int, stop: int) -> Looks:
    """Read and shrink some records of a source."""
    count = stop - start
    thumbnails = np.zeros((count, HEIGHT, WIDTH), np.uint8)
    digests, pixels = np.zeros((2, count), np.uint64)
    readable, problems, records = np.zeros(count, bool), [], []
    for row, index in enumerate(range(start, stop)):
        record = None
        try:
            record = source[index]
            digests[row] = _digest(_bytes(record))
            image = pixels_of(record)
            thumbnails[row] = thumbnail(image)
            pixels[row] = _digest(repr(image.shape).encode() + image.tobytes())
            readable[row] = True
        except (DataError, DecodeError, cv2.error) as error:
            problems.append(f"{source.name(index)}: {' '.join(str(error).split())}")
        records.append(record)
    return Looks(thumbnails, digests, pixels, readable & ~is_flat(thumbnails), problems, records)


def _digest(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _bytes(record: Record) -> bytes:
    return record.image if isinstance(record.image, bytes) else record.image.tobytes()


def plain(text: str) -> str:
    """A label without case and symbols, for telling whether two labels agree; one of symbols alone stays as it is."""
    return "".join(character for character in text.casefold() if character.isalnum()) or text


def _look_and_hash(source: Source, start: int, stop: int) -> tuple[Looks, np.ndarray]:
    looks = look_at(source, start, stop)
    return looks._replace(records=[]), hash_views(looks.thumbnails)[0]


@dataclass(frozen=True)
class BenchmarkIndex:
    """All benchmark images, ready to be looked up. Picklable: workers map its files."""

    source: Source  # the benchmark records
    folder: Path  # where its files are
    digests: np.ndarray  # uint64 ``(n,)``: of the bytes of all images, in rising order
    order: np.ndarray  # int64 ``(n,)``: the image that each of ``digests`` is of
    notes: tuple[str, ...]  # lines about the images of which not all copies are found

    @classmethod
    def build(cls, source: Source, folder: Path, workers: int, advance: Callable[[int], None]) -> "BenchmarkIndex":
        """Read all benchmark images; ``advance`` is told of every few. Writes 3 KB an image into ``folder``.

        Where an earlier call has written all that, the images are not read again.
        """
        count = len(source)
        if (folder / _NOTES).exists():
            advance(count)
            notes = json.loads((folder / _NOTES).read_text())
            return cls(source, folder, np.load(folder / "digests.npy"), np.load(folder / "order.npy"), tuple(notes))
        shape = (count, HEIGHT, WIDTH)
        thumbnails = np.lib.format.open_memmap(folder / "thumbnails.npy", mode="w+", dtype=np.uint8, shape=shape)
        digests, usable = np.zeros(count, np.uint64), np.zeros(count, bool)
        hashes = np.zeros((count, VIEWS, WORDS), np.uint32)
        notes = list[str]()
        done = unreadable = 0
        for looks, hashes_here in in_chunks(partial(_look_and_hash, source), count, workers):
            here = slice(done, done + len(hashes_here))
            thumbnails[here], digests[here], usable[here] = looks.thumbnails, looks.digests, looks.usable
            hashes[here] = hashes_here
            unreadable += len(looks.problems)
            notes += [f"cannot be compared: {problem}" for problem in looks.problems[: NAMED - len(notes)]]
            done = here.stop
            advance(len(hashes_here))
        thumbnails.flush()
        index = HashIndex.build(hashes, usable)
        for name, array in index._asdict().items():
            np.save(folder / f"{name}.npy", array)
        if unreadable:
            notes.append(f"{unreadable:,} benchmark images cannot be decoded: only equal files are found")
        if flat := count - unreadable - int(usable.sum()):
            notes.append(f"{flat:,} benchmark images are flat: only equal files are found")
        crowded, hidden = index.passed_over()
        if crowded:
            notes.append(
                f"{crowded:,} keys belong to more than {MAX_BUCKET} hashes and are skipped; "
                f"{hidden:,} benchmark images have no other keys, so only equal files of these are found"
            )
        order = np.argsort(digests, kind="stable")
        for name, array in (("digests", digests[order]), ("order", order)):
            np.save(folder / f"{name}.npy", array)
        write_whole(epath.Path(folder / _NOTES), json.dumps(notes))  # the last file
        return cls(source, folder, digests[order], order, tuple(notes))

    @cached_property
    def hashes(self) -> HashIndex:
        """The index of hashes."""
        return HashIndex(*map(self._map, HashIndex._fields))

    @cached_property
    def thumbnails(self) -> np.ndarray:
        """uint8 ``(n, 32, 64)``."""
        return self._map("thumbnails")

    def _map(self, name: str) -> np.ndarray:
        return np.load(self.folder / f"{name}.npy", mmap_mode="r").view(np.ndarray)

    def equal(self, record: Record, digest: np.uint64) -> list[int]:
        """Numbers of the first eight benchmark records with the same bytes as ``record``."""
        first, end = np.searchsorted(self.digests, digest), np.searchsorted(self.digests, digest, side="right")
        alike = self.order[first : min(end, first + _MOST)].tolist()
        return [image for image in alike if _bytes(self.source[image]) == _bytes(record)]


def _compare(training: Source, benchmark: BenchmarkIndex, start: int, stop: int) -> Findings:
    return compare(training, benchmark, start, look_at(training, start, stop))


def compare(training: Source, benchmark: BenchmarkIndex, start: int, looks: Looks) -> Findings:
    """Find the copies among some training records, which ``look_at`` was given, from ``start`` on."""
    count = len(looks.records)

    def overlap(row: int, image: int, kind: Kind, correlation: float) -> Overlap:
        name, other = training.name(start + row), benchmark.source.name(image)
        return Overlap(name, other, kind, round(min(correlation, 1.0), 4))

    found: list[dict[int, Overlap]] = [{} for _ in range(count)]
    for row, record in enumerate(looks.records):
        if record is not None:
            for image in benchmark.equal(record, looks.digests[row]):
                found[row][image] = overlap(row, image, "bytes", 1.0)
    rows = np.flatnonzero(looks.usable)
    near = benchmark.hashes.search(*hash_views(looks.thumbnails[rows]))
    compared = np.zeros(len(found), int)
    for query, image, views in zip(near.query, near.image.tolist(), near.views, strict=True):
        row = int(rows[query])
        # A training image that is near to very many benchmark images is held to the nearest of them.
        if image in found[row] or compared[row] == _MOST:
            continue
        compared[row] += 1
        shift = EDGES[views[0]] - EDGES[views[1]]
        correlation = aligned_correlation(looks.thumbnails[row], benchmark.thumbnails[image], shift)
        one, other = training.text(start + row), benchmark.source.text(image)
        labelled = one is not None and other is not None
        same = labelled and plain(one or "") == plain(other or "")
        if correlation >= (SAME_LABEL if same else OTHER_LABEL if labelled else NO_LABEL):
            found[row][image] = overlap(row, image, "label" if same else "pixels", correlation)
    overlaps = [o for row in found for o in sorted(row.values(), key=lambda o: -o.correlation)]
    unreadable = len(looks.problems)
    counts = Counter(records=count, unreadable=unreadable, flat=count - unreadable - len(rows))
    counts += Counter(examined=near.examined, compared=int(compared.sum()))
    return Findings(overlaps, looks.problems[:NAMED], counts)


def find_overlaps(training: Source, benchmark: BenchmarkIndex, workers: int = 0) -> Iterator[Findings]:
    """Hold every training record to the benchmarks, in order; yields the findings of a few hundred at a time.

    A training record is reported with at most eight benchmark images of equal bytes and eight similar ones. The
    findings do not depend on the number of worker processes.
    """
    yield from in_chunks(partial(_compare, training, benchmark), len(training), workers)
