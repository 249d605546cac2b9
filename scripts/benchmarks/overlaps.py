"""Measure the search for overlaps at full size, on made-up hashes: python scripts/benchmarks/overlaps.py

Prints for a benchmark of 100,000 and of 400,000 images how fast training images are looked up and how many hashes are
compared for each. The images are smooth noise, so that the 16 hashes of one are related as those of a photograph are;
one query in a hundred is a copy with noise. One process; reading images is not part of it.
"""

import argparse
import resource
import sys
import time
from collections.abc import Iterator

import cv2
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from data_pipelines.overlaps.hashing import HEIGHT, VIEWS, WIDTH, WORDS, hash_views
from data_pipelines.overlaps.index import HashIndex

CHUNK = 4000


def thumbnails(first: int, count: int, seed: int) -> np.ndarray:
    """uint8 ``(count, 32, 64)``: smooth noise; image i depends on seed and ``first`` only."""
    coarse = np.random.default_rng((seed, first)).integers(0, 256, (count, 8, 16), dtype=np.uint8)
    return np.stack([cv2.resize(image, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC) for image in coarse])


def queries(count: int, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Chunks of thumbnails and, for each, the image of the index that it is a copy of, or -1."""
    for first in range(0, count, CHUNK):
        images = thumbnails(first, CHUNK, 1)
        truth = np.full(CHUNK, -1)
        rng = np.random.default_rng(first)
        chunk = int(rng.integers(size // CHUNK)) * CHUNK
        originals, copies = rng.choice(CHUNK, CHUNK // 100, replace=False), np.arange(CHUNK // 100) * 100
        noisy = thumbnails(chunk, CHUNK, 0)[originals] + rng.normal(0, 10, (len(originals), HEIGHT, WIDTH))
        images[copies] = np.clip(noisy, 0, 255).astype(np.uint8)
        truth[copies] = chunk + originals
        yield images, truth


def measure(size: int, count: int) -> dict[str, str]:
    """Build an index of ``size`` images, and look up ``count`` others."""
    hashes = np.empty((size, VIEWS, WORDS), np.uint32)
    for first in range(0, size, CHUNK):
        hashes[first : first + CHUNK] = hash_views(thumbnails(first, CHUNK, 0))[0]
    start = time.perf_counter()
    index = HashIndex.build(hashes, np.ones(size, bool))
    build = time.perf_counter() - start
    hashing = searching = examined = near = found = 0.0
    for images, truth in track(queries(count, size), f"{size:,}", count // CHUNK, transient=True):
        start = time.perf_counter()
        views, magnitudes = hash_views(images)
        middle = time.perf_counter()
        neighbours = index.search(views, magnitudes)
        hashing, searching = hashing + middle - start, searching + time.perf_counter() - middle
        examined, near = examined + neighbours.examined, near + len(neighbours.query)
        found += (truth[neighbours.query] == neighbours.image).sum()
    memory = index.hashes.nbytes + index.starts.nbytes + index.entries.nbytes
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
    return {
        "index": f"{size:,}",
        "build s": f"{build:.1f}",
        "index GB": f"{memory / 2**30:.2f}",
        "key bits": f"{index.key_bits}",
        "queries": f"{count:,}",
        "hash/s": f"{count / hashing:,.0f}",
        "search/s": f"{count / searching:,.0f}",
        "compared/query": f"{examined / count:.1f}",
        "near/query": f"{near / count:.4f}",
        "found": f"{100 * found / count:.2%}",
        "peak GB": f"{peak:.2f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 400_000], help="numbers of benchmark images")
    parser.add_argument("--queries", type=int, default=1_000_000, help="number of training images")
    arguments = parser.parse_args()
    if any(number % CHUNK for number in (arguments.queries, *arguments.sizes)):
        parser.error(f"numbers must be multiples of {CHUNK:,}")
    rows = [measure(size, arguments.queries) for size in arguments.sizes]
    table = Table(*rows[0], title="overlap search, one process")
    for row in rows:
        table.add_row(*row.values())
    Console(width=None if sys.stdout.isatty() else 140).print(table)


if __name__ == "__main__":
    main()
