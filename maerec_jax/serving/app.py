"""The pages of the service, and their description (OpenAPI)."""

from collections.abc import Awaitable, Callable
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from maerec_jax.serving.answers import Problem, Readings, SceneReadings, State, status_of
from maerec_jax.serving.bodies import Body, Upload
from maerec_jax.serving.description import POLICY, description_page
from maerec_jax.serving.limits import HungUpError, Places, RefusedError
from maerec_jax.serving.metrics import Measured
from maerec_jax.serving.service import Service
from maerec_jax.serving.unread_requests import answer_unread

if TYPE_CHECKING:
    from maerec_jax.serving.scenes import Scenes

_HUNG_UP = 499  # the status that proxies log where the client did not wait; nobody receives it
_JSON = "application/json"

_REFUSALS = {
    400: "The body is empty, damaged, or has fields that are no files.",
    408: "The body did not come in within the time that a request has.",
    413: "The body is too large, or has too many images.",
    415: "The Content-Type is neither multipart/form-data nor image/*.",
    500: "The service is at fault. Where it took the images, the body is that of 200, with their errors.",
    503: "The service is busy, starts or stops. Try again after the seconds of Retry-After.",
    504: "The images were not read within the time that a request has.",
}

_STATES: dict[int | str, dict[str, Any]] = {200: {"description": "Yes."}, 503: {"model": State, "description": "No."}}


def make_app(service: Service, scenes: "Scenes | None" = None) -> FastAPI:
    """The application around a service, which somebody else starts and closes; with ``scenes`` it takes pictures."""
    limits = service.limits
    app = FastAPI(
        title="maerec_jax",
        summary="Reads the words in images.",
        description=(
            f"At most {limits.max_images} images and {limits.max_body_mb:g} MB a request, "
            f"{limits.max_megapixels:g} megapixels an image, {limits.timeout:g} seconds."
        ),
        version=_version(),
        license_info={"name": "MIT"},
        docs_url=None,
        redoc_url=None,
    )
    app.add_middleware(Measured, metrics=service.metrics, paths=frozenset(PATHS))
    app.add_exception_handler(HTTPException, _of_http)
    app.add_exception_handler(Exception, _of_fault(service))

    @app.get("/", include_in_schema=False)
    async def root() -> RedirectResponse:
        return RedirectResponse("docs")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(description_page(app.openapi()), headers={"Content-Security-Policy": POLICY})

    @app.post(
        "/words",
        tags=["reading"],
        summary="Read images that show a word each",
        response_model=Readings,
        response_description="What was read.",
        responses={422: {"model": Readings, "description": "None of the images can be used."}, **_refusals()},
        openapi_extra={"requestBody": _request_body("images")},
    )
    async def words(request: Request) -> Response:
        """Send one or more images as the files of a form, or one image as the body.

        An image that cannot be used does not spoil the others: its result has an `error`. The status is 200 if at least
        one image was read.
        """
        return await _answer(service, request, service.images, service.words)

    if scenes is not None:
        _add_scenes(app, service, scenes)

    @app.get("/health", tags=["state"], summary="Whether the process works", responses=_STATES)
    async def health(response: Response) -> State:
        """For liveness: 503 if the service has to be started again."""
        broken = service.state == "broken"
        response.status_code = 503 if broken else 200
        return State(state="broken" if broken else "alive")

    @app.get("/ready", tags=["state"], summary="Whether images are read", responses=_STATES)
    async def ready(response: Response) -> State:
        """For readiness: 503 while the service starts and stops."""
        response.status_code = 200 if service.state == "ready" else 503
        return State(state=service.state)

    @app.get("/metrics", tags=["state"], summary="Counters for Prometheus", response_class=Response)
    async def metrics() -> Response:
        """Requests, images, batches, refusals, errors, times by stage, memory of the process."""
        return Response(service.metrics.page(), media_type=service.metrics.content_type)

    return app


def _add_scenes(app: FastAPI, service: Service, reader: "Scenes") -> None:
    @app.post(
        "/scenes",
        tags=["reading"],
        summary="Find and read the words of whole pictures",
        response_model=SceneReadings,
        response_description="What was found and read.",
        responses={422: {"model": SceneReadings, "description": "None of the pictures can be used."}, **_refusals()},
        openapi_extra={"requestBody": _request_body("images")},
    )
    async def scenes(request: Request) -> Response:
        """Send pictures as for `/words`. A picture without any words has an empty list of them, and no error."""
        return await _answer(service, request, reader.places, reader.scenes)


PATHS = ("/words", "/scenes", "/health", "/ready", "/metrics", "/docs", "/openapi.json")
"""Those that metrics name."""


async def _answer(
    service: Service, request: Request, places: Places, read: Callable[[list[Upload]], Awaitable[Any]]
) -> Response:
    """The response to a request that sends images."""
    headers = dict(request.headers)
    with service.buffer.hold() as held:
        most = min(service.limits.max_images, places.number)
        body = Body(request.receive, headers, service.limits, most, held)
        try:
            readings = await service.answer(request, body, places, read)
        except HungUpError:
            return Response(status_code=_HUNG_UP)
        except RefusedError as refusal:
            service.metrics.refused.labels(refusal.code).inc()
            problem = Problem(code=refusal.code, reason=refusal.reason)
            retry = {"Retry-After": str(service.retry_after)} if refusal.busy else {}
            if body.ended:
                return _json(problem, refusal.status, retry)
            return _Unread(service.limits.max_body, problem.model_dump_json(), refusal.status, retry)
    return _json(readings, status_of([result.error for result in readings.results]))


def _json(content: BaseModel, status: int, headers: dict[str, str] | None = None) -> Response:
    return Response(content.model_dump_json(), status, headers, _JSON)


class _Unread(Response):
    """A response to a request whose body has not been received, of which ``most`` bytes are thrown away."""

    def __init__(self, most: int, content: str, status: int, headers: dict[str, str]) -> None:
        super().__init__(content, status, headers | {"Connection": "close"}, _JSON)
        self._most = most

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await answer_unread(scope, receive, send, self.status_code, self.raw_headers, bytes(self.body), self._most)


async def _of_http(_request: Request, error: Exception) -> Response:
    """What is refused before it comes to a page of ours: unknown paths and methods."""
    assert isinstance(error, HTTPException)
    problem = Problem(code=str(error.detail).lower().replace(" ", "_"), reason=str(error.detail))
    # Its body is never looked at, and may have no end.
    return _json(problem, error.status_code, {**(error.headers or {}), "Connection": "close"})


def _of_fault(service: Service) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def respond(_request: Request, _error: Exception) -> Response:
        service.metrics.errors.labels("requests").inc()
        return _json(Problem(code="failed", reason="the service failed: try again later"), 500)

    return respond


def _refusals() -> dict[int | str, dict[str, Any]]:
    found: dict[int | str, dict[str, Any]] = {
        status: {"model": Problem, "description": text} for status, text in _REFUSALS.items()
    }
    found[503]["headers"] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
    return found


def _request_body(name: str) -> dict[str, Any]:
    """The description of bodies with images."""
    file = {"type": "string", "format": "binary", "description": "JPEG, PNG, WebP, BMP, TIFF or GIF."}
    form = {"type": "object", "required": [name], "properties": {name: {"type": "array", "items": file}}}
    kinds = ("image/jpeg", "image/png", "image/webp", "image/*")
    content = {"multipart/form-data": {"schema": form}} | {kind: {"schema": file} for kind in kinds}
    return {"required": True, "content": content}


def _version() -> str:
    try:
        return version("maerec-jax")
    except PackageNotFoundError:  # not installed, but run from its folder
        return "0"
