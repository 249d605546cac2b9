"""Measure the data pipeline against the hardware: python scripts/benchmarks/data.py --root /path/to/Union14M

Prints, for one core, how many images a second the pipeline delivers as batches, read from LMDB and from ArrayRecord,
with and without augmentation, beside two other things measured in the same run, in turn with it: what the reference
does to an image (Pillow, bicubic, ToTensor, Normalize), and decoding alone. Then how the rate grows with worker
processes, how memory behaves over an epoch of a large (made-up) index, and how long the first batch takes.

Without --root the images are rendered words, written as JPEG.
"""

import argparse
import io
import itertools
import json
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import lmdb
import numpy as np
import PIL
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

try:
    import torch
except ImportError:
    torch: Any = None  # type: ignore[no-redef]

from data_pipelines.images.augmentation import Augmentation, Policy, RandAugment
from data_pipelines.images.batch_decoder import BatchDecoder
from data_pipelines.images.decoding import decode_image
from data_pipelines.images.resizing import Interpolation, resize_image
from data_pipelines.pipeline import Batches, train_batches
from data_pipelines.prepare import PrepareArguments, prepare
from data_pipelines.prepared.source import Records
from data_pipelines.rendering import RenderedWords
from data_pipelines.sources.combining import Sources
from data_pipelines.sources.files import LmdbWords
from data_pipelines.sources.records import Record, Source
from data_pipelines.union14m.catalogue import locate

BATCH = 512
DRAINED = 4  # batches that were made beforehand and are not timed
CONSOLE = Console()


def collect(root: str | None, count: int) -> list[bytes]:
    """The bytes of ``count`` images: of the unlabelled LMDBs under ``root``, or rendered."""
    if root is None:
        source = RenderedWords(size=count, difficulty=0.8).open(Path())
        words = (np.asarray(source[i].image) for i in track(range(count), "render", console=CONSOLE, transient=True))
        return [cv2.imencode(".jpg", image[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, 90))[1].tobytes() for image in words]
    places = [p for p in locate(Path(root))[0] if p.kind == "lmdb"]
    if not places:
        sys.exit(f"{root}: holds no LMDB of Union14M-U; leave --root out to measure on rendered words")
    sources = Sources([LmdbWords(place.paths[0]).open(Path(root)) for place in places])
    chosen = np.random.default_rng(0).permutation(len(sources))[:count]
    return [bytes(sources[int(i)].image) for i in chosen]


def write_lmdb(path: Path, images: Sequence[bytes]) -> None:
    """Write images with the keys of Union14M-U."""
    size = sum(map(len, images)) * 2 + 2**24
    with lmdb.open(str(path), map_size=size) as environment, environment.begin(write=True) as writer:
        writer.put(b"num-samples", str(len(images)).encode())
        for number, image in enumerate(images, 1):
            writer.put(b"image-%09d" % number, image)


class Reference:
    """What the reference does for a batch: one read, one Pillow image and one float tensor for each image.

    torchvision's ToTensor and Normalize, step by step: with PyTorch where it is installed, else with NumPy.
    """

    def __init__(self, path: Path, count: int) -> None:
        self.reader = lmdb.open(str(path), readonly=True, lock=False).begin()
        self.order = itertools.cycle(np.random.default_rng(1).permutation(count).tolist())
        if torch is not None:
            torch.set_num_threads(1)

    def __call__(self) -> object:
        images = [self.image(next(self.order)) for _ in range(BATCH)]
        return np.stack(images) if torch is None else torch.stack(images, 0)

    def image(self, index: int) -> Any:
        data = bytes(self.reader.get(b"image-%09d" % (index + 1), b""))
        image = Image.open(io.BytesIO(data)).convert("RGB").resize((128, 32), Image.Resampling.BICUBIC)
        if torch is None:
            array = np.ascontiguousarray(np.array(image).transpose(2, 0, 1)).astype(np.float32) / np.float32(255)
            array = array.copy()
            array -= np.float32(0.5)
            array /= np.float32(0.5)
            return array
        tensor = torch.from_numpy(np.array(image, np.uint8, copy=True)).view(32, 128, 3)
        tensor = tensor.permute((2, 0, 1)).contiguous().to(dtype=torch.float32).div(255).clone()
        mean, std = (torch.as_tensor((0.5, 0.5, 0.5), dtype=tensor.dtype).view(-1, 1, 1) for _ in range(2))
        return tensor.sub_(mean).div_(std)


class Decoding:
    """Decoding images that are in memory, and resizing them if ``interpolation`` says how."""

    def __init__(self, images: Sequence[bytes], interpolation: Interpolation | None) -> None:
        self.images, self.interpolation = itertools.cycle(images), interpolation

    def __call__(self) -> None:
        for _ in range(BATCH):
            image = decode_image(next(self.images))
            if self.interpolation:
                resize_image(image, 32, 128, self.interpolation)


def pipeline(source: Source, policy: Policy | None, interpolation: Interpolation = "bilinear") -> Batches:
    """Training batches of one source, read by a thread of this process."""
    decoder = BatchDecoder(32, 128, interpolation, augmentation=policy)
    return train_batches(Sources([source]), decoder, batch_size=BATCH, seed=0)


def rate(step: Callable[[], object], batches: int, drained: int = 0) -> float:
    """Images a second over ``batches`` calls, after ``drained`` that are not timed."""
    for _ in range(drained):
        step()
    start = time.perf_counter()
    for _ in range(batches):
        step()
    seconds = time.perf_counter() - start
    # What reads ahead goes on until its buffers are full: it must not slow down what is timed next.
    time.sleep(1.5 * seconds * drained / batches)
    return batches * BATCH / seconds


def measure_one_core(images: Sequence[bytes], folder: Path, rounds: int, batches: int) -> dict[str, list[float]]:
    """Images a second of everything that is compared, in turn, ``rounds`` times, on one core."""
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else set()
    if cores:
        os.sched_setaffinity(0, {max(cores)})
    from_lmdb, records = LmdbWords("words").open(folder), Records("prepared/words").open(folder)
    streams = {
        "LMDB, bicubic": pipeline(from_lmdb, None, "bicubic"),
        "LMDB": pipeline(from_lmdb, None),
        "ArrayRecord": pipeline(records, None),
        "LMDB, published augmentation": pipeline(from_lmdb, Augmentation()),
        "ArrayRecord, published augmentation": pipeline(records, Augmentation()),
        "LMDB, RandAugment": pipeline(from_lmdb, RandAugment()),
    }
    steps: dict[str, tuple[Callable[[], object], int]] = {
        "reference": (Reference(folder / "reference", len(images)), 0),
        "decoding alone": (Decoding(images, None), 0),
        "decoding and resizing alone": (Decoding(images, "bilinear"), 0),
        **{name: (stream.__next__, DRAINED) for name, stream in streams.items()},
    }
    rates: dict[str, list[float]] = {name: [] for name in steps}
    for _ in track(range(rounds), "one core", console=CONSOLE, transient=True):
        for name, (step, drained) in steps.items():
            rates[name].append(rate(step, batches, drained))
    for stream in streams.values():
        stream.close()
    if cores:
        os.sched_setaffinity(0, cores)
    return rates


def print_one_core(rates: dict[str, list[float]]) -> None:
    """Medians, spread, and medians of the ratios of each round."""
    table = Table("one core", "images/s", "from", "to", "x reference", "of decoding alone", "of decoding and resizing")
    for name, values in rates.items():
        ratios = [
            statistics.median(a / b for a, b in zip(values, rates[other], strict=True))
            for other in ("reference", "decoding alone", "decoding and resizing alone")
        ]
        numbers = (statistics.median(values), min(values), max(values))
        table.add_row(name, *(f"{n:,.0f}" for n in numbers), f"{ratios[0]:.2f}", *(f"{r:.0%}" for r in ratios[1:]))
    CONSOLE.print(table)


def measure_workers(folder: Path, counts: Sequence[int], batches: int, rounds: int) -> dict[int, list[float]]:
    """Images a second by number of worker processes, with augmentation, in turn; 0 is a thread of this process."""
    source = LmdbWords("words").open(folder)
    decoder = BatchDecoder(augmentation=Augmentation())
    streams = {
        count: train_batches(Sources([source]), decoder, batch_size=BATCH, seed=0, num_workers=count)
        for count in counts
    }
    rates: dict[int, list[float]] = {count: [] for count in counts}
    for _ in track(range(rounds), "workers", console=CONSOLE, transient=True):
        for count, stream in streams.items():
            # Every worker has two batches ready, and a queue holds more.
            rates[count].append(rate(stream.__next__, batches * max(1, count), 5 * max(1, count)))
    for stream in streams.values():
        stream.close()
    return rates


@dataclass(frozen=True)
class Repeated:
    """``size`` records that are those of a small source over and over."""

    source: Source
    size: int

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Record:
        return self.source[index % len(self.source)]

    def text(self, index: int) -> str | None:
        return self.source.text(index % len(self.source))

    def name(self, index: int) -> str:
        return self.source.name(index % len(self.source))


def resident() -> float:
    """Memory of this process now, in MB."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # macOS: the largest so far
    return pages * resource.getpagesize() / 2**20


def measure_memory(folder: Path, records: int) -> Iterator[tuple[float, int, float]]:
    """Share of an epoch, records read, and memory in MB, over one epoch of an index of ``records``."""
    tiny = [cv2.imencode(".jpg", np.full((16, 32, 3), 8 * i, np.uint8))[1].tobytes() for i in range(32)]
    write_lmdb(folder / "tiny", tiny)
    source = Repeated(LmdbWords("tiny").open(folder), records)
    size, total = 1024, records // 1024
    marks = {max(4, total * percent // 100): percent / 100 for percent in (1, 10, 25, 50, 75, 100)}
    with train_batches(Sources([source]), BatchDecoder(), batch_size=size, seed=0) as batches:
        for step in track(range(1, total + 1), "memory", console=CONSOLE, transient=True):
            next(batches)
            if step in marks:
                yield marks[step], step * size, resident()


def measure_start(folder: Path, records: int) -> Iterator[tuple[int, float]]:
    """Size of an index and seconds from nothing to the first batch."""
    source = LmdbWords("words").open(folder)
    for size in (records // 1000, records // 10, records):
        start = time.perf_counter()
        with pipeline(Repeated(source, size), None) as batches:
            next(batches)
        yield size, time.perf_counter() - start


def machine() -> str:
    """The processor, and how many cores this process may use."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor()
    versions = f"Python {platform.python_version()}, OpenCV {cv2.__version__}, Pillow {PIL.__version__}"
    return f"{name}, {os.cpu_count()} cores, {versions}, PyTorch {torch.__version__ if torch else 'not installed'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="data root with Union14M-U; rendered words without it")
    parser.add_argument("--images", type=int, default=4096, help="different images")
    parser.add_argument("--rounds", type=int, default=15, help="how often each thing is timed")
    parser.add_argument("--batches", type=int, default=12, help=f"batches of {BATCH} images a timing")
    parser.add_argument("--workers", type=int, nargs="*", help="numbers of worker processes; default: up to the cores")
    parser.add_argument("--records", type=int, default=10_000_000, help="size of the made-up index; 0 for none")
    parser.add_argument("--json", help="also write all numbers to this file")
    arguments = parser.parse_args()
    cores = os.cpu_count() or 1
    counts = arguments.workers if arguments.workers is not None else sorted({0, 1, 2, cores // 2, cores})
    results: dict[str, object] = {"machine": machine()}
    CONSOLE.print(results["machine"], highlight=False)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = collect(arguments.root, arguments.images)
        sizes = f"{len(images):,} images of {sum(map(len, images)) / len(images):,.0f} bytes"
        CONSOLE.print(f"{sizes}, {'rendered' if arguments.root is None else 'photographed'}", highlight=False)
        write_lmdb(folder / "words", images)
        write_lmdb(folder / "reference", images)  # an LMDB can be open only once in a process
        prepare(PrepareArguments(str(folder), str(folder / "prepared"), sources=("words",)))
        results["one core"] = rates = measure_one_core(images, folder, arguments.rounds, arguments.batches)
        print_one_core(rates)
        if counts:
            table = Table("worker processes", "images/s, published augmentation", "x one worker")
            results["workers"] = grown = measure_workers(folder, counts, arguments.batches, arguments.rounds)
            one = statistics.median(grown.get(1) or next(iter(grown.values())))
            for count, values in grown.items():
                table.add_row(str(count), f"{statistics.median(values):,.0f}", f"{statistics.median(values) / one:.2f}")
            CONSOLE.print(table)
        if arguments.records:
            table = Table("of an epoch", "records read", "memory, MB")
            results["memory"] = memory = list(measure_memory(folder, arguments.records))
            for share, read, size in memory:
                table.add_row(f"{share:.0%}", f"{read:,}", f"{size:,.0f}")
            CONSOLE.print(table)
            table = Table("records in the index", "seconds to the first batch")
            results["start"] = starts = list(measure_start(folder, arguments.records))
            for count, seconds in starts:
                table.add_row(f"{count:,}", f"{seconds:.2f}")
            CONSOLE.print(table)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
