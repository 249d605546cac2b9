"""Measure how fast words are cut out of pictures and written: python scripts/benchmarks/construction.py

Makes pictures of smooth noise of 1,024 x 768 pixels, with 12 words each, and goes through them in one process: only
decoding them; cutting their words out, by an upright box, saved as files and in archives, and rectified; and reading
these again for an LMDB. They take turns, 64 pictures each; rates are by processor time, so that others on the machine
count less. The largest amount of memory is that of this process so far: it is to be the same for any number of
pictures.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from data_pipelines.construct.crop import Cropping, crop_pictures
from data_pipelines.construct.cutting import Style
from data_pipelines.construct.images import read_images
from data_pipelines.construct.pictures import Images
from data_pipelines.construct.records import Span, spans_of, words_as_lines
from data_pipelines.construct.resume import work_folder
from data_pipelines.images.decoding import decode_image

HEIGHT, WIDTH, WORDS, PART = 768, 1024, 12, 64
WAYS: tuple[tuple[Style, Images], ...] = (("box", "files"), ("box", "archives"), ("rectified", "files"))


def make_pictures(folder: Path, count: int) -> Path:
    """Pictures, and their list as ``crop`` makes it of annotations."""
    listed = folder / "pictures"
    with listed.open("w") as file:
        for number in track(range(count), "pictures", transient=True):
            rng = np.random.default_rng(number)
            smooth = cv2.resize(rng.integers(0, 256, (HEIGHT // 16, WIDTH // 16, 3), np.uint8), (WIDTH, HEIGHT))
            picture = cv2.add(smooth, rng.integers(0, 24, (HEIGHT, WIDTH, 1), np.uint8).repeat(3, 2))
            cv2.imwrite(str(folder / f"{number}.jpg"), picture, (cv2.IMWRITE_JPEG_QUALITY, 90))
            words = []
            for left, top in rng.integers(0, (WIDTH - 120, HEIGHT - 60), (WORDS, 2)).tolist():
                width, height, slope = rng.integers(40, 120), rng.integers(14, 40), rng.integers(0, 20)
                x, y = left + int(width), top + int(height)
                words.append([[[left, top], [x, top + int(slope)], [x, y + int(slope)], [left, y]], "word", ""])
            file.write(json.dumps([f"{number}.jpg", words]) + "\n")
    return listed


def measure(folder: Path, count: int) -> dict[str, float]:
    """Seconds of processor time that each way takes for all pictures, or for the words cut out of them."""
    spans = spans_of(make_pictures(folder, count), PART)
    seconds: defaultdict[str, float] = defaultdict(float)
    for span in track(spans, f"{count:,} pictures", transient=True):
        timed(seconds, "decoding", decode_all, folder, span)
        for style, images in WAYS:
            out = folder / f"{style}-{images}.jsonl"
            work_folder(out).mkdir(exist_ok=True)
            how = Cropping(str(folder), str(out), "made", style, images, frozenset(), (), "word")
            found = timed(seconds, f"crop, {style}, {images}", crop_pictures, how, span)
            assert found.counts["out"] == WORDS * span.lines
        (folder / "words.jsonl").write_bytes(b"".join(words_as_lines(found.words)))
        for part in spans_of(folder / "words.jsonl", 1000):
            timed(seconds, "write", read_all, part)
    return seconds


def decode_all(folder: Path, span: Span) -> None:
    for number in range(span.first, span.first + span.lines):
        decode_image((folder / f"{number}.jpg").read_bytes())


def read_all(span: Span) -> None:
    for _ in read_images(True, span, Counter()):
        pass


def timed(seconds: dict[str, float], what: str, work: Callable[..., Any], *arguments: Any) -> Any:
    start = time.process_time()
    result = work(*arguments)
    seconds[what] += time.process_time() - start
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, nargs="+", default=[256, 1024], help="numbers of pictures")
    arguments = parser.parse_args()
    table = Table("pictures", "what", "pictures/s", "words/s", "of decoding only", "peak MB", title="one process")
    for count in arguments.pictures:
        with tempfile.TemporaryDirectory() as folder:
            seconds = measure(Path(folder), count)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
        for what, taken in seconds.items():
            share = f"{seconds['decoding'] / taken:.0%}" if what != "write" else "-"
            rates = f"{count / taken:,.0f}" if what != "write" else "-", f"{count * WORDS / taken:,.0f}"
            table.add_row(f"{count:,}", what, *rates, share, f"{peak:,.0f}")
    Console(width=None if sys.stdout.isatty() else 140).print(table)


if __name__ == "__main__":
    main()
