"""Serving the page: on loopback by default, without any word to other hosts, and with nothing left behind."""

import os
import signal
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response
from starlette.middleware.trustedhost import TrustedHostMiddleware

from maerec_jax.demo_page.uploads import Limits
from maerec_jax.serving.connections import Unread
from maerec_jax.serving.limits import MEGA

if TYPE_CHECKING:
    import gradio as gr

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


@contextmanager
def own_folder() -> Iterator[Path]:
    """A temporary folder for everything that this process writes from now on, gone at the end, also at SIGTERM.

    Gradio reads the environment when it is imported: import it inside.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # as Ctrl-C
    with tempfile.TemporaryDirectory(prefix="maerec_demo_", ignore_cleanup_errors=True) as folder:
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1"}
        os.environ |= dict.fromkeys(("GRADIO_TEMP_DIR", "MPLCONFIGDIR", "TMPDIR"), folder)
        tempfile.tempdir = folder  # of uploads while they arrive
        yield Path(folder)


def make_app(
    page: "gr.Blocks", limits: Limits, folder: Path, root_path: str = "", hosts: Sequence[str] = ("*",)
) -> FastAPI:
    """The ASGI application that serves the page; ``folder`` is where it puts uploads.

    ``root_path`` is the path under which a proxy serves it. Requests to other ``hosts`` get 400.
    """
    import gradio as gr

    async def keep(block: Any, path: Any) -> str:
        if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
            raise ValueError("files are uploaded, never named")
        path = os.path.abspath(path)
        block.temp_files.add(path)
        return path

    # Gradio takes files that a request names, from the disk and from any host. The page uploads, and says the path.
    setattr(gr.blocks.Block, "async_move_resource_to_block_cache", keep)  # noqa: B010
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    arriving = 0  # bytes of uploads

    @app.middleware("http")
    async def guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        nonlocal arriving
        size = int(request.headers.get("content-length", 0))  # a number: else uvicorn has refused it
        refusal = _refusal(request, size, limits, folder, arriving)
        if refusal is not None:
            response: Response = Unread(refusal[1], refusal[0], limits.max_bytes + _FORM)
        else:
            arriving += size
            try:
                response = await call_next(request)
            finally:
                arriving -= size
        response.headers.update(_HEADERS)
        return response

    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)
    return gr.mount_gradio_app(
        app,
        page,
        path="/",
        root_path=root_path or None,
        footer_links=[],
        run_history=False,
        max_file_size=limits.max_bytes,
        ssr_mode=False,
        mcp_server=False,
        show_error=False,
        css_paths=Path(__file__).with_name("page.css"),
    )


def _refusal(request: Request, size: int, limits: Limits, folder: Path, arriving: int) -> tuple[int, str] | None:
    """Status and reason for what no visitor of the page sends, and for uploads for which there is no room.

    Gradio takes uploads from whoever sends them, any number of files a request, and fetches addresses in paths. So a
    page of another site could have a visitor's browser fill the disk.
    """
    path = request.scope["path"]
    if "://" in path:
        return 403, "addresses are not fetched"
    if request.method != "POST":
        return None
    if request.headers.get("sec-fetch-site") == "cross-site":
        return 403, "pages of other sites may not use this one"
    if not size:
        return 411, "a Content-Length is needed"
    if size > limits.max_bytes + _FORM:
        return 413, f"an upload may have {limits.max_megabytes} MB"
    if path.rstrip("/").endswith("/upload") and _size(folder) + arriving + size > limits.max_kept_megabytes * MEGA:
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
