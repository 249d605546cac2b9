"""uvicorn around the application: sockets, signals, and connections that send nothing."""

import asyncio
import logging
import math
import signal
import socket
from collections.abc import Sequence
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from data_pipelines.command import tell
from maerec_jax.serving.app import BEYOND, make_app
from maerec_jax.serving.connections import address_of, allowed_hosts, listen
from maerec_jax.serving.scenes import Scenes
from maerec_jax.serving.service import Service

_HEAD_SECONDS = 20.0  # in which the head of a request has to come in
_GRACE = 5.0  # seconds that an accepted request may take beyond its time


class _Connection(H11Protocol):
    """A connection that is closed if no whole head of a request comes in; uvicorn waits for ever.

    The application hears whether there are more connections than it wants; uvicorn would refuse whatever is asked.
    """

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        most, self.limit_concurrency = self.limit_concurrency, None
        self.app_state = {**self.app_state, BEYOND: most is not None and len(self.connections) > most}
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unwatch()

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._unwatch()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(_HEAD_SECONDS, self.transport.close)

    def _unwatch(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class Server(uvicorn.Server):
    """A server for a service, which it starts and closes; its application is that of ``make_app``."""

    def __init__(
        self, service: Service, scenes: Scenes | None = None, access_log: bool = False, hosts: Sequence[str] = ("*",)
    ) -> None:
        logging.getLogger("uvicorn.access").setLevel(logging.INFO if access_log else logging.CRITICAL)
        # Whatever a client sends that is no HTTP is told on this level.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        logging.getLogger("python_multipart").setLevel(logging.ERROR)  # and what is no form
        limits = service.limits
        super().__init__(
            uvicorn.Config(
                make_app(service, scenes, hosts),
                http=_Connection,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=access_log,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=limits.connections,
                backlog=limits.connections,
                timeout_keep_alive=30,
                timeout_graceful_shutdown=math.ceil(limits.timeout + _GRACE),
            )
        )
        self._service = service

    async def run_until_stopped(self, listener: socket.socket) -> None:
        """Serve on a socket that listens, until a signal or ``should_exit``; then finish what was accepted."""
        service = self._service
        service.batcher.start()
        warm = asyncio.create_task(self._tell_when_ready(listener.getsockname()))
        try:
            await self.serve(sockets=[listener])
        finally:
            await asyncio.to_thread(service.close)
            await warm

    async def _tell_when_ready(self, address: Any) -> None:
        try:
            await asyncio.wrap_future(self._service.batcher.warm)
        except BaseException:
            self.should_exit = True
            raise
        if not self.should_exit:
            print(f"ready: {address_of(address)}", flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal: the service stops to accept at once. uvicorn would raise it again at its end."""
        self._service.stopping = True
        self.force_exit |= self.should_exit and sig == signal.SIGINT
        self.should_exit = True


def serve_forever(
    service: Service, scenes: Scenes | None, host: str, port: int, access_log: bool, hosts: Sequence[str] = ()
) -> None:
    """Serve until a signal; says on stderr where it listens, and on stdout when it is ready.

    ``hosts`` are the names that ``allowed_hosts`` is given.
    """
    listener = listen(host, port, service.limits.connections)
    tell(f"listening on {address_of(listener.getsockname())}, compiling")
    hosts = allowed_hosts(hosts, host, listener.getsockname())
    if access_log:
        logging.basicConfig(format="%(message)s")
    asyncio.run(Server(service, scenes, access_log, hosts).run_until_stopped(listener))
