"""From the body of a request to image files, within the limits, counted while they come in."""

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from maerec_jax.serving.limits import Limits, RefusedError

_LONGEST_NAME = 255  # characters of a file's name that are repeated in the answer
_FILES = "Send images as files: curl -F images=@word.jpg"


@dataclass(eq=False)
class Upload:
    """An image file of a request. ``data`` becomes empty as soon as it is of no more use."""

    name: str
    data: bytes


class Body:
    """The body of a request, with at most ``most`` images.

    ``take`` is told of the bytes as they come, and raises ``RefusedError`` where they are too many.
    """

    def __init__(self, request: Request, limits: Limits, most: int, take: Callable[[int], None]) -> None:
        self._request, self._limits, self._most, self._take = request, limits, most, take
        self.ended = False  # whether it has come in completely

    async def uploads(self) -> list[Upload]:
        """Receive it.

        Raises:
          RefusedError: for a body that is no image and no form of images, is damaged, or exceeds a limit.
          ClientDisconnect: where the client hangs up.
        """
        headers = self._request.headers
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        encoding = headers.get("content-encoding", "identity").lower()
        if encoding != "identity":
            told = f"the Content-Encoding {encoding[:40]!r} is not supported: send the body unencoded"
            raise RefusedError(415, "unsupported_encoding", told)
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > self._limits.max_body:
            raise self._too_large()
        if kind == "multipart/form-data":
            return await self._form()
        if kind.startswith("image/") or kind == "application/octet-stream":
            data = b"".join([chunk async for chunk in self._chunks()])
            if not data:
                raise RefusedError(400, "empty", "the body is empty: send an image file")
            return [Upload("", data)]
        told = f"the Content-Type is {repr(kind[:80]) if kind else 'missing'}"
        told += ": send multipart/form-data with files, or one image as image/png ..."
        raise RefusedError(415, "unsupported_type", told)

    async def _form(self) -> list[Upload]:
        form = _Form(self._request.headers, self._chunks(), self._most)
        uploads = []
        try:
            for _, file in (await form.parse()).multi_items():
                assert isinstance(file, UploadFile)
                uploads.append(Upload((file.filename or "")[:_LONGEST_NAME], await file.read()))
                await file.close()
        except (MultiPartException, FormParserError) as error:
            raise RefusedError(400, "malformed", f"the body is not a form with files: {error} {_FILES}") from error
        if not uploads:
            raise RefusedError(400, "empty", f"the form holds no file. {_FILES}")
        return uploads

    async def _chunks(self) -> AsyncGenerator[bytes, None]:
        size = 0
        while not self.ended:
            message = await self._request.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            self.ended = not message.get("more_body", False)
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > self._limits.max_body:
                raise self._too_large()
            self._take(len(chunk))
            yield chunk

    def _too_large(self) -> RefusedError:
        most = f"{self._limits.max_body_mb:g} MB"
        return RefusedError(413, "body_too_large", f"a request may have {most}, this one has more")


class _Form(MultiPartParser):
    """A form of files, which stay in memory, and whose end has to come."""

    spool_max_size = 2**62

    def __init__(self, headers: Headers, stream: AsyncGenerator[bytes, None], most: int) -> None:
        super().__init__(headers, self._to_the_end(stream), max_files=most, max_fields=0)
        self._ended = False

    async def _to_the_end(self, stream: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        async for chunk in stream:
            yield chunk
        if not self._ended:
            raise MultiPartException("It ends before its last boundary.")

    def on_headers_finished(self) -> None:
        if len(self.items) >= self.max_files:
            raise RefusedError(413, "too_many_images", f"a request may have {self.max_files} images, this one has more")
        super().on_headers_finished()

    def on_end(self) -> None:
        self._ended = True
