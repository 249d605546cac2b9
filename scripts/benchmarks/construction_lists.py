"""Measure the steps that go through lists of words: python scripts/benchmarks/construction_lists.py

vote: made-up lists with readings of 13 recognisers, in evaluate's form, two thirds of them right. deduplicate: drawn
words, written as JPEG, beside decoding them only; in turn. Rates are by processor time, of all processes, so that
others on the machine count less. The largest amount of memory is that of any one process so far: it is to be the same
for any number of words.
"""

import argparse
import json
import os
import random
import resource
import string
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from data_pipelines.construct.deduplicate import DeduplicateArguments, deduplicate
from data_pipelines.construct.vote import VoteArguments, run
from data_pipelines.images.decoding import decode_image
from data_pipelines.rendering import RenderedWords

RECOGNISERS = 13
READING = (
    '{"set": "train", "index": %d, "file": "full_images/MLT/crop_%08d.jpg", "truth": "%s", "reading": "%s", '
    '"confidence": 0.987654, "character_confidences": [%s], "height": 32, "width": 100, "outcome": "used"}\n'
)


def make_readings(folder: Path, count: int) -> list[Path]:
    """A list of words, and the readings of each recogniser: links to one file, as what they say does not matter."""
    rng, first = random.Random(0), folder / "readings-0.jsonl"
    with (folder / "words.jsonl").open("w") as words, first.open("w") as readings:
        for i in range(count):
            text = "".join(rng.choices(string.ascii_letters, k=rng.randint(2, 10)))
            read = text if rng.random() < 2 / 3 else text[:-1] + "?"
            words.write(json.dumps({"filename": f"full_images/MLT/crop_{i:08d}.jpg", "text": text}) + "\n")
            readings.write(READING % (i, i, text, read, ", ".join(["0.987654"] * len(read))))
    files = [first, *(folder / f"readings-{k}.jsonl" for k in range(1, RECOGNISERS))]
    for file in files[1:]:
        os.link(first, file)
    return files


def make_images(folder: Path, count: int) -> None:
    """A list of words and their images, of which 500 are different."""
    source = RenderedWords(size=min(count, 500), difficulty=0.8).open()
    images = [np.asarray(source[i].image)[..., ::-1] for i in range(len(source))]
    encoded = [cv2.imencode(".jpg", image)[1].tobytes() for image in images]
    with (folder / "drawn.jsonl").open("w") as words:
        for i in range(count):
            (folder / f"{i}.jpg").write_bytes(encoded[i % len(encoded)])
            words.write(json.dumps({"filename": f"{i}.jpg", "text": source.text(i % len(encoded))}) + "\n")


def processor_seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds that pass, and those of all processors."""

    def used() -> float:
        both = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
        return sum(usage.ru_utime + usage.ru_stime for usage in both)

    start, before = time.perf_counter(), used()
    work()
    return time.perf_counter() - start, used() - before


def peak() -> str:
    """Megabytes of the largest process so far."""
    most = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return f"{most / (2**20 if sys.platform == 'darwin' else 2**10):,.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, nargs="*", default=[100_000, 400_000], help="numbers of words, for vote")
    parser.add_argument("--images", type=int, nargs="*", default=[2_000, 8_000], help="numbers, for deduplicate")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="worker processes")
    arguments = parser.parse_args()
    table = Table(
        "step", "words", "s", "processor s", "words/s a core", "peak MB", title=f"{arguments.workers} workers"
    )

    def add(step: str, count: int, work: Callable[[], object]) -> None:
        passed, used = processor_seconds(work)
        table.add_row(step, f"{count:,}", f"{passed:.1f}", f"{used:.1f}", f"{count / used:,.0f}", peak())

    for count in arguments.records:
        with tempfile.TemporaryDirectory() as name:
            files, folder = make_readings(Path(name), count), Path(name)
            vote = VoteArguments(folder / "words.jsonl", tuple(files), folder / "out.jsonl", workers=arguments.workers)
            add("vote", count, lambda vote=vote: run(vote))  # type: ignore[misc]
    for count in arguments.images:
        with tempfile.TemporaryDirectory() as name:
            make_images(Path(name), count)
            images = sorted(Path(name).glob("*.jpg"))
            add("decoding", count, lambda images=images: [decode_image(p.read_bytes()) for p in images])  # type: ignore[misc]
            lists = DeduplicateArguments(("drawn.jsonl",), f"{name}/out.jsonl", root=name, workers=arguments.workers)
            add("deduplicate", count, lambda lists=lists: deduplicate(lists))  # type: ignore[misc]
    Console(width=None if sys.stdout.isatty() else 140).print(table)


if __name__ == "__main__":
    main()
