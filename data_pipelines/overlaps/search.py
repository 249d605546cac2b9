"""The search for benchmark images in training sets: hash and index the benchmarks, hold each training image to them.

The benchmarks' thumbnails (2 KB an image) and hashes (400 bytes with the index) lie in files that all workers map;
training images are streamed and forgotten. What a training image costs does not depend on how many there are.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.images.decoding import DecodeError, pixels_of
from data_pipelines.overlaps.alignment import aligned_correlation
from data_pipelines.overlaps.hashing import EDGES, HEIGHT, VIEWS, WIDTH, WORDS, hash_views, is_flat, thumbnail
from data_pipelines.overlaps.index import HashIndex, IndexOptions
from data_pipelines.overlaps.list_file import Overlap
from data_pipelines.sources.records import Record, Source
from data_pipelines.worker_processes import in_chunks

NAMED = 5
"""How many unreadable records are named; all are counted."""


@dataclass(frozen=True)
class Thresholds:
    """From which correlation of aligned pixels on a pair with near hashes is a copy."""

    same_label: float = 0.92
    """Where both have a label, and these agree but for case and symbols."""
    no_label: float = 0.95
    """Where one of them has no label."""
    other_label: float = 0.97
    """Where their labels differ: one of them must be wrong, or the letter that differs is small."""

    def __post_init__(self) -> None:
        for name in ("same_label", "no_label", "other_label"):
            if not 0.5 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0.5 to 1, not {getattr(self, name)}")


@dataclass
class Findings:
    """Copies found in a part of the training records, and what the search met on the way."""

    overlaps: list[Overlap] = field(default_factory=list)
    """The copies: those of a training record in one piece, the most certain first."""
    records: int = 0
    """Training records looked at."""
    unreadable: int = 0
    """Records that could not be read or decoded; of those that could be read, equal bytes are found all the same."""
    problems: list[str] = field(default_factory=list)
    """Names and problems of the first of these."""
    flat: int = 0
    """Images that show next to nothing: only equal bytes are looked for."""
    examined: int = 0
    """Pairs of hashes compared."""
    compared: int = 0
    """Pairs of images whose pixels were compared."""


class _Looks(NamedTuple):
    thumbnails: np.ndarray  # uint8 (n, 32, 64); zeros where unreadable
    digests: np.ndarray  # uint64 (n,)
    readable: np.ndarray  # bool (n,)
    problems: list[str]
    records: list[Record | None]


def look_at(source: Source, start: int, stop: int) -> _Looks:
    """Read and shrink some records of a source."""
    count = stop - start
    looks = _Looks(
        np.zeros((count, HEIGHT, WIDTH), np.uint8), np.zeros(count, np.uint64), np.zeros(count, bool), [], []
    )
    for row, index in enumerate(range(start, stop)):
        record = None
        try:
            record = source[index]
            looks.digests[row] = _digest(record)
            image = pixels_of(record)
            looks.thumbnails[row] = thumbnail(image)
            looks.readable[row] = True
        except (DataError, DecodeError, cv2.error) as error:
            looks.problems.append(f"{source.name(index)}: {' '.join(str(error).split())}")
        looks.records.append(record)
    return looks


def _digest(record: Record) -> int:
    return int.from_bytes(hashlib.blake2b(_bytes(record), digest_size=8).digest(), "little")


def _bytes(record: Record) -> bytes:
    return record.image if isinstance(record.image, bytes) else record.image.tobytes()


def plain(text: str) -> str:
    """A label without case and symbols, for telling whether two labels agree; one of symbols alone stays as it is."""
    return "".join(character for character in text.casefold() if character.isalnum()) or text


@dataclass(frozen=True)
class _Hash:
    """Thumbnails, digests, hashes and usability of benchmark records, and problems. Runs in the workers."""

    source: Source

    def __call__(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, list[str]]:
        looks = look_at(self.source, start, stop)
        usable = looks.readable & ~is_flat(looks.thumbnails)
        return looks.thumbnails, looks.digests, hash_views(looks.thumbnails)[0], usable, looks.problems


@dataclass(frozen=True)
class BenchmarkIndex:
    """All benchmark images, ready to be looked up. Picklable: workers map its files."""

    source: Source
    """The benchmark records."""
    folder: Path
    """Where its files are."""
    options: IndexOptions
    """How near hashes are looked for."""
    flat: int
    """Benchmark images that show next to nothing: only equal bytes are looked for."""
    unreadable: int
    """Benchmark records that cannot be read or decoded."""
    problems: tuple[str, ...]
    """Names and problems of the first of these."""

    @classmethod
    def build(
        cls, source: Source, folder: Path, options: IndexOptions, workers: int, advance: Callable[[int], None]
    ) -> "BenchmarkIndex":
        """Read all benchmark images; ``advance`` is told of every few. Writes 3 KB an image into ``folder``."""
        count = len(source)
        thumbnails = np.lib.format.open_memmap(
            folder / "thumbnails.npy", mode="w+", dtype=np.uint8, shape=(count, HEIGHT, WIDTH)
        )
        digests, usable = np.zeros(count, np.uint64), np.zeros(count, bool)
        hashes = np.zeros((count, VIEWS, WORDS), np.uint32)
        problems: list[str] = []
        done = unreadable = 0
        for parts in in_chunks(_Hash(source), count, workers):
            here = slice(done, done + len(parts[0]))
            thumbnails[here], digests[here], hashes[here], usable[here] = parts[:4]
            unreadable += len(parts[4])
            problems += parts[4][: NAMED - len(problems)]
            done = here.stop
            advance(len(parts[0]))
        thumbnails.flush()
        order = np.argsort(digests, kind="stable")
        np.save(folder / "digest_order.npy", order)
        np.save(folder / "digests.npy", digests[order])
        HashIndex.build(hashes, usable, options).save(folder)
        return cls(source, folder, options, count - unreadable - int(usable.sum()), unreadable, tuple(problems))

    @cached_property
    def hashes(self) -> HashIndex:
        """The index of hashes."""
        return HashIndex.load(self.folder, self.options)

    @cached_property
    def thumbnails(self) -> np.ndarray:
        """uint8 ``(n, 32, 64)``."""
        return np.load(self.folder / "thumbnails.npy", mmap_mode="r")

    @cached_property
    def _digests(self) -> tuple[np.ndarray, np.ndarray]:
        return tuple(np.load(self.folder / name, mmap_mode="r") for name in ("digests.npy", "digest_order.npy"))  # type: ignore[return-value]

    def __getstate__(self) -> dict[str, object]:
        """What a worker needs: not the mapped files."""
        return {name: self.__dict__[name] for name in self.__dataclass_fields__}

    def equal(self, record: Record, digest: np.uint64, most: int) -> list[int]:
        """Numbers of the first ``most`` benchmark records with the same bytes as ``record``."""
        digests, order = self._digests
        first = int(np.searchsorted(digests, digest))
        found = []
        for place in range(first, min(first + most, len(digests))):
            if digests[place] != digest:
                break
            other = self.source[int(order[place])]
            if _bytes(other) == _bytes(record):
                found.append(int(order[place]))
        return found


@dataclass(frozen=True)
class _Compare:
    """Finds the copies among some training records. Runs in the workers."""

    training: Source
    benchmark: BenchmarkIndex
    thresholds: Thresholds
    most: int

    def __call__(self, start: int, stop: int) -> Findings:
        looks = look_at(self.training, start, stop)
        flat = looks.readable & is_flat(looks.thumbnails)
        found: list[dict[int, Overlap]] = [{} for _ in range(stop - start)]
        for row, record in enumerate(looks.records):
            if record is not None:
                for image in self.benchmark.equal(record, looks.digests[row], self.most):
                    found[row][image] = self._overlap(start + row, image, "bytes", 1.0)
        rows = np.flatnonzero(looks.readable & ~flat)
        near = self.benchmark.hashes.search(*hash_views(looks.thumbnails[rows]))
        compared = np.zeros(len(found), int)
        for query, image, views in zip(near.query, near.image.tolist(), near.views, strict=True):
            row = int(rows[query])
            # A training image that is near to very many benchmark images is held to the nearest of them.
            if image in found[row] or compared[row] == self.most:
                continue
            compared[row] += 1
            correlation = aligned_correlation(
                looks.thumbnails[row], self.benchmark.thumbnails[image], EDGES[views[0]] - EDGES[views[1]]
            )
            one, other = self.training.text(start + row), self.benchmark.source.text(image)
            labelled = one is not None and other is not None
            same = labelled and plain(one or "") == plain(other or "")
            limits = self.thresholds
            limit = limits.same_label if same else limits.other_label if labelled else limits.no_label
            if correlation >= limit:
                kind = "label" if same else "pixels"
                found[row][image] = self._overlap(start + row, image, kind, correlation)
        overlaps = [o for row in found for o in sorted(row.values(), key=lambda o: -o.correlation)]
        return Findings(
            overlaps,
            stop - start,
            len(looks.problems),
            looks.problems[:NAMED],
            int(flat.sum()),
            near.examined,
            int(compared.sum()),
        )

    def _overlap(self, index: int, image: int, kind: str, correlation: float) -> Overlap:
        name, other = self.training.name(index), self.benchmark.source.name(image)
        return Overlap(name, other, kind, round(min(correlation, 1.0), 4))  # type: ignore[arg-type]


def find_overlaps(
    training: Source, benchmark: BenchmarkIndex, thresholds: Thresholds, workers: int = 0, most: int = 8
) -> Iterator[Findings]:
    """Hold every training record to the benchmarks, in order; yields the findings of a few hundred at a time.

    A training record is reported with at most ``most`` benchmark images of equal bytes and ``most`` similar ones. The
    findings do not depend on the number of worker processes.
    """
    yield from in_chunks(_Compare(training, benchmark, thresholds, most), len(training), workers)
