"""Serving the page: on loopback by default, without any word to other hosts, and with nothing left behind."""

import os
import signal
import socket
import tempfile
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_pipelines.errors import UserError
from maerec_jax.serving.unread_requests import answer_unread

if TYPE_CHECKING:
    import gradio as gr

    from maerec_jax.demo_page.uploads import Limits

# The page may only load what this server serves. Gradio's templates are compiled in the browser: 'unsafe-eval'.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'self'; "
    "form-action 'self'"
)
_FORM = 10_000  # bytes of an upload's form besides the file
_HEADERS = {
    "content-security-policy": _POLICY,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


@dataclass(frozen=True)
class Address:
    """Where the page is served."""

    host: str = "127.0.0.1"
    """Address to listen at: by default this machine only. Others have no password to give: put a proxy before it."""
    port: int = 7860
    """Port to listen at; 0 for any free one."""
    root_path: str = ""
    """Path under which a proxy serves the page, such as /words."""


@contextmanager
def own_folder() -> Iterator[Path]:
    """A temporary folder for everything that the server writes, gone at the end, also at SIGTERM.

    Gradio reads the environment when it is imported: import it inside.
    """

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    settings = {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
    }
    folders = ("GRADIO_TEMP_DIR", "MPLCONFIGDIR", "TMPDIR")
    old = {name: os.environ.get(name) for name in (*settings, *folders)}
    old_default = tempfile.tempdir
    try:
        with tempfile.TemporaryDirectory(prefix="maerec_demo_", ignore_cleanup_errors=True) as folder:
            os.environ |= settings | dict.fromkeys(folders, folder)
            tempfile.tempdir = folder  # of uploads while they arrive
            try:
                yield Path(folder)
            finally:
                tempfile.tempdir = old_default
    finally:
        for name, value in old.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        for number, handler in before.items():
            signal.signal(number, handler)


def make_app(page: "gr.Blocks", limits: "Limits", address: Address, folder: Path) -> Any:
    """The ASGI application that serves the page; ``folder`` is where it puts uploads."""
    import gradio as gr
    from fastapi import FastAPI

    from maerec_jax.demo_page.style import CSS, HEAD, theme

    for block in page.blocks.values():
        # Gradio fetches files that a request names, from any host. The page sends none: it uploads, and says the path.
        setattr(block, "async_move_resource_to_block_cache", _refuse_file)  # noqa: B010
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(_Gate, limits=limits, folder=folder)
    app.add_middleware(_Headers)
    return gr.mount_gradio_app(
        app,
        page,
        path="/",
        server_name=address.host,
        server_port=address.port,
        root_path=address.root_path or None,
        footer_links=[],
        run_history=False,
        max_file_size=limits.max_bytes,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        enable_monitoring=False,
        show_error=False,
        theme=theme(),
        css=CSS,
        head=HEAD,
    )


def listen(address: Address) -> socket.socket:
    """Take the port, and let visitors knock.

    Raises:
      UserError: where it is taken, or there is no such address.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    taken = socket.socket(family, socket.SOCK_STREAM)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind((address.host, address.port))
        taken.listen(128)  # who comes before all is loaded waits
    except (OSError, OverflowError) as error:
        taken.close()
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"--host {address.host} --port {address.port}: cannot be listened at: {reason}: give another"
        ) from error
    return taken


def serve(app: Any, port: socket.socket) -> None:
    """Serve until Ctrl-C, SIGTERM or SIGHUP."""
    import uvicorn

    # Pages hold a connection open as long as they are: the end does not wait for them.
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=2)
    uvicorn.Server(config).run(sockets=[port])


async def _refuse_file(*arguments: Any, **options: Any) -> None:
    raise ValueError("files are uploaded, never named")


class _Gate:
    """Refuses what no visitor of the page sends, and uploads for which there is no room.

    Gradio takes uploads from whoever sends them, any number of files a request. So a page of another site could have a
    visitor's browser fill the disk.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], limits: "Limits", folder: Path) -> None:
        self._app, self._limits, self._folder = app, limits, folder
        self._arriving = 0

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        posted = scope["type"] == "http" and scope["method"] == "POST"
        headers = dict(scope["headers"]) if posted else {}
        length = headers.get(b"content-length", b"")
        size = int(length[:20]) if length.isdigit() else 0
        refusal = self._refusal(scope["path"], headers, size) if posted else None
        if refusal is None:
            self._arriving += size
            try:
                await self._app(scope, receive, send)
            finally:
                self._arriving -= size
            return
        status, text = refusal
        answer = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
        await answer_unread(scope, receive, send, status, answer, text.encode(), self._limits.max_bytes + _FORM)

    def _refusal(self, path: str, headers: dict[bytes, bytes], size: int) -> tuple[int, str] | None:
        if headers.get(b"sec-fetch-site") == b"cross-site":
            return 403, "pages of other sites may not use this one"
        if not path.rstrip("/").endswith("/upload"):
            return None
        if not size:
            return 411, "uploads need a Content-Length"
        if size > self._limits.max_bytes + _FORM:
            return 413, f"an upload may have {self._limits.max_megabytes} MB"
        if _size(self._folder) + self._arriving + size > self._limits.max_kept_bytes:
            return 503, "too many pictures have been sent: try again later"
        return None


def _size(folder: Path) -> int:
    """Bytes of the files in a folder."""
    total = 0
    for parent, _, files in os.walk(folder):
        for file in files:
            with suppress(OSError):  # gone by now
                total += os.lstat(os.path.join(parent, file)).st_size
    return total


class _Headers:
    """Adds headers to all answers."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                added = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", ()), *added]}
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)
