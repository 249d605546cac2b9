"""What the service counts, for Prometheus."""

import time
from collections.abc import Sequence
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Counters of one service, which reads ``batch_sizes`` images at a time."""

    def __init__(self, batch_sizes: Sequence[int]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # memory, open files, time of the CPU
        counter = partial(Counter, namespace="maerec", registry=self.registry)
        gauge = partial(Gauge, namespace="maerec", registry=self.registry)
        histogram = partial(Histogram, namespace="maerec", registry=self.registry)
        self.requests = counter("requests", "Responses.", ("path", "status"))
        told = "From a request's head to its response."
        self.request_seconds = histogram("request_seconds", told, ("path",), buckets=_SECONDS)
        told = "Seconds by stage: a batch on the device, else an image."
        self.stage_seconds = histogram("stage_seconds", told, ("stage",), buckets=_SECONDS)
        self.images = counter("images", "Images that were answered: read, unreadable, or failed.", ("outcome",))
        self.accepted = gauge("accepted_images", "Images that were accepted, not yet answered.")
        self.waiting = gauge("waiting_images", "Images that wait for a batch.")
        self.batches = histogram("batch_images", "Images of the batches that were read.", buckets=batch_sizes)
        self.refused = counter("refused", "Requests that were refused or failed.", ("code",))
        self.dropped = counter("dropped_images", "Images dropped because the client was gone.")
        self.errors = counter("errors", "Faults of the service itself.", ("where",))
        self.ready = gauge("ready", "1 as long as requests are accepted.")
        for outcome in ("read", "unreadable", "failed"):
            self.images.labels(outcome)


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
