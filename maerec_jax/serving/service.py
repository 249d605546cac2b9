"""The service behind the pages: what it accepts, decodes and reads, and when it stops."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from logging import getLogger
from typing import Any, Literal

import numpy as np
from starlette.requests import ClientDisconnect, Request

from data_pipelines.errors import UserError
from data_pipelines.images.decoding import DecodeError, decode_image
from maerec_jax.reading.recognizer import Prepared, Recognizer
from maerec_jax.scenes.regions import LARGE, is_large
from maerec_jax.serving.batching import Batcher
from maerec_jax.serving.bodies import Body, Upload
from maerec_jax.serving.limits import MEGA, Limits, Places, RefusedError
from maerec_jax.serving.metrics import Metrics

Result = dict[str, Any]
"""What was read in an image, or why nothing was, as the models in ``answers`` describe it."""

_LARGE = (
    f"the image is at least {LARGE} pixels high and wide, and was read as one word: send whole pictures to /scenes, "
    "of a service that was started with --detect"
)


class Service:
    """Reads the images of requests, as soon as its ``batcher`` was started. For the thread of the event loop.

    It takes the recogniser over. An image waits ``delay`` seconds for others to share its batch.
    """

    def __init__(
        self, recognizer: Recognizer, limits: Limits | None = None, delay: float = 0.004, decode_threads: int = 2
    ) -> None:
        if delay < 0:
            raise UserError(f"the delay must not be negative, but is {delay}")
        if decode_threads < 1:
            raise UserError(f"decode_threads must be at least 1, not {decode_threads}")
        self.recognizer, self.limits = recognizer, limits or Limits()
        self.metrics = Metrics(recognizer.batch_sizes)
        self.batcher = Batcher(recognizer, delay, self.metrics)
        queue = self.limits.queue
        self.images = Places(queue, "queue_full", f"{queue} images are accepted at a time: try again later")
        told = "too much is uploaded at the same time: try again later"
        self.buffer = Places(int(self.limits.buffer_mb * MEGA), "buffer_full", told)
        self._pool = ThreadPoolExecutor(decode_threads, "decoding")
        self.closing = ExitStack()  # what is to be done when the service is closed
        self.closing.callback(self.batcher.close)
        self.closing.callback(self._pool.shutdown)
        self.stopping = False  # whether what comes from now on is refused; what was accepted is read
        self.metrics.accepted.set_function(lambda: self.images.taken)
        self.metrics.ready.set_function(lambda: self.state == "ready")

    def close(self) -> None:
        """Read what was accepted, and end the threads."""
        self.stopping = True
        self.closing.close()

    @property
    def state(self) -> Literal["starting", "ready", "stopping", "broken"]:
        """Whether it reads, and if not, why."""
        if self.stopping:
            return "stopping"
        if not self.batcher.warm.done():
            return "starting"
        return "ready" if self.batcher.alive else "broken"

    @property
    def retry_after(self) -> int:
        """Seconds after which a refused request may be sent again: what is accepted should be read by then."""
        if self.state == "starting":
            return 10
        return min(60, math.ceil(1 + self.images.taken * self.batcher.seconds_per_image()))

    def refuse_unless_open(self, places: Places) -> None:
        """Raises ``RefusedError`` where nothing can be accepted at the moment, whatever it is."""
        if (state := self.state) != "ready":
            then = "it has to be started again" if state == "broken" else "try again later"
            raise RefusedError(503, state, f"the service is {state}: {then}", busy=True)
        places.refuse_unless(1)

    async def answer(
        self, request: Request, body: Body, places: Places, read: Callable[[Upload], Awaitable[Result]]
    ) -> list[Result]:
        """Receive the images of a request, and ``read`` each of them, in one of ``places``.

        That is cancelled when nobody waits any more.

        Raises:
          RefusedError: for a request that gets no reading.
          ClientDisconnect: where the client hangs up.
        """
        self.refuse_unless_open(places)
        uploads: list[Upload] = []
        try:
            async with asyncio.timeout(self.limits.timeout):
                with self.metrics.stage_seconds.labels("upload").time():
                    uploads = await body.uploads()
                self.refuse_unless_open(places)
                with places.hold(len(uploads)):
                    return await _unless_gone(request, asyncio.gather(*(self._result(read, each) for each in uploads)))
        except TimeoutError as error:
            seconds = f"{self.limits.timeout:g} seconds"
            if not body.ended:
                raise RefusedError(408, "upload_timeout", f"the body was not received within {seconds}") from error
            raise RefusedError(504, "timeout", f"the images could not be read within {seconds}", busy=True) from error
        finally:
            for upload in uploads:  # a thread may not have begun with it, and forget it later only
                upload.data = b""

    async def _result(self, read: Callable[[Upload], Awaitable[Result]], upload: Upload) -> Result:
        try:
            outcome, found = "read", await read(upload)
        except (DecodeError, UserError) as error:
            outcome, found = "unreadable", {"error": {"code": "unreadable", "reason": str(error)}}
        except Exception as error:
            # What it is, is for those who run the service, not for those who use it.
            getLogger("maerec_jax.serving").error("an image could not be read", exc_info=error)
            self.metrics.errors.labels("images").inc()
            outcome, found = "failed", {"error": {"code": "failed", "reason": "the service failed: try again later"}}
        self.metrics.images.labels(outcome).inc()
        return {"file": upload.name, **found}

    def allowed(self, characters: str | None, blocklist: str | None) -> np.ndarray:
        """``Reader.allowed`` for a request. Raises ``RefusedError`` where that cannot be."""
        try:
            return self.recognizer.handling.allowed(characters, blocklist)
        except UserError as error:
            raise RefusedError(400, "characters", str(error)) from error

    async def word(self, upload: Upload, allowed_C: np.ndarray) -> Result:
        """Read an image of one word, in the classes that are allowed."""
        prepared, large = await asyncio.wrap_future(self._pool.submit(self._prepare, upload, allowed_C))
        word = await asyncio.wrap_future(self.batcher.submit(prepared))
        return word.described() | ({"note": _LARGE} if large else {})

    def _prepare(self, upload: Upload, allowed_C: np.ndarray) -> tuple[Prepared, bool]:
        """An image as the model gets it, and whether it is more likely a whole picture."""
        pixels = self.decode(upload)
        return self.recognizer.prepare_pixels(pixels, upload.name, allowed_C), is_large(pixels)

    def decode(self, upload: Upload) -> np.ndarray:
        """The pixels of an upload, which loses its data.

        Raises ``DecodeError``, and ``UserError`` where the lexicon has no words for it.
        """
        data, upload.data = upload.data, b""
        self.recognizer.handling.columns([upload.name])
        with self.metrics.stage_seconds.labels("decode").time():
            return decode_image(data, int(self.limits.max_megapixels * MEGA))


async def _unless_gone(request: Request, reading: Awaitable[list[Result]]) -> list[Result]:
    """The result of a reading, which is cancelled if the client hangs up first: then raises ``ClientDisconnect``."""
    work = asyncio.ensure_future(reading)
    gone = asyncio.ensure_future(_hung_up(request))
    try:
        await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ClientDisconnect
        return work.result()
    finally:
        work.cancel()
        gone.cancel()
        await asyncio.gather(work, gone, return_exceptions=True)


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
