"""A service around a recogniser of a few thousand random parameters, in this process or on the loopback interface."""

import asyncio
import io
import threading
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace

import jax
import PIL.Image
import pytest

from data_pipelines.images.decoding import pixels_of
from maerec_jax import ReadingConfig, Recognizer
from tests.training.conftest import recogniser_config, words


def png(pixels):
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def random_recognizer(reading=None, batch_size=16, **changes):
    config = recogniser_config("", **changes)
    params = jax.device_get(jax.jit(config.model.init)(jax.random.key(5)))
    # The bias that a fresh decoder has is stronger than what it sees: louder, its texts differ by the image.
    params = jax.tree.map(lambda leaf: 3 * leaf if leaf.ndim > 1 else leaf, params)
    return Recognizer(config, params, reading, batch_size)


@pytest.fixture(scope="session")
def recognizer():
    return random_recognizer()


@pytest.fixture(scope="session")
def beamed():
    return random_recognizer(ReadingConfig(beam=3), batch_size=4)


@pytest.fixture(scope="session")
def files():
    """The bytes of images."""
    source = words(24).open(None)
    return [png(pixels_of(source[i])) for i in range(24)]


@pytest.fixture(scope="session")
def expected(recognizer, files):
    return recognizer.read(files)


class Gated:
    """A recogniser that reads only while its gate is open, and fails where it is told to."""

    def __init__(self, recognizer):
        self._recognizer, self.gate, self.fail, self.batches = recognizer, threading.Event(), False, []
        self.reading = threading.Event()
        self.gate.set()

    def __getattr__(self, name):
        return getattr(self._recognizer, name)

    def read_prepared(self, images):
        images = list(images)
        self.reading.set()
        assert self.gate.wait(60)
        self.reading.clear()
        self.batches.append(len(images))
        if self.fail:
            raise RuntimeError("out of memory")
        return list(self._recognizer.read_prepared(images))


@pytest.fixture
def gated(recognizer):
    made = Gated(recognizer)
    yield made
    made.gate.set()


def patient(limits):
    """Limits with which no request runs out of time, however busy the machine is."""
    from maerec_jax.serving.limits import Limits

    return replace(limits or Limits(), timeout=1000)


@asynccontextmanager
async def client_of(recognizer, limits=None, **settings):
    """A client of a service that is ready, and the service."""
    import httpx

    from maerec_jax.serving.app import make_app
    from maerec_jax.serving.service import Service

    service = Service(recognizer, patient(limits), **settings)
    service.batcher.start()
    try:
        await asyncio.wrap_future(service.batcher.warm)
        transport = httpx.ASGITransport(make_app(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            yield client, service
    finally:
        await asyncio.to_thread(service.close)


async def until(condition):
    """Wait for something that other tasks and threads do."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.002)


def form(*images):
    return [("images", (f"{i}.png", image, "image/png")) for i, image in enumerate(images)]


@contextmanager
def served(recognizer, limits=None):
    """A server on the loopback interface that is ready: its address, itself, and its service."""
    from maerec_jax.serving.connections import listen
    from maerec_jax.serving.server import Server
    from maerec_jax.serving.service import Service

    service = Service(recognizer, patient(limits))
    server, listener = Server(service), listen("127.0.0.1", 0, 64)
    address = listener.getsockname()
    thread = threading.Thread(target=lambda: asyncio.run(server.run_until_stopped(listener)))
    thread.start()
    try:
        service.batcher.warm.result(120)
        yield address, server, service
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()
