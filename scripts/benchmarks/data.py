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
import os
import platform
import sys
import tempfile
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
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
Stream = Batches | Generator[object]
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


def reference(reader: lmdb.Transaction, order: Iterator[int]) -> Generator[torch.Tensor]:
    """What the reference does for a batch: one read, one Pillow image and one float tensor for each image."""
    while True:
        images = (bytes(reader.get(b"image-%09d" % next(order), b"")) for _ in range(BATCH))
        yield torch.stack(list(map(reference_image, images)), 0)


def reference_image(data: bytes) -> torch.Tensor:
    """An image as torchvision's ToTensor and Normalize make it, step by step."""
    image = Image.open(io.BytesIO(data)).convert("RGB").resize((128, 32), Image.Resampling.BICUBIC)
    tensor = torch.from_numpy(np.array(image, np.uint8, copy=True)).view(32, 128, 3)
    tensor = tensor.permute((2, 0, 1)).contiguous().to(dtype=torch.float32).div(255).clone()
    mean, std = (torch.as_tensor((0.5, 0.5, 0.5), dtype=tensor.dtype).view(-1, 1, 1) for _ in range(2))
    return tensor.sub_(mean).div_(std)


def decode(images: Sequence[bytes], resize: bool) -> Generator[None]:
    """Decode images that are in memory, batch by batch, and perhaps resize them."""
    for number, data in enumerate(itertools.cycle(images), 1):
        image = decode_image(data)
        if resize:
            resize_image(image, 32, 128, "bilinear")
        if number % BATCH == 0:
            yield


def pipeline(source: Source, policy: Policy | None, interpolation: Interpolation = "bilinear") -> Batches:
    """Training batches of one source, read by a thread of this process."""
    decoder = BatchDecoder(32, 128, interpolation, augmentation=policy)
    return train_batches(Sources([source]), decoder, batch_size=BATCH, seed=0)


def rate(stream: Iterator[object], batches: int, drained: int) -> float:
    """Images a second over so many ``batches``, after ``drained`` that are not timed."""
    for _ in range(drained):
        next(stream)
    start = time.perf_counter()
    for _ in range(batches):
        next(stream)
    seconds = time.perf_counter() - start
    # What reads ahead goes on until its buffers are full: it must not slow down what is timed next.
    time.sleep(1.5 * seconds * drained / batches)
    return batches * BATCH / seconds


def take_turns(streams: Mapping[str, tuple[Stream, int, int]], rounds: int) -> dict[str, list[float]]:
    """Images a second of streams, each with its ``batches`` and ``drained``, in turn; closes them."""
    rates: dict[str, list[float]] = {name: [] for name in streams}
    for _ in track(range(rounds), console=CONSOLE, transient=True):
        for name, each in streams.items():
            rates[name].append(rate(*each))
    for stream, _, _ in streams.values():
        stream.close()
    return rates


def measure_one_core(images: Sequence[bytes], folder: Path, rounds: int, batches: int) -> dict[str, list[float]]:
    """Images a second of everything that is compared, on one core."""
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else set()
    if cores:
        os.sched_setaffinity(0, {max(cores)})
    torch.set_num_threads(1)
    order = itertools.cycle((np.random.default_rng(1).permutation(len(images)) + 1).tolist())
    from_lmdb, records = LmdbWords("words").open(folder), Records("prepared/words").open(folder)
    alone = {
        "reference": reference(lmdb.open(str(folder / "reference"), readonly=True, lock=False).begin(), order),
        "decoding alone": decode(images, resize=False),
        "decoding and resizing alone": decode(images, resize=True),
    }
    whole = {
        "LMDB, bicubic": pipeline(from_lmdb, None, "bicubic"),
        "LMDB": pipeline(from_lmdb, None),
        "ArrayRecord": pipeline(records, None),
        "LMDB, published augmentation": pipeline(from_lmdb, Augmentation()),
        "ArrayRecord, published augmentation": pipeline(records, Augmentation()),
        "LMDB, RandAugment": pipeline(from_lmdb, RandAugment()),
    }
    streams = {name: (each, batches, 0 if name in alone else DRAINED) for name, each in (alone | whole).items()}
    rates = take_turns(streams, rounds)
    if cores:
        os.sched_setaffinity(0, cores)
    return rates


def print_one_core(rates: dict[str, list[float]]) -> None:
    """Medians, spread, and medians of the ratios of each round."""
    table = Table("one core", "images/s", "from", "to", "x reference", "of decoding alone", "of decoding and resizing")
    for name, values in rates.items():
        numbers = [f"{n:,.0f}" for n in (median(values), min(values), max(values))]
        for other, form in (("reference", ".2f"), ("decoding alone", ".0%"), ("decoding and resizing alone", ".0%")):
            numbers.append(f"{median(a / b for a, b in zip(values, rates[other], strict=True)):{form}}")
        table.add_row(name, *numbers)
    CONSOLE.print(table)


def measure_workers(folder: Path, counts: Sequence[int], batches: int, rounds: int) -> dict[str, list[float]]:
    """Images a second by number of worker processes, with augmentation; 0 is a thread of this process."""
    source, decoder = Sources([LmdbWords("words").open(folder)]), BatchDecoder(augmentation=Augmentation())
    streams = {n: train_batches(source, decoder, batch_size=BATCH, seed=0, num_workers=n) for n in counts}
    # Every worker has two batches ready, and a queue holds more.
    return take_turns({str(n): (each, batches * max(1, n), 5 * max(1, n)) for n, each in streams.items()}, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="data root with Union14M-U; default: rendered words")
    parser.add_argument("--images", type=int, default=4096, help="number of different images")
    parser.add_argument("--rounds", type=int, default=15, help="timings of each contender")
    parser.add_argument("--batches", type=int, default=12, help=f"batches of {BATCH} images per timing")
    parser.add_argument("--workers", type=int, nargs="*", help="numbers of worker processes; default: up to the cores")
    arguments = parser.parse_args()
    cores = os.cpu_count() or 1
    counts = arguments.workers if arguments.workers is not None else sorted({0, 1, 2, cores // 2, cores})
    versions = f"Python {platform.python_version()}, OpenCV {cv2.__version__}, Pillow {PIL.__version__}"
    CONSOLE.print(f"{cores} cores, {versions}, PyTorch {torch.__version__}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = collect(arguments.root, arguments.images)
        CONSOLE.print(f"{len(images):,} images of {sum(map(len, images)) / len(images):,.0f} bytes")
        write_lmdb(folder / "words", images)
        write_lmdb(folder / "reference", images)  # an LMDB can be open only once in a process
        prepare(PrepareArguments(str(folder), str(folder / "prepared"), sources=("words",)))
        print_one_core(measure_one_core(images, folder, arguments.rounds, arguments.batches))
        if counts:
            grown = measure_workers(folder, counts, arguments.batches, arguments.rounds)
            one = median(grown.get("1") or next(iter(grown.values())))
            table = Table("worker processes", "images/s, published augmentation", "x one worker")
            for number, each in grown.items():
                table.add_row(number, f"{median(each):,.0f}", f"{median(each) / one:.2f}")
            CONSOLE.print(table)


if __name__ == "__main__":
    main()
