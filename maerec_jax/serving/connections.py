"""Sockets that listen, and answers to requests whose bodies have not been received."""

import asyncio
import ipaddress
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from data_pipelines.command import tell
from data_pipelines.errors import UserError

_LINGER = 5.0  # seconds for which the rest of a body is taken, and thrown away
_THIS_MACHINE = ("localhost", "127.0.0.1", "[::1]")


def listen(host: str, port: int, backlog: int = 128) -> socket.socket:
    """A socket that listens; port 0 takes a free one. Raises ``UserError`` where that is impossible."""
    if not 0 <= port < 2**16:
        raise UserError(f"the port must be 0 to 65535, not {port}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=backlog)
    except OSError as error:
        raise UserError(f"cannot listen on {host}, port {port}: {error.strerror}") from error


def address_of(address: Any) -> str:
    """The URL of a socket's address."""
    host, port = address[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def allowed_hosts(names: Sequence[str], host: str, address: Any) -> list[str]:
    """The names in the Host header that a server answers to, which was told to listen on ``host`` and has an address.

    So that no page of another site makes a browser send it requests under a name of that site's, they are those that
    were given, this machine's, and its own. Any, if other machines can reach it, which is told, and none was given.
    """
    own = address[0].partition("%")[0]
    if not (loopback := ipaddress.ip_address(own).is_loopback):
        tell("note: there is no password: anyone who can reach this address can use it, and send it pictures")
    if not names and not loopback:
        return ["*"]
    return [*names, *_THIS_MACHINE, *(f"[{name}]" if ":" in name else name for name in (host, own))]


class Unread(Response):
    """The response to a request whose body has not been received: it comes at once, and closes the connection.

    It ends only when the client has stopped to send: closing earlier makes the client's system forget the answer. What
    the client still sends is thrown away, up to a limit of time and to ``most`` bytes.
    """

    def __init__(
        self, content: str, status: int, most: int, headers: Mapping[str, str] | None = None, kind: str = "text/plain"
    ) -> None:
        super().__init__(content, status, {**(headers or {}), "Connection": "close"}, kind)
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        if "expect" not in Headers(scope=scope):  # else it waits for leave to send
            left = self._most
            with suppress(TimeoutError):
                async with asyncio.timeout(_LINGER):
                    while left > 0 and (message := await receive()).get("more_body", False):
                        left -= len(message.get("body", b""))
        await send({"type": "http.response.body", "body": b"", "more_body": False})
