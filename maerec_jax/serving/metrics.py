"""What the service counts, for Prometheus."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

STAGES = ("upload", "decode", "detect", "queue", "device")
"""Where the time of a request goes; ``device`` is that of a batch, ``decode`` and ``queue`` that of an image."""

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Counters of one service.

    Args:
      batch_sizes: the numbers of images that are read at a time.
    """

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, batch_sizes: Sequence[int] = (1,)) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)  # memory, open files, time of the CPU
        self.requests = Counter("maerec_requests", "Responses.", ("path", "status"), registry=registry)
        self.request_seconds = Histogram(
            "maerec_request_seconds",
            "From a request's head to its response.",
            ("path",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._stage_seconds = Histogram(
            "maerec_stage_seconds", "Seconds by stage.", ("stage",), buckets=_SECONDS, registry=registry
        )
        self.images = Counter(
            "maerec_images", "Images that were answered: read, unreadable, or failed.", ("outcome",), registry=registry
        )
        self.accepted = Gauge(
            "maerec_accepted_images", "Images that were accepted, not yet answered.", registry=registry
        )
        self.waiting = Gauge("maerec_waiting_images", "Images that wait for a batch.", registry=registry)
        self.batches = Histogram(
            "maerec_batch_images",
            "Images of the batches that were read.",
            buckets=tuple(batch_sizes),
            registry=registry,
        )
        self.refused = Counter("maerec_refused", "Requests that got no reading.", ("code",), registry=registry)
        self.dropped = Counter(
            "maerec_dropped_images", "Images that were forgotten, as nobody waited any more.", registry=registry
        )
        self.errors = Counter("maerec_errors", "Faults of the service itself.", ("where",), registry=registry)
        self.ready = Gauge("maerec_ready", "1 as long as requests are accepted.", registry=registry)
        for stage in STAGES:
            self._stage_seconds.labels(stage)
        for outcome in ("read", "unreadable", "failed"):
            self.images.labels(outcome)

    def seconds(self, stage: str, seconds: float) -> None:
        """Tell how long a stage took."""
        self._stage_seconds.labels(stage).observe(seconds)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Measure a stage, whatever its end."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds(stage, time.perf_counter() - start)

    def page(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return generate_latest(self._registry)


class Measured:
    """ASGI middleware that counts responses and their times by path.

    Args:
      app: what it wraps.
      metrics: where they are counted.
      paths: those that have a name of their own; a client that tries thousands of others makes no thousand counters.
    """

    def __init__(self, app: Any, metrics: Metrics, paths: frozenset[str]) -> None:
        self._app, self._metrics, self._paths = app, metrics, paths

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """As ASGI has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500
        path = scope["path"] if scope["path"] in self._paths else "other"

        async def noted(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            self._metrics.requests.labels(path, str(status)).inc()
            self._metrics.request_seconds.labels(path).observe(time.perf_counter() - start)
