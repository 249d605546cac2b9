"""Load the service: python scripts/benchmarks/service.py --checkpoint runs/maerec --images FOLDER"""

import asyncio
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from rich.console import Console
from rich.table import Table

from data_pipelines.command import run_command

CONSOLE = Console(width=None if sys.stdout.isatty() else 120)


@dataclass(frozen=True)
class LoadArguments:
    """Start the service on the loopback interface, hold many requests at a time, and compare it with plain reading.

    Every answer is compared with what Recognizer reads in the same image. Clients and service share the machine, so the
    rate of the service is a lower bound. The exit status is 1 if a request failed, a text differs, or the memory of the
    service grew in the second half by more than --growth.
    """

    checkpoint: str = ""
    """What reads: a workdir or checkpoint of a fine-tuning run, or an exported file; by default a tiny random model."""
    images: str = ""
    """Folder of word images, searched with its subfolders; by default rendered words."""
    distinct: int = 500
    """How many of the images are taken, evenly spread."""
    requests: int = 10_000
    """Number of requests."""
    concurrency: int = 200
    """Requests that are held at the same time."""
    per_request: int = 1
    """Images of each request."""
    batch_size: int = 32
    """As that of the service."""
    growth: float = 5.0
    """Percent by which the memory may grow in the second half."""
    beam: int = 1
    """As that of the service."""
    queue: int = 512
    """As that of the service; less than concurrency * per_request shows how it refuses."""

    def __post_init__(self) -> None:
        for name in ("distinct", "requests", "concurrency", "per_request", "batch_size", "beam", "queue"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")


@dataclass
class _Load:
    """What the clients have seen."""

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    differing: int = 0


def images_of(arguments: LoadArguments) -> list[bytes]:
    """The files of images that are sent."""
    from data_pipelines.errors import UserError
    from data_pipelines.sources.files import Folder

    if arguments.images:
        source = Folder(path=".").open(Path(arguments.images))
        if not len(source):
            raise UserError(f"{arguments.images} holds no images")
        places = np.linspace(0, len(source) - 1, min(len(source), arguments.distinct)).astype(int)
        return [data for data in (source[int(i)].image for i in places) if isinstance(data, bytes)]
    import cv2

    from data_pipelines.images.decoding import pixels_of
    from data_pipelines.rendering import RenderedWords

    drawn = RenderedWords(size=min(64, arguments.distinct)).open(Path())
    pixels = [pixels_of(drawn[i]) for i in range(len(drawn))]
    return [cv2.imencode(".png", image[..., ::-1])[1].tobytes() for image in pixels]


def save_random(path: str) -> None:
    """Write a tiny recogniser of random weights."""
    import jax

    from data_pipelines.rendering import RenderedWords
    from maerec_jax.config import DataConfig, TrainConfig
    from maerec_jax.models.maerec import MAERecConfig
    from maerec_jax.training.recognition import Recognition
    from maerec_jax.weights.finding import save_recognizer

    model = MAERecConfig.tiny()
    config = TrainConfig(model=model, data=DataConfig(train=(RenderedWords(size=8),)), batch_size=8, steps=1)
    save_recognizer(path, config, jax.device_get(Recognition(model, "float32").init(jax.random.key(0))), 0)


def start_service(arguments: LoadArguments, checkpoint: str) -> tuple[subprocess.Popen[str], str]:
    """Start the service; returns its process and its address, as soon as it is ready."""
    from data_pipelines.errors import UserError

    command = [sys.executable, "-m", "maerec_jax.serve", "--checkpoint", checkpoint, "--port", "0"]
    for name in ("batch_size", "beam", "queue"):
        command += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
    command += ["--max-images", str(min(64, arguments.queue))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line.startswith("ready: "):
        process.kill()
        raise UserError("the service did not start")
    return process, line.split()[1]


async def load(arguments: LoadArguments, address: str, images: list[bytes], texts: list[str]) -> dict[str, Any]:
    """Hold requests until all are answered; returns what came of it."""
    seen, numbers = _Load(), iter(range(arguments.requests))
    memory: dict[str, float] = {}
    # The first requests make the service as large as it is going to be.
    marks = {arguments.requests * k // 10: f"{k}0 %" for k in range(1, 10)}

    def client() -> httpx.AsyncClient:
        # Each has its one connection: httpx looks through all those of a client for every request.
        return httpx.AsyncClient(base_url=address, timeout=120, trust_env=False, verify=False)

    async def work() -> None:
        async with client() as mine:
            for number in numbers:
                if number in marks:
                    memory[marks[number]] = await memory_of(mine)
                await send(mine, number)

    async def send(mine: httpx.AsyncClient, number: int) -> None:
        chosen, headers, body = requests[number % len(requests)]
        start = time.perf_counter()
        try:
            response = await mine.post("/words", headers=headers, content=body)
        except httpx.HTTPError as error:
            seen.failures[type(error).__name__] += 1
            return
        seen.statuses[response.status_code] += 1
        if response.status_code == 200:
            seen.seconds.append(time.perf_counter() - start)
            results = response.json()["results"]
            seen.differing += [(r["file"], r["text"]) for r in results] != [(f"{i}.jpg", texts[i]) for i in chosen]

    # What costs the clients time, they do beforehand.
    requests = [_request(range(i, i + arguments.per_request), images) for i in range(len(images))]
    async with client() as watcher:
        memory["start"] = await memory_of(watcher)
        cpu = -value_of((await watcher.get("/metrics")).text, "process_cpu_seconds_total")
        start = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(arguments.concurrency)))
        seconds = time.perf_counter() - start
        memory["end"] = await memory_of(watcher)
        page = (await watcher.get("/metrics")).text
        cpu += value_of(page, "process_cpu_seconds_total")
    return {"seen": seen, "seconds": seconds, "cpu": cpu, "memory": memory, "metrics": page}


def _request(numbers: Iterable[int], images: list[bytes]) -> tuple[list[int], dict[str, str], bytes]:
    """The images of a request, its headers and its body."""
    chosen = [number % len(images) for number in numbers]
    files = [("images", (f"{i}.jpg", images[i], "image/jpeg")) for i in chosen]
    made = httpx.Request("POST", "http://localhost", files=files)
    return chosen, {"Content-Type": made.headers["Content-Type"]}, made.read()


async def memory_of(client: httpx.AsyncClient) -> float:
    """Resident memory of the service in MB."""
    return value_of((await client.get("/metrics")).text, "process_resident_memory_bytes") / 1e6


def value_of(page: str, name: str) -> float:
    """A value of a page of metrics."""
    return next(float(line.split()[1]) for line in page.splitlines() if line.startswith(name + " "))


def plain(arguments: LoadArguments, checkpoint: str, images: list[bytes]) -> tuple[list[str], float, float]:
    """What Recognizer reads in the images, in full batches, how many in a second, and its CPU seconds for each."""
    from data_pipelines.command import keep_compiled_programs
    from maerec_jax.distributed.host_memory import run_steps_in_this_thread
    from maerec_jax.reading.recognizer import ReadingConfig, Recognizer

    run_steps_in_this_thread()
    keep_compiled_programs()
    recognizer = Recognizer.load(checkpoint, ReadingConfig(beam=arguments.beam), arguments.batch_size)
    texts = [word.text for word in recognizer.read(images)]
    whole = list(islice(cycle(images), arguments.batch_size * max(1, 2000 // arguments.batch_size)))
    start, cpu = time.perf_counter(), time.process_time()
    recognizer.read(whole)
    rate = len(whole) / (time.perf_counter() - start)
    return texts, rate, (time.process_time() - cpu) / len(whole)


def report(arguments: LoadArguments, found: dict[str, Any], plain_rate: float, plain_cpu: float) -> int:
    """Print what was found; returns the exit status."""
    seen: _Load = found["seen"]
    memory: dict[str, float] = found["memory"]
    rate, page = seen.statuses.total() / found["seconds"], found["metrics"]
    read = value_of(page, 'maerec_images_total{outcome="read"}')
    image_rate, cpu = read / found["seconds"], found["cpu"] / max(1, read)
    batch = value_of(page, "maerec_batch_images_sum") / max(1, value_of(page, "maerec_batch_images_count"))
    unexpected = {status: n for status, n in seen.statuses.items() if status not in (200, 503)}
    grown = 100 * (memory["end"] / memory.get("50 %", memory["start"]) - 1)
    p50, p95, p99 = np.percentile(seen.seconds or [0.0], (50, 95, 99)) * 1000
    table = Table("what", "result", title=f"{arguments.requests} requests, {arguments.concurrency} at a time")
    rows = {
        "failed": f"{sum(seen.failures.values()) + sum(unexpected.values())} {dict(seen.failures) | unexpected}",
        "refused (503)": f"{seen.statuses[503]}",
        "answers with another text": f"{seen.differing}",
        "latency of 200: p50, p95, p99": f"{p50:.0f}, {p95:.0f}, {p99:.0f} ms",
        "requests a second": f"{rate:.0f}",
        "images a second": f"{image_rate:.0f}",
        "Recognizer alone, full batches": f"{plain_rate:.0f} images a second ({image_rate / plain_rate:.0%} served)",
        "CPU time of an image": f"{1000 * cpu:.2f} ms, Recognizer alone {1000 * plain_cpu:.2f} ms",
        "images a batch, mean": f"{batch:.1f}",
        "memory of the service": ", ".join(f"{place}: {size:.0f} MB" for place, size in memory.items()),
        "growth in the second half": f"{grown:+.1f} %",
    }
    for name, text in rows.items():
        table.add_row(name, text)
    CONSOLE.print(table)
    return int(bool(seen.failures or unexpected or seen.differing or grown > arguments.growth))


def load_test(arguments: LoadArguments) -> int:
    """Measure and report; returns 1 if something is wrong, else 0."""
    images = images_of(arguments)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = arguments.checkpoint
        if not checkpoint:
            checkpoint = str(Path(folder) / "random.safetensors")
            save_random(checkpoint)
        with CONSOLE.status("reading without the service"):
            texts, plain_rate, plain_cpu = plain(arguments, checkpoint, images)
        with CONSOLE.status("starting the service"):
            process, address = start_service(arguments, checkpoint)
        try:
            with CONSOLE.status("sending requests"):
                found = asyncio.run(load(arguments, address, images, texts))
            process.send_signal(signal.SIGTERM)
            stopped = process.wait(60)
        finally:
            process.kill()
    CONSOLE.print(f"the service ended with status {stopped}")
    return report(arguments, found, plain_rate, plain_cpu) or stopped


if __name__ == "__main__":
    sys.exit(run_command(LoadArguments, load_test, "python scripts/benchmarks/service.py"))
