"""The search for benchmark images in training sets: hash and index the benchmarks, hold each training image to them.

The benchmarks' thumbnails (2 KB an image) and hashes (400 bytes with the index) lie in files that all workers map;
training images are streamed and forgotten. What a training image costs does not depend on how many there are.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.images.decoding import DecodeError, pixels_of
from data_pipelines.overlaps.alignment import aligned_correlation
from data_pipelines.overlaps.hashing import EDGES, HEIGHT, VIEWS, WIDTH, WORDS, hash_views, is_flat, thumbnail
from data_pipelines.overlaps.index import HashIndex, IndexOptions
from data_pipelines.overlaps.list_file import Kind, Overlap
from data_pipelines.sources.records import Record, Source
from data_pipelines.worker_processes import in_chunks

NAMED = 5
"""How many unreadable records are named; all are counted."""


SAME_LABEL, NO_LABEL, OTHER_LABEL = 0.92, 0.95, 0.97
"""From which correlation of aligned pixels on a pair with near hashes is a copy: where both have a label, and these
agree but for case and symbols; where one has none; where they differ, as one of them is wrong, or a letter is small."""

_MOST = 8  # benchmark images that one training image is compared with at most, the nearest first


@dataclass
class Findings:
    """Copies found in a part of the training records, and what the search met on the way."""

    overlaps: list[Overlap]  # the copies: those of a training record in one piece, the most certain first
    problems: list[str]  # names and problems of the first unreadable records
    counts: Counter[str]
    """``records`` looked at; of these ``unreadable`` and ``flat`` ones, that show next to nothing: only equal bytes are
    looked for; pairs of hashes ``examined``, and pairs of images whose pixels were ``compared``."""


class _Looks(NamedTuple):
    thumbnails: np.ndarray  # uint8 (n, 32, 64); zeros where unreadable
    digests: np.ndarray  # uint64 (n,)
    usable: np.ndarray  # bool (n,): readable and not flat
    flat: int
    problems: list[str]  # of those that are not readable
    records: list[Record | None]


def look_at(source: Source, start: int, stop: int) -> _Looks:
    """Read and shrink some records of a source."""
    count = stop - start
    thumbnails, digests = np.zeros((count, HEIGHT, WIDTH), np.uint8), np.zeros(count, np.uint64)
    readable, problems, records = np.zeros(count, bool), [], []
    for row, index in enumerate(range(start, stop)):
        record = None
        try:
            record = source[index]
            digests[row] = int.from_bytes(hashlib.blake2b(_bytes(record), digest_size=8).digest(), "little")
            thumbnails[row] = thumbnail(pixels_of(record))
            readable[row] = True
        except (DataError, DecodeError, cv2.error) as error:
            problems.append(f"{source.name(index)}: {' '.join(str(error).split())}")
        records.append(record)
    flat = readable & is_flat(thumbnails)
    return _Looks(thumbnails, digests, readable & ~flat, int(flat.sum()), problems, records)


def _bytes(record: Record) -> bytes:
    return record.image if isinstance(record.image, bytes) else record.image.tobytes()


def plain(text: str) -> str:
    """A label without case and symbols, for telling whether two labels agree; one of symbols alone stays as it is."""
    return "".join(character for character in text.casefold() if character.isalnum()) or text


def _look_and_hash(source: Source, start: int, stop: int) -> tuple[_Looks, np.ndarray]:
    looks = look_at(source, start, stop)
    return looks._replace(records=[]), hash_views(looks.thumbnails)[0]


@dataclass(frozen=True)
class BenchmarkIndex:
    """All benchmark images, ready to be looked up. Picklable: workers map its files."""

    source: Source  # the benchmark records
    folder: Path  # where its files are
    options: IndexOptions  # how near hashes are looked for
    digests: np.ndarray  # uint64 ``(n,)``: of the bytes of all images, in rising order
    order: np.ndarray  # int64 ``(n,)``: the image that each of ``digests`` is of
    flat: int  # benchmark images that show next to nothing: only equal bytes are looked for
    unreadable: int  # benchmark records that cannot be read or decoded
    problems: tuple[str, ...]  # names and problems of the first of these

    @classmethod
    def build(
        cls, source: Source, folder: Path, options: IndexOptions, workers: int, advance: Callable[[int], None]
    ) -> "BenchmarkIndex":
        """Read all benchmark images; ``advance`` is told of every few. Writes 3 KB an image into ``folder``."""
        count = len(source)
        shape = (count, HEIGHT, WIDTH)
        thumbnails = np.lib.format.open_memmap(folder / "thumbnails.npy", mode="w+", dtype=np.uint8, shape=shape)
        digests, usable = np.zeros(count, np.uint64), np.zeros(count, bool)
        hashes = np.zeros((count, VIEWS, WORDS), np.uint32)
        problems: list[str] = []
        done = unreadable = 0
        for looks, hashes_here in in_chunks(partial(_look_and_hash, source), count, workers):
            here = slice(done, done + len(hashes_here))
            thumbnails[here], digests[here], usable[here] = looks.thumbnails, looks.digests, looks.usable
            hashes[here] = hashes_here
            unreadable += len(looks.problems)
            problems += looks.problems[: NAMED - len(problems)]
            done = here.stop
            advance(len(hashes_here))
        thumbnails.flush()
        HashIndex.build(hashes, usable, options).save(folder)
        order = np.argsort(digests, kind="stable")
        flat = count - unreadable - int(usable.sum())
        return cls(source, folder, options, digests[order], order, flat, unreadable, tuple(problems))

    @cached_property
    def hashes(self) -> HashIndex:
        """The index of hashes."""
        return HashIndex.load(self.folder, self.options)

    @cached_property
    def thumbnails(self) -> np.ndarray:
        """uint8 ``(n, 32, 64)``."""
        return np.load(self.folder / "thumbnails.npy", mmap_mode="r")

    def __getstate__(self) -> dict[str, object]:
        """What a worker needs: not the mapped files."""
        return {name: self.__dict__[name] for name in self.__dataclass_fields__}

    def equal(self, record: Record, digest: np.uint64) -> list[int]:
        """Numbers of the first eight benchmark records with the same bytes as ``record``."""
        first, end = np.searchsorted(self.digests, digest), np.searchsorted(self.digests, digest, side="right")
        alike = self.order[first : min(end, first + _MOST)].tolist()
        return [image for image in alike if _bytes(self.source[image]) == _bytes(record)]


def _compare(training: Source, benchmark: BenchmarkIndex, start: int, stop: int) -> Findings:
    """Find the copies among some training records."""

    def overlap(row: int, image: int, kind: Kind, correlation: float) -> Overlap:
        name, other = training.name(start + row), benchmark.source.name(image)
        return Overlap(name, other, kind, round(min(correlation, 1.0), 4))

    looks = look_at(training, start, stop)
    found: list[dict[int, Overlap]] = [{} for _ in range(stop - start)]
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
    counts = Counter(records=stop - start, unreadable=len(looks.problems), flat=looks.flat)
    counts += Counter(examined=near.examined, compared=int(compared.sum()))
    return Findings(overlaps, looks.problems[:NAMED], counts)


def find_overlaps(training: Source, benchmark: BenchmarkIndex, workers: int = 0) -> Iterator[Findings]:
    """Hold every training record to the benchmarks, in order; yields the findings of a few hundred at a time.

    A training record is reported with at most eight benchmark images of equal bytes and eight similar ones. The
    findings do not depend on the number of worker processes.
    """
    yield from in_chunks(partial(_compare, training, benchmark), len(training), workers)
