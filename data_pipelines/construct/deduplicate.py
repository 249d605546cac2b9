"""Leave out copies and benchmark images: ``python -m data_pipelines.construct deduplicate LISTS --out words.jsonl``."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Annotated, NamedTuple

import numpy as np
import tyro
from etils import epath

from data_pipelines.charset import composed
from data_pipelines.command import main_of, tell
from data_pipelines.construct.copies import LOOKS, find_copies
from data_pipelines.construct.images import is_labelled
from data_pipelines.construct.records import Span, folder_of, read_words, spans_of
from data_pipelines.construct.report import IN, OUT
from data_pipelines.construct.resume import work_folder
from data_pipelines.construct.steps import Outcome, Running, Work, run_step
from data_pipelines.errors import DataError
from data_pipelines.find_overlaps import spec_by_ending
from data_pipelines.overlaps.hashing import short_hashes
from data_pipelines.overlaps.list_file import Kind, Overlap
from data_pipelines.overlaps.search import BenchmarkIndex, compare, look_at, plain
from data_pipelines.packed_strings import StringPacker
from data_pipelines.sources.annotations import Listing
from data_pipelines.sources.combining import Sources
from data_pipelines.sources.files import AnnotatedImages
from data_pipelines.sources.records import Source, portion
from data_pipelines.storage import checksum, write_whole

_PART = 512  # words
_OPEN_IMAGES = re.compile("[0-9a-f]{16}")  # names of pictures that are the same in all data sets with them

_UNREADABLE = "image cannot be read"
_WHY: dict[Kind, str] = {
    "bytes": "benchmark image",
    "label": "changed benchmark image with the same label",
    "pixels": "changed benchmark image with another label or none",
    "equal": "equal pixels",
    "place": "same place of the same picture",
    "near": "near copy with the same label",
    "picture": "without a label, of a picture with labelled words",
}
_REASONS = ("", _UNREADABLE, *_WHY.values())


@dataclass(frozen=True)
class DeduplicateArguments(Running):
    """Leave out words that stand twice in lists, and those that are benchmark images.

    A word is left out if an earlier one has the same pixels; or nearly the same look (a hash that differs in at most 4
    of 64 bits) and the same label but for case and symbols; or if a better list has a word in the same place of the
    same picture (an intersection over union above 0.5), or, for a word without a label, labelled words of its picture.
    Benchmark images are found as find_overlaps finds them.

    What is left out is listed in OUT.removed.jsonl, each with the word that stays. Training can leave it out as well:
    --data.exclude OUT.removed.jsonl

    Example: words/hiertext.jsonl words/textocr.jsonl --benchmark IC15/labels.jsonl --out words/unique.jsonl
    """

    lists: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="LISTS")]
    """Lists of words in one folder, the best data set first: of earlier steps, or mmocr's jsonl."""
    out: str
    """List to write, in the folder of the others."""
    benchmark: tuple[str, ...] = ()
    """Benchmarks: annotation lists, LMDBs, prepared sets or image folders, relative to --root."""
    root: str = "."
    """Data root, where names in OUT.removed.jsonl begin; the lists must be in it."""


class _Part(NamedTuple):
    span: Span
    source: Source  # the words of the span
    number: int  # of the list
    start: int  # how many words of all lists are before it

    @property
    def lines(self) -> int:
        return self.span.lines


def _images_of(path: Path, spans: list[Span], root: Path) -> Source:
    """The images of a list of words, with or without labels."""
    if not spans:
        raise DataError(f"{path}: holds no words")
    names, texts = StringPacker(), StringPacker()
    for word in chain.from_iterable(map(read_words, spans)):
        names.append(word.filename)
        texts.append(word.text or "")
    labels = texts.finish() if is_labelled(spans[0]) else None
    images = AnnotatedImages(root, Listing(path, names.finish(), labels, entry=""))
    images.find_images()
    return images


def _look(benchmark: BenchmarkIndex | None, part: _Part) -> Iterator[bytes]:
    """A line of JSON with the benchmark images and the problems that are found, and ``LOOKS`` of the words."""
    looks, words = look_at(part.source, 0, part.lines), list(read_words(part.span))
    overlaps = compare(part.source, benchmark, 0, looks).overlaps if benchmark else []
    first = {overlap.train: asdict(overlap) for overlap in reversed(overlaps)}
    rows = {row: first[name] for row in range(part.lines) if (name := part.source.name(row)) in first}
    yield json.dumps({"overlaps": rows, "problems": looks.problems}).encode() + b"\n"
    table = np.zeros(part.lines, LOOKS)
    table["pixels"], table["list"] = looks.pixels, part.number
    table["hash"] = np.where(looks.usable, short_hashes(looks.thumbnails), 0)
    for row, word in enumerate(words):
        if word.text is not None:
            table["text"][row] = _hash(plain(composed(word.text)))
        if len(word.polygon) > 2:
            corners = np.array(word.polygon)
            stem = PurePosixPath(word.picture).stem
            table["picture"][row] = _hash(stem if _OPEN_IMAGES.fullmatch(stem) else word.picture)
            table["box"][row] = *corners.min(axis=0), *corners.max(axis=0)
    yield table.tobytes()


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _decide(parts: list[_Part], looked: list[Path]) -> tuple[np.ndarray, dict[int, Overlap]]:
    """Why each word is left out, a place in ``_REASONS``; and of which image those are copies that are copies."""
    tables, overlaps, start = [], dict[int, Overlap](), 0
    for file, part in zip(looked, parts, strict=True):
        with file.open("rb") as opened:
            told = json.loads(opened.readline())
            tables.append(np.frombuffer(opened.read(), LOOKS))
        for problem in told["problems"]:
            tell(f"left out: {problem}")
        overlaps |= {start + int(row): Overlap(**overlap) for row, overlap in told["overlaps"].items()}
        start += part.lines
    looks = np.concatenate(tables)
    stays = looks["pixels"] != 0
    reasons = np.where(stays, 0, _REASONS.index(_UNREADABLE)).astype(np.uint8)
    stays[list(overlaps)] = False
    starts = np.cumsum([0, *(part.lines for part in parts)])

    def name(row: int) -> str:
        number = int(np.searchsorted(starts, row, "right")) - 1
        return parts[number].source.name(row - int(starts[number]))

    for kind, copies in find_copies(looks, stays).items():
        for word, other, likeness in zip(*(column.tolist() for column in copies), strict=True):
            overlaps[word] = Overlap(name(word), name(other), kind, round(likeness, 4))
    for row, overlap in overlaps.items():
        reasons[row] = _REASONS.index(_WHY[overlap.kind])
    return reasons, overlaps


def _keep(reasons: Path, part: _Part) -> Outcome:
    """Pass on the words of a part that stay; ``reasons`` is a file with those of ``_decide``."""
    words = list(read_words(part.span))
    why = np.load(reasons, mmap_mode="r")[part.start : part.start + part.lines].tolist()
    kept = [word for word, reason in zip(words, why, strict=True) if not reason]
    counts = Counter(_REASONS[reason] for reason in why)
    counts[OUT] = counts.pop("", 0)
    return Outcome(kept, counts + Counter({IN: len(words)}))


def deduplicate(arguments: DeduplicateArguments) -> int:
    """Find the copies, write the lists, print the report, and return the exit status."""
    root, out = Path(arguments.root).absolute(), Path(arguments.out).absolute()
    lists = [root / name for name in arguments.lists]
    if not lists:
        raise DataError("give the lists of words to deduplicate, the best one first")
    folder_of(lists, out)
    reasons = work_folder(out) / "reasons.npy"

    def parts(work: Work) -> list[_Part]:
        parts, start = list[_Part](), 0
        for number, path in enumerate(lists):
            spans = spans_of(path, _PART)
            source = _images_of(path, spans, root)
            for span in spans:
                words, _ = portion(source, span.first, span.first + span.lines)
                parts.append(_Part(span, words, number, start + span.first))
            start += len(source)
        index = None
        if arguments.benchmark:
            benchmark = Sources.open([spec_by_ending(root, path) for path in arguments.benchmark], root)
            bar = work.progress.add_task("benchmarks", total=len(benchmark))
            folder = work.folder / "benchmark"
            folder.mkdir(exist_ok=True)
            index = BenchmarkIndex.build(benchmark, folder, arguments.workers, partial(work.progress.advance, bar))
            for note in index.notes:
                tell(note)
        why, overlaps = _decide(parts, work.finish("looks", partial(_look, index), parts))
        np.save(reasons, why)
        listed = (f"{overlaps[row].to_json()}\n" for row in sorted(overlaps))
        write_whole(epath.Path(out.with_suffix(".removed.jsonl")), "".join(listed))
        return parts

    # Of benchmarks that are folders, what is in them is not looked at.
    files = [path for path in (*lists, *(root / name for name in arguments.benchmark)) if path.is_file()]
    plan = {"step": "deduplicate", "lists": arguments.lists, "benchmark": arguments.benchmark, "root": str(root)}
    plan |= {"checksums": [checksum(path) for path in files]}
    run_step(partial(_keep, reasons), parts, out, plan, arguments)
    return 0


main = main_of(DeduplicateArguments, deduplicate, "data_pipelines.construct deduplicate")
