"""Answering HTTP requests whose bodies have not been received, in plain ASGI."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

Receive = Callable[[], Awaitable[Any]]
"""Of ASGI."""
Send = Callable[[Any], Awaitable[None]]
"""Of ASGI."""

_LINGER = 5.0  # seconds for which the rest of a body is taken, and thrown away


async def answer_unread(
    scope: Mapping[str, Any],
    receive: Receive,
    send: Send,
    status: int,
    headers: Iterable[tuple[bytes, bytes]],
    content: bytes,
    most: int,
) -> None:
    """Answer at once, but end the answer only when the client has stopped to send.

    Closing earlier makes the client's system forget the answer. What it still sends is thrown away, up to a limit of
    time and to ``most`` bytes. ``headers`` should close the connection.
    """
    await send({"type": "http.response.start", "status": status, "headers": [*headers]})
    await send({"type": "http.response.body", "body": content, "more_body": True})
    if not any(name == b"expect" for name, _ in scope["headers"]):  # else it waits for leave to send
        await _throw_away(receive, most)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _throw_away(receive: Receive, most: int) -> None:
    try:
        async with asyncio.timeout(_LINGER):
            while most > 0:
                message = await receive()
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return
                most -= len(message.get("body", b""))
    except TimeoutError:
        pass
