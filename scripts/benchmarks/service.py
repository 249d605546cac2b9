"""Load the service: python scripts/benchmarks/service.py --checkpoint runs/maerec --images FOLDER"""

import asyncio
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path

import cv2
import httpx
import numpy as np
from models import recognizer
from rich.console import Console
from rich.table import Table

from data_pipelines.command import keep_compiled_programs, run_command
from data_pipelines.errors import UserError
from data_pipelines.rendering import RenderedWords
from data_pipelines.sources.files import Folder
from maerec_jax.distributed.host_memory import run_steps_in_this_thread
from maerec_jax.reading.recognizer import Recognizer
from maerec_jax.weights.finding import save_weights

CONSOLE = Console(width=None if sys.stdout.isatty() else 120)


@dataclass(frozen=True)
class LoadArguments:
    """Start the service on the loopback interface, hold many requests at a time, and compare it with plain reading.

    Every answer is compared with what Recognizer reads in the same image. Clients and service share the machine, so the
    rate of the service is a lower bound. The exit status is 1 if a request failed, a text differs, or the memory of the
    service grew in the second half by more than --growth.
    """

    checkpoint: str = ""
    """Recogniser: workdir, checkpoint or .safetensors file; default: a tiny random model."""
    images: str = ""
    """Folder of word images (with subfolders); default: rendered words."""
    distinct: int = 500
    """Images to use, evenly spread."""
    requests: int = 10_000
    """Number of requests."""
    concurrency: int = 200
    """Requests at the same time."""
    per_request: int = 1
    """Images per request."""
    batch_size: int = 32
    """Batch size of the service."""
    growth: float = 5.0
    """Memory growth allowed in the second half, in percent."""
    queue: int = 512
    """Queue of the service; less than concurrency * per_request shows refusals."""


def images_of(arguments: LoadArguments) -> list[bytes]:
    """The files of images that are sent."""
    spec = Folder(path=".") if arguments.images else RenderedWords(size=64)
    source = spec.open(Path(arguments.images))
    places = np.linspace(0, len(source) - 1, min(len(source), arguments.distinct)).astype(int)
    images = [source[place].image for place in places.tolist()]
    return [i if isinstance(i, bytes) else cv2.imencode(".png", i[..., ::-1])[1].tobytes() for i in images]


@contextmanager
def service(arguments: LoadArguments, checkpoint: str) -> Iterator[str]:
    """The address of a service that runs meanwhile. Raises ``UserError`` where it does not start, or not end well."""
    command = [sys.executable, "-m", "maerec_jax.serve", "--checkpoint", checkpoint, "--port", "0"]
    command += ["--batch-size", str(arguments.batch_size), "--queue", str(arguments.queue)]
    command += ["--max-images", str(min(64, arguments.queue))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line.startswith("ready: "):
                raise UserError("the service did not start")
            yield line.split()[1]
            process.send_signal(signal.SIGTERM)
            if status := process.wait(60):
                raise UserError(f"the service ended with status {status}")
        finally:
            process.kill()


@dataclass
class Load:
    """What the clients have seen, and what the service told of itself."""

    seconds: list[float] = field(default_factory=list)
    """Latencies of answers with status 200."""
    statuses: Counter[str] = field(default_factory=Counter)
    """Status codes, and the names of errors."""
    differing: int = 0
    memory: dict[str, float] = field(default_factory=dict)
    """Resident memory in MB by how far the load had come."""
    cpu: dict[str, float] = field(default_factory=dict)
    """Seconds of CPU time, likewise."""
    all_seconds: float = 0.0
    metrics: str = ""
    """The page at the end."""

    def value(self, name: str) -> float:
        """A value of the page of metrics."""
        return next(float(line.split()[1]) for line in self.metrics.splitlines() if line.startswith(name + " "))


async def load(arguments: LoadArguments, address: str, images: list[bytes], texts: list[str]) -> Load:
    """Hold requests until all are answered; returns what came of it."""
    seen, numbers = Load(), iter(range(arguments.requests))
    # The first requests make the service as large as it is going to be.
    marks = {arguments.requests // 2: "half", arguments.requests // 10: "a tenth", 0: "start"}

    def client() -> httpx.AsyncClient:
        # Each has its one connection: httpx looks through all those of a client for every request.
        return httpx.AsyncClient(base_url=address, timeout=120, trust_env=False, verify=False)

    async def look(mine: httpx.AsyncClient, mark: str) -> None:
        seen.metrics = (await mine.get("/metrics")).text
        seen.memory[mark] = seen.value("process_resident_memory_bytes") / 1e6
        seen.cpu[mark] = seen.value("process_cpu_seconds_total")

    async def work() -> None:
        async with client() as mine:
            for number in numbers:
                if number in marks:
                    await look(mine, marks[number])
                await send(mine, number)

    async def send(mine: httpx.AsyncClient, number: int) -> None:
        chosen, headers, body = requests[number % len(requests)]
        start = time.perf_counter()
        try:
            response = await mine.post("/words", headers=headers, content=body)
        except httpx.HTTPError as error:
            seen.statuses[type(error).__name__] += 1
            return
        seen.statuses[str(response.status_code)] += 1
        if response.status_code == 200:
            seen.seconds.append(time.perf_counter() - start)
            results = response.json()["results"]
            seen.differing += [(r["file"], r["text"]) for r in results] != [(f"{i}.jpg", texts[i]) for i in chosen]

    # What costs the clients time, they do beforehand.
    requests = [request(first, arguments.per_request, images) for first in range(len(images))]
    start = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(arguments.concurrency)))
    seen.all_seconds = time.perf_counter() - start
    async with client() as watcher:
        await look(watcher, "end")
    return seen


def request(first: int, count: int, images: list[bytes]) -> tuple[list[int], dict[str, str], bytes]:
    """The images of a request, its headers and its body."""
    chosen = [number % len(images) for number in range(first, first + count)]
    files = [("images", (f"{i}.jpg", images[i], "image/jpeg")) for i in chosen]
    made = httpx.Request("POST", "http://localhost", files=files)
    return chosen, {"Content-Type": made.headers["Content-Type"]}, made.read()


def plain(arguments: LoadArguments, checkpoint: str, images: list[bytes]) -> tuple[list[str], float, float]:
    """What Recognizer reads in the images, in full batches, how many in a second, and its CPU seconds for each."""
    run_steps_in_this_thread()
    keep_compiled_programs()
    reader = Recognizer.load(checkpoint, batch_size=arguments.batch_size)
    texts = [word.text for word in reader.read(images)]
    whole = list(islice(cycle(images), arguments.batch_size * max(1, 2000 // arguments.batch_size)))
    start, cpu = time.perf_counter(), time.process_time()
    reader.read(whole)
    rate = len(whole) / (time.perf_counter() - start)
    return texts, rate, (time.process_time() - cpu) / len(whole)


def report(arguments: LoadArguments, seen: Load, plain_rate: float, plain_cpu: float) -> int:
    """Print what was found; returns the exit status."""
    read = seen.value('maerec_images_total{outcome="read"}')
    rate = read / seen.all_seconds
    batch = seen.value("maerec_batch_images_sum") / max(1, seen.value("maerec_batch_images_count"))
    cpu = (seen.cpu["end"] - seen.cpu["start"]) / max(1, read)
    unexpected = {status: n for status, n in seen.statuses.items() if status not in ("200", "503")}
    grown = 100 * (seen.memory["end"] / seen.memory.get("half", seen.memory["start"]) - 1)
    p50, p95, p99 = np.percentile(seen.seconds or [0.0], (50, 95, 99)) * 1000
    table = Table("what", "result", title=f"{arguments.requests} requests, {arguments.concurrency} at a time")
    rows = {
        "failed": f"{sum(unexpected.values())} {unexpected}",
        "refused (503)": f"{seen.statuses['503']}",
        "answers with another text": f"{seen.differing}",
        "latency of 200: p50, p95, p99": f"{p50:.0f}, {p95:.0f}, {p99:.0f} ms",
        "requests a second": f"{seen.statuses.total() / seen.all_seconds:.0f}",
        "images a second": f"{rate:.0f}",
        "Recognizer alone, full batches": f"{plain_rate:.0f} images a second ({rate / plain_rate:.0%} served)",
        "CPU time of an image": f"{1000 * cpu:.2f} ms, Recognizer alone {1000 * plain_cpu:.2f} ms",
        "images a batch, mean": f"{batch:.1f}",
        "memory of the service": ", ".join(f"{place}: {size:.0f} MB" for place, size in seen.memory.items()),
        "growth in the second half": f"{grown:+.1f} %",
    }
    for name, text in rows.items():
        table.add_row(name, text)
    CONSOLE.print(table)
    return int(bool(unexpected or seen.differing or grown > arguments.growth))


def load_test(arguments: LoadArguments) -> int:
    images = images_of(arguments)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = arguments.checkpoint
        if not checkpoint:
            checkpoint = str(Path(folder) / "random.safetensors")
            save_weights(checkpoint, *recognizer("", "tiny"), 0)
        texts, *alone = plain(arguments, checkpoint, images)
        with service(arguments, checkpoint) as address:
            seen = asyncio.run(load(arguments, address, images, texts))
    return report(arguments, seen, *alone)


if __name__ == "__main__":
    sys.exit(run_command(LoadArguments, load_test, "python scripts/benchmarks/service.py"))
