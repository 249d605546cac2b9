"""Images of many requests share batches: one thread has the devices and reads whatever waits, in the static shapes."""

import time
from collections import Counter
from concurrent.futures import Future
from threading import Condition, Thread

import numpy as np

from data_pipelines.images.buckets import Shape
from maerec_jax.reading.recognizer import Prepared, Recognizer
from maerec_jax.reading.word import Word
from maerec_jax.serving.metrics import Metrics

Key = tuple[Shape, ...]
"""The sizes of an image's ways: images of one key share batches."""


Waiting = dict[Future[Word], tuple[Prepared, float]]
"""Images that wait, oldest first: since when, and for whom."""


class Batcher:
    """Reads images in batches that form by themselves.

    The thread reads as soon as a batch is full or its oldest image has waited for ``delay`` seconds. While it reads,
    others gather: the busier the service, the fuller the batches. Of the sizes that the recogniser, which nobody else
    may use, has compiled it takes the one that reads most images in a second, by times that it measured before it
    began: nine images are read as eight and one where that is faster than as nine of thirty-two.
    """

    def __init__(self, recognizer: Recognizer, delay: float, metrics: Metrics) -> None:
        self._recognizer, self._delay, self._metrics = recognizer, delay, metrics
        self._changed = Condition()
        self._waiting: dict[Key, Waiting] = {}
        self._closing = False
        self._seconds: dict[tuple[Shape, int], float] = {}
        self._thread = Thread(target=self._work, name="reading", daemon=True)
        self.warm: Future[None] = Future()  # done when every batch shape is compiled; has the error where that failed
        metrics.waiting.set_function(self.waiting)

    def start(self) -> None:
        """Start to compile, and then to read."""
        self._thread.start()

    def close(self) -> None:
        """Read what waits, then end the thread. Compiling ends with the shape that it is at."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def waiting(self) -> int:
        """Number of images that wait."""
        with self._changed:
            return sum(map(len, self._waiting.values()))

    def submit(self, image: Prepared) -> Future[Word]:
        """Let an image be read. Its future may be cancelled as long as it waits: then it is forgotten."""
        future: Future[Word] = Future()
        key = tuple(way.shape[-3:-1] for way in image.ways)
        with self._changed:
            if self._closing:
                raise RuntimeError("the batcher is closed")
            self._waiting.setdefault(key, {})[future] = image, time.monotonic()
            self._changed.notify()
        future.add_done_callback(lambda future: self._forget(key, future) if future.cancelled() else None)
        return future

    def seconds_per_image(self) -> float:
        """What an image takes in the best batches, as measured before the first."""
        return min((seconds / size for (_, size), seconds in self._seconds.items()), default=1.0)

    def _forget(self, key: Key, future: Future[Word]) -> None:
        with self._changed:
            queue = self._waiting.get(key, {})
            if queue.pop(future, None) is not None:
                self._metrics.dropped.inc()
            if not queue:
                self._waiting.pop(key, None)

    def _work(self) -> None:
        try:
            self._warm_up()
        except BaseException as error:
            self.warm.set_exception(error)
            return
        self.warm.set_result(None)
        while batch := self._next():
            self._read(batch)

    def _warm_up(self) -> None:
        """Compile every shape, and see how long it takes."""
        handling = self._recognizer.handling
        # Where each image has words of its own, one without a name has none.
        roots = handling.lexicon.roots if handling.lexicon is not None else None
        name = next(iter(roots)) if roots else ""
        for shape in handling.shapes:
            for size in self._recognizer.batch_sizes:
                pixels, width = handling.prepare(np.zeros((*shape, 3), np.uint8), shape)
                images = [Prepared([pixels], (width,), (0,), shape, name)] * size
                times = []
                for _ in range(4):  # the first compiles
                    if self._closing:
                        return
                    start = time.perf_counter()
                    list(self._recognizer.read_prepared(images))
                    times.append(time.perf_counter() - start)
                self._seconds[shape, size] = min(times)

    def _next(self) -> Waiting:
        """Wait for a batch; returns none at the end."""
        largest = self._recognizer.batch_sizes[-1]
        with self._changed:
            while True:
                now, since = time.monotonic(), {key: next(iter(q.values()))[1] for key, q in self._waiting.items()}
                full = {key for key, q in self._waiting.items() if len(q) >= self._most(key, largest)}
                ready = [key for key in since if self._closing or key in full or now >= since[key] + self._delay]
                if ready:
                    if batch := self._take(min(ready, key=since.__getitem__)):
                        return batch
                elif self._closing:
                    return {}
                else:
                    self._changed.wait(min(since.values()) + self._delay - now if since else None)

    def _take(self, key: Key) -> Waiting:
        queue = self._waiting[key]

        def speed(size: int) -> tuple[float, int]:
            return min(len(queue), self._most(key, size)) / self._seconds[key[0], size], size

        best = self._most(key, max(self._recognizer.batch_sizes, key=speed))
        batch = {future: queue.pop(future) for future in list(queue)[:best]}
        if not queue:
            del self._waiting[key]
        return {future: waited for future, waited in batch.items() if future.set_running_or_notify_cancel()}

    def _most(self, key: Key, size: int) -> int:
        """Images of a key that fill a batch of ``size`` rows."""
        return max(1, size // max(Counter(key).values()))

    def _read(self, batch: Waiting) -> None:
        start = time.monotonic()
        for _, since in batch.values():
            self._metrics.stage_seconds.labels("queue").observe(start - since)
        try:
            words = list(self._recognizer.read_prepared([image for image, _ in batch.values()]))
        except Exception as error:  # of the devices: whatever it is, those who wait have to hear of it
            self._metrics.errors.labels("reading").inc()
            for future in batch:
                future.set_exception(error)
            return
        self._metrics.stage_seconds.labels("device").observe(time.monotonic() - start)
        self._metrics.batches.observe(len(batch))
        for future, word in zip(batch, words, strict=True):
            future.set_result(word)
