"""What the service counts, for Prometheus."""

import time
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Counters of one service.

    Args:
      batch_sizes: the numbers of images that are read at a time.
    """

    def __init__(self, batch_sizes: Sequence[int] = (1,)) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # memory, open files, time of the CPU
        self.requests = self._counter("requests", "Responses.", "path", "status")
        self.request_seconds = self._seconds("request", "From a request's head to its response.", "path")
        self.stage_seconds = self._seconds("stage", "Seconds by stage: a batch on the device, else an image.", "stage")
        self.images = self._counter("images", "Images that were answered: read, unreadable, or failed.", "outcome")
        self.accepted = self._gauge("accepted_images", "Images that were accepted, not yet answered.")
        self.waiting = self._gauge("waiting_images", "Images that wait for a batch.")
        self.batches = Histogram(
            "maerec_batch_images", "Images of the batches that were read.", buckets=batch_sizes, registry=self.registry
        )
        self.refused = self._counter("refused", "Requests that got no reading.", "code")
        self.dropped = self._counter("dropped_images", "Images that were forgotten, as nobody waited any more.")
        self.errors = self._counter("errors", "Faults of the service itself.", "where")
        self.ready = self._gauge("ready", "1 as long as requests are accepted.")
        for outcome in ("read", "unreadable", "failed"):
            self.images.labels(outcome)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"maerec_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"maerec_{name}", text, registry=self.registry)

    def _seconds(self, name: str, text: str, label: str) -> Histogram:
        return Histogram(f"maerec_{name}_seconds", text, (label,), buckets=_SECONDS, registry=self.registry)


def measured(app: ASGIApp, metrics: Metrics) -> ASGIApp:
    """ASGI middleware that counts responses and their times by path."""

    async def measure(scope: Scope, receive: Receive, send: Send) -> None:
        start, status = time.perf_counter(), 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await app(scope, receive, noted)
        finally:
            # A client that tries thousands of paths that there are not makes no thousand counters.
            path = getattr(scope.get("route"), "path", "other")
            metrics.requests.labels(path, str(status)).inc()
            metrics.request_seconds.labels(path).observe(time.perf_counter() - start)

    return measure
