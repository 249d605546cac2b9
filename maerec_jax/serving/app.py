"""The pages of the service, and their description (OpenAPI)."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import RedirectResponse
from fastapi_offline import FastAPIOffline
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect

from maerec_jax.serving.answers import Problem, Readings, SceneReadings, State
from maerec_jax.serving.bodies import Body, Upload
from maerec_jax.serving.connections import Unread
from maerec_jax.serving.limits import Places, RefusedError
from maerec_jax.serving.metrics import measured
from maerec_jax.serving.scenes import Scenes
from maerec_jax.serving.service import Result, Service

_Listed = Annotated[str | None, Query(description="Characters; by default as the service was started.")]
_HUNG_UP = 499  # the status that proxies log where the client did not wait; nobody receives it
_JSON = "application/json"
BEYOND = "beyond"
"""The key in the state of a request that says whether it came on a connection beyond ``Limits.connections``."""

_REFUSALS = {
    400: "The body is empty or damaged, or has fields that are not files; or the model cannot write the characters.",
    408: "The body was not received in time.",
    413: "The body is too large, or has too many images.",
    415: "The Content-Type is neither multipart/form-data nor image/*.",
    500: "Internal error. If images were accepted, the body is as for 200, with their errors.",
    503: "The service is busy, starting or stopping. Try again after the seconds in Retry-After.",
    504: "The images were not read in time.",
}
_STATES: dict[int | str, dict[str, Any]] = {200: {"description": "Yes."}, 503: {"model": State, "description": "No."}}
_FILE = {"type": "string", "format": "binary", "description": "JPEG, PNG, WebP, BMP, TIFF or GIF."}
_FORM = {"type": "object", "required": ["images"], "properties": {"images": {"type": "array", "items": _FILE}}}
_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {"schema": _FORM},
        **{f"image/{kind}": {"schema": _FILE} for kind in ("jpeg", "png", "webp", "*")},
    },
}


def make_app(service: Service, scenes: Scenes | None = None, hosts: Sequence[str] = ("*",)) -> FastAPI:
    """The application around a service, which somebody else starts and closes; with ``scenes`` it takes pictures.

    Requests to other ``hosts`` get 400.
    """
    limits = service.limits
    app = FastAPIOffline(
        redoc_url=None,
        title="maerec_jax",
        summary="Reads the words in images.",
        description=(
            f"At most {limits.max_images} images and {limits.max_body_mb:g} MB a request, "
            f"{limits.max_megapixels:g} megapixels an image, {limits.timeout:g} seconds."
        ),
    )
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)
    app.add_middleware(measured, metrics=service.metrics)

    @app.exception_handler(HTTPException)
    async def of_http(_request: Request, error: HTTPException) -> Response:
        """What is refused before it comes to a page of ours: unknown paths and methods."""
        problem = Problem(code=error.detail.lower().replace(" ", "_"), reason=error.detail)
        # Its body is never looked at, and may have no end.
        return _json(problem, error.status_code, {**(error.headers or {}), "Connection": "close"})

    @app.exception_handler(Exception)
    async def of_fault(_request: Request, _error: Exception) -> Response:
        service.metrics.errors.labels("requests").inc()
        return _json(Problem(code="failed", reason="the service failed: try again later"), 500)

    @app.get("/", include_in_schema=False)
    async def root() -> RedirectResponse:
        return RedirectResponse("docs")

    _add_reading(app, service, "/words", Readings, service.images, service.word)
    if scenes is not None:
        _add_reading(app, service, "/scenes", SceneReadings, scenes.places, scenes.scene)
    else:
        _add_no_scenes(app, service)

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
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return app


def _add_reading(
    app: FastAPI,
    service: Service,
    path: str,
    model: type[Readings] | type[SceneReadings],
    places: Places,
    read: Callable[[Upload, np.ndarray], Awaitable[Result]],
) -> None:
    """Add a page that takes images."""
    responses: dict[int | str, dict[str, Any]] = {
        status: {"model": Problem, "description": text} for status, text in _REFUSALS.items()
    }
    responses[422] = {"model": model, "description": "None of the images can be used."}

    @app.post(
        path,
        tags=["reading"],
        summary="Find and read the words of whole pictures" if path == "/scenes" else "Read images of a word each",
        response_model=model,
        responses=responses,
        openapi_extra={"requestBody": _BODY},
    )
    async def answer(request: Request, characters: _Listed = None, blocklist: _Listed = None) -> Response:
        """Send one or more images as the files of a form, or one image as the body.

        `characters` are the only ones that are read, as in `?characters=0123456789`; those of `blocklist` never are.

        An image that cannot be used does not spoil the others: its result has an `error`. The status is 200 if at least
        one image was read. A picture without any words has an empty list of them, and no error.
        """
        limits = service.limits
        with service.buffer.hold() as take:
            body = Body(request, limits, min(limits.max_images, places.number), take)
            try:
                if getattr(request.state, BEYOND, False):
                    told = f"{limits.connections} connections are open: try again later"
                    raise RefusedError(503, "too_many_connections", told, busy=True)
                allowed_C = service.allowed(characters, blocklist)
                results = await service.answer(request, body, places, lambda upload: read(upload, allowed_C))
            except ClientDisconnect:
                return Response(status_code=_HUNG_UP)
            except RefusedError as refusal:
                service.metrics.refused.labels(refusal.code).inc()
                problem = Problem(code=refusal.code, reason=refusal.reason)
                retry = {"Retry-After": str(service.retry_after)} if refusal.busy else {}
                if body.ended:
                    return _json(problem, refusal.status, retry)
                return Unread(problem.model_dump_json(), refusal.status, limits.max_body, retry, _JSON)
        readings = model.model_validate({"results": results})
        errors = [result.error for result in readings.results]
        failed = any(error is not None and error.code == "failed" for error in errors)
        return _json(readings, 200 if None in errors else 500 if failed else 422)


def _add_no_scenes(app: FastAPI, service: Service) -> None:
    """Say to those who send pictures nonetheless how they can be read."""

    @app.post("/scenes", include_in_schema=False)
    async def no_scenes() -> Response:
        code = "no_detector"
        service.metrics.refused.labels(code).inc()
        told = "the service finds no words in whole pictures: start it with --detect, or send words to /words"
        return Unread(Problem(code=code, reason=told).model_dump_json(), 404, service.limits.max_body, kind=_JSON)


def _json(content: BaseModel, status: int, headers: Mapping[str, str] | None = None) -> Response:
    return Response(content.model_dump_json(), status, headers, _JSON)
