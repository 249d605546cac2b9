"""What Union14M and the six common benchmarks are: their parts, counts and files.

Counts and names are those of Jiang et al., *Revisiting Scene Text Recognition: A Data Perspective* (ICCV 2023) and of
its published files, https://github.com/Mountchicken/Union14M.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from data_pipelines.prepared.layout import MANIFEST, UNFINISHED

_IMAGE_FOLDERS = ("full_images", "imgs")  # millions of files that only annotation files tell about
_LIST_ENDINGS = (".jsonl", ".json", ".tsv", ".txt")
_REPORT = ".report.json"  # of data_pipelines.construct

Kind = Literal["annotations", "lmdb", "records"]
"""In what form a word set is stored."""


@dataclass(frozen=True)
class WordSet:
    """A set of word images that is trained on or measured on as a whole."""

    name: str  # its name in the published files
    expected: int | None  # how many records the full set has; None where it is not known
    annotations: tuple[str, ...] = ()  # how the paths of its lists end, as lower-case shell patterns; all list the same
    lmdbs: tuple[str, ...] = ()  # how the path of the folder with its LMDB ends, likewise
    labelled: bool | None = True  # whether its records have labels; None where that is not known
    rounded_to: int = 1  # what ``expected`` is rounded to
    also: tuple[int, ...] = ()  # other sizes in which it is published
    headline: bool = False  # whether it is one of the seven sets whose mean accuracy is Union14M-Benchmark's

    def compare(self, records: int) -> Literal["complete", "sample", "more", "unknown"]:
        """What a count of records says: all of the set, a part of it, more than it has, or nothing."""
        if self.expected is None:
            return "unknown"
        if abs(records - self.expected) <= self.rounded_to // 2 or records in self.also:
            return "complete"
        return "sample" if records < self.expected else "more"


@dataclass(frozen=True)
class Collection:
    """Word sets that are published together."""

    name: str  # its name
    sets: tuple[WordSet, ...]  # its parts
    total: int | None = None  # how many records all parts have together, where the counts of the parts are not known


@dataclass(frozen=True)
class Place:
    """A word set as it was found on disk.

    ``paths``, relative to the searched root, are annotation files that list the same records, mmocr 0.x first; or one
    LMDB; or one prepared set.
    """

    collection: Collection  # the collection that the set belongs to
    word_set: WordSet  # the set
    kind: Kind  # what ``paths`` are
    paths: tuple[str, ...]


_LEVELS = {"easy": 2_076_161, "medium": 145_525, "hard": 308_025, "normal": 218_154, "challenging": 482_877}


def _lists(*stems: str) -> tuple[str, ...]:
    return tuple(stem + ending for stem in stems for ending in _LIST_ENDINGS)


def _common(name: str, expected: int, *folders: str, listing: str = "", also: tuple[int, ...] = ()) -> WordSet:
    """A common benchmark in one of ``folders``; ``listing`` names its file where a folder holds two variants."""
    own = (name.lower(),) if listing else folders  # those that hold nothing else
    stems = [f"{folder}/{stem}" for folder in own for stem in ("annotation", "test_label", "textrecog_test", "gt")]
    stems += [f"{folder}/{listing}" for folder in folders if listing]
    return WordSet(name, expected, _lists(*stems), own, also=also)


LABELLED = Collection(
    "Union14M-L",
    (
        *(WordSet(f"train_{k}", n, _lists(f"train_annos/mmocr*/train_{k}")) for k, n in _LEVELS.items()),
        WordSet("val_annos", 400_000, _lists("train_annos/mmocr*/val_annos")),
    ),
)
"""Union14M-L: ``train_*`` 3,230,742 records in all, and ``val_annos``."""

_HEADLINE = {"curve": 2_426, "multi_oriented": 1_369, "artistic": 900, "contextless": 779, "salient": 1_585}
_HEADLINE |= {"multi_words": 829, "general": 400_000}
_PAIRS = {"incomplete": 1_495, "incomplete_ori": 1_495}

BENCHMARK = Collection(
    "Union14M-Benchmark",
    tuple(
        WordSet(k, n, _lists(f"{k}/annotation"), (f"u14m/{k}", f"union14m-benchmark*/{k}"), headline=k in _HEADLINE)
        for k, n in (_HEADLINE | _PAIRS).items()
    ),
)
"""Union14M-Benchmark: the seven sets of the headline average, and pairs of whole and cut words."""

_DETECTED = {"book32_lmdb": 2_700_000, "cc_lmdb": 5_600_000, "openvino_lmdb": 2_300_000}

UNLABELLED = Collection(
    "Union14M-U", tuple(WordSet(k, n, lmdbs=(k,), labelled=False, rounded_to=100_000) for k, n in _DETECTED.items())
)
"""Union14M-U."""

FILTERED = Collection(
    "Union14M-L-Filter",
    tuple(WordSet(f"filter_train_{k}", None, lmdbs=(f"filter_train_{k}", f"train_{k}")) for k in _LEVELS),
    total=3_224_143,
)
"""Union14M-L-Filter."""

COMMON = Collection(
    "common benchmarks",
    (
        _common("IC13_857", 857, "ic13", "icdar2013", "icdar_2013", listing="textrecog_test_857"),
        _common("IC15_1811", 1_811, "ic15", "icdar2015", "icdar_2015", listing="textrecog_test_1811"),
        _common("IIIT5K", 3_000, "iiit5k", "iiit5k_3000"),
        _common("SVT", 647, "svt"),
        _common("IC13", 1_015, "ic13", "ic13_1015", "icdar2013", "icdar_2013", also=(857,)),
        _common("IC15", 2_077, "ic15", "ic15_2077", "icdar2015", "icdar_2015", also=(1_811,)),
        _common("SVTP", 645, "svtp"),
        _common("CUTE80", 288, "cute80", "ct80"),
    ),
)
"""The six common benchmarks, in folders named as Union14M, PARSeq, CLOVA, OpenOCR or mmocr name them."""

OTHER = Collection("other prepared sets", ())
"""What prepared sets without another collection belong to: made of sources outside the catalogue."""

CATALOGUE = (LABELLED, BENCHMARK, UNLABELLED, FILTERED, COMMON)
"""All collections."""


def kind_at(path: Path) -> Kind | None:
    """What stands at a path: a file that should be a list, the folder of an LMDB or of a prepared set, or neither."""
    if path.is_file():
        return "annotations"
    return "lmdb" if (path / "data.mdb").is_file() else "records" if (path / MANIFEST).is_file() else None


def locate(root: Path) -> tuple[list[Place], list[str]]:
    """Find the word sets of the catalogue, and prepared ones, in ``root`` and the folders under it, which may be links.

    Returns:
      Places in the order of the catalogue, and the paths, relative to ``root``, of LMDBs and lists that are no part of
      the catalogue (.txt files apart, which may be anything). Folders of images are not entered.
    """
    root = Path(root)
    title = root.resolve().name.lower()
    found: dict[tuple[int, int, str, Kind], list[str]] = {}
    others, extra = list[str](), list[str]()
    for path, kind in _candidates(root):
        # The name of the root counts, too: it may be the folder of a benchmark.
        parts = [title, *path.lower().split("/")] if path != "." else [title]
        matches = (
            (number, place, start, kind)
            for number, collection in enumerate(CATALOGUE)
            for place, word_set in enumerate(collection.sets)
            if (start := _start(parts, word_set, kind)) is not None
        )
        if match := next(matches, None):
            found.setdefault(match, []).append(path)
        elif kind == "records":
            others.append(path)
        elif not path.lower().endswith(".txt"):
            extra.append(path)
    places = []
    for (number, place, _, kind), paths in sorted(found.items()):
        paths.sort(key=lambda path: (not path.endswith(".jsonl"), path))
        places.append(Place(CATALOGUE[number], CATALOGUE[number].sets[place], kind, tuple(paths)))
    places += [Place(OTHER, WordSet((root / path).resolve().name, None), "records", (path,)) for path in sorted(others)]
    return places, sorted(extra)


def _candidates(root: Path) -> Iterator[tuple[str, Kind]]:
    """What may be a word set under ``root``: prepared sets, LMDBs and lists."""
    seen = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        relative, real = Path(folder).relative_to(root), os.path.realpath(folder)
        if real in seen:  # a link that leads back would have no end
            folders.clear()
        elif MANIFEST in files or UNFINISHED in folders:
            folders.clear()
            yield relative.as_posix(), "records"
        else:
            folders[:] = sorted(name for name in folders if name not in _IMAGE_FOLDERS and not name.startswith("."))
            if "data.mdb" in files:
                yield relative.as_posix(), "lmdb"
            for name in sorted(files):
                if name.lower().endswith(_LIST_ENDINGS) and not name.endswith(_REPORT):
                    yield (relative / name).as_posix(), "annotations"
        seen.add(real)


def _start(parts: list[str], word_set: WordSet, kind: Kind) -> str | None:
    """Where the path ``parts`` leaves for a file of ``word_set``: what its files have in common; None for others."""
    patterns = {"annotations": word_set.annotations, "lmdb": word_set.lmdbs, "records": (word_set.name.lower(),)}
    for pattern in patterns[kind]:
        ends = pattern.split("/")
        rest, tail = parts[: -len(ends)], parts[-len(ends) :]
        if len(tail) == len(ends) and all(fnmatchcase(part, end) for part, end in zip(tail, ends, strict=True)):
            return "/".join(rest) + "|" + (ends[0] if kind == "annotations" else tail[0])
    return None
