"""Measure the data pipeline against the hardware: python scripts/benchmarks/data.py --root /path/to/Union14M

Prints, for one core, how many images a second the pipeline delivers as batches, read from LMDB and from ArrayRecord,
with and without augmentation, beside two other things measured in the same run, in turn with it: what the reference
does to an image (Pillow, bicubic, ToTensor, Normalize), and decoding alone. Then how the rate grows with worker
processes.

Without --root the images are rendered words, written as JPEG.
"""

import argparse
import io
import itertools
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import cv2
import lmdb
import numpy as np
import PIL
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

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
from data_pipelines.sources.records import Source
from data_pipelines.union14m.catalogue import locate

BATCH = 512
DRAINED = 4  # batches that were made beforehand and are not timed
CONSOLE = Console(width=None if sys.stdout.isatty() else 130, markup=False, highlight=False)


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


def reference(reader: lmdb.Transaction, order: Iterator[int]) -> torch.Tensor:
    """What the reference does for a batch: one read, one Pillow image and one float tensor for each image."""
    return torch.stack([reference_image(bytes(reader.get(b"image-%09d" % next(order), b""))) for _ in range(BATCH)], 0)


def reference_image(data: bytes) -> torch.Tensor:
    """An image as torchvision's ToTensor and Normalize make it, step by step."""
    image = Image.open(io.BytesIO(data)).convert("RGB").resize((128, 32), Image.Resampling.BICUBIC)
    tensor = torch.from_numpy(np.array(image, np.uint8, copy=True)).view(32, 128, 3)
    tensor = tensor.permute((2, 0, 1)).contiguous().to(dtype=torch.float32).div(255).clone()
    mean, std = (torch.as_tensor((0.5, 0.5, 0.5), dtype=tensor.dtype).view(-1, 1, 1) for _ in range(2))
    return tensor.sub_(mean).div_(std)


def decode(images: Iterator[bytes], interpolation: Interpolation | None) -> None:
    """Decode images that are in memory, and resize them if ``interpolation`` says how."""
    for _ in range(BATCH):
        image = decode_image(next(images))
        if interpolation:
            resize_image(image, 32, 128, interpolation)


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


def take_turns(steps: Mapping[str, tuple[Callable[[], object], int, int]], rounds: int) -> dict[str, list[float]]:
    """Images a second of steps, each with its ``batches`` and ``drained``, in turn."""
    rates: dict[str, list[float]] = {name: [] for name in steps}
    for _ in track(range(rounds), console=CONSOLE, transient=True):
        for name, step in steps.items():
            rates[name].append(rate(*step))
    return rates


def measure_one_core(images: Sequence[bytes], folder: Path, rounds: int, batches: int) -> dict[str, list[float]]:
    """Images a second of everything that is compared, on one core."""
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
    torch.set_num_threads(1)
    order = itertools.cycle((np.random.default_rng(1).permutation(len(images)) + 1).tolist())
    alone: dict[str, Callable[[], object]] = {
        "reference": partial(reference, lmdb.open(str(folder / "reference"), readonly=True, lock=False).begin(), order),
        "decoding alone": partial(decode, itertools.cycle(images), None),
        "decoding and resizing alone": partial(decode, itertools.cycle(images), "bilinear"),
    }
    steps = {name: (step, batches, 0) for name, step in alone.items()}
    rates = take_turns(steps | {name: (each.__next__, batches, DRAINED) for name, each in streams.items()}, rounds)
    for stream in streams.values():
        stream.close()
    if cores:
        os.sched_setaffinity(0, cores)
    return rates


def print_one_core(rates: dict[str, list[float]]) -> None:
    """Medians, spread, and medians of the ratios of each round."""
    rows = []
    for name, values in rates.items():
        ratios = [
            median(a / b for a, b in zip(values, rates[other], strict=True))
            for other in ("reference", "decoding alone", "decoding and resizing alone")
        ]
        numbers = (f"{n:,.0f}" for n in (median(values), min(values), max(values)))
        rows.append((name, *numbers, f"{ratios[0]:.2f}", *(f"{r:.0%}" for r in ratios[1:])))
    headings = ("images/s", "from", "to", "x reference", "of decoding alone", "of decoding and resizing")
    CONSOLE.print(table(rows, "one core", *headings))


def measure_workers(folder: Path, counts: Sequence[int], batches: int, rounds: int) -> dict[str, list[float]]:
    """Images a second by number of worker processes, with augmentation; 0 is a thread of this process."""
    source, decoder = Sources([LmdbWords("words").open(folder)]), BatchDecoder(augmentation=Augmentation())
    streams = {n: train_batches(source, decoder, batch_size=BATCH, seed=0, num_workers=n) for n in counts}
    # Every worker has two batches ready, and a queue holds more.
    steps = {str(n): (each.__next__, batches * max(1, n), 5 * max(1, n)) for n, each in streams.items()}
    rates = take_turns(steps, rounds)
    for stream in streams.values():
        stream.close()
    return rates


def table(rows: Sequence[Sequence[str]], *headings: str) -> Table:
    """A table of rows."""
    made = Table(*headings)
    for row in rows:
        made.add_row(*row)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="data root with Union14M-U; rendered words without it")
    parser.add_argument("--images", type=int, default=4096, help="different images")
    parser.add_argument("--rounds", type=int, default=15, help="how often each thing is timed")
    parser.add_argument("--batches", type=int, default=12, help=f"batches of {BATCH} images a timing")
    parser.add_argument("--workers", type=int, nargs="*", help="numbers of worker processes; default: up to the cores")
    parser.add_argument("--json", help="also write all numbers to this file")
    arguments = parser.parse_args()
    cores = os.cpu_count() or 1
    counts = arguments.workers if arguments.workers is not None else sorted({0, 1, 2, cores // 2, cores})
    versions = f"Python {platform.python_version()}, OpenCV {cv2.__version__}, Pillow {PIL.__version__}"
    results: dict[str, object] = {"machine": f"{cores} cores, {versions}, PyTorch {torch.__version__}"}
    CONSOLE.print(results["machine"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = collect(arguments.root, arguments.images)
        CONSOLE.print(f"{len(images):,} images of {sum(map(len, images)) / len(images):,.0f} bytes")
        write_lmdb(folder / "words", images)
        write_lmdb(folder / "reference", images)  # an LMDB can be open only once in a process
        prepare(PrepareArguments(str(folder), str(folder / "prepared"), sources=("words",)))
        results["one core"] = rates = measure_one_core(images, folder, arguments.rounds, arguments.batches)
        print_one_core(rates)
        if counts:
            results["workers"] = grown = measure_workers(folder, counts, arguments.batches, arguments.rounds)
            one = median(grown.get("1") or next(iter(grown.values())))
            rows = [(n, f"{median(each):,.0f}", f"{median(each) / one:.2f}") for n, each in grown.items()]
            CONSOLE.print(table(rows, "worker processes", "images/s, published augmentation", "x one worker"))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
