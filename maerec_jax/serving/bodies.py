"""From the body of a request to image files, within the limits, counted while they come in."""

from collections.abc import AsyncIterator, Mapping

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from maerec_jax.serving.limits import Held, HungUpError, Limits, RefusedError
from maerec_jax.serving.unread_requests import Receive

_LONGEST_NAME = 255  # characters of a file's name that are repeated in the answer


class Upload:
    """An image file of a request. ``data`` becomes empty as soon as it is of no more use."""

    def __init__(self, name: str, data: bytes) -> None:
        self.name, self.data = name, data


class Body:
    """The body of a request.

    Args:
      receive: of ASGI.
      headers: of the request, their names in lower case.
      limits: what is taken.
      most: the most images.
      held: is told of every byte.
    """

    def __init__(self, receive: Receive, headers: Mapping[str, str], limits: Limits, most: int, held: Held) -> None:
        self._receive, self._headers, self._limits, self._most, self._held = receive, headers, limits, most, held
        self.ended = False
        """Whether it has come in completely."""

    async def uploads(self) -> list[Upload]:
        """Receive it.

        Raises:
          RefusedError: for a body that is no image and no form of images, is damaged, or exceeds a limit.
          HungUpError: where the client hangs up.
        """
        kind, options = parse_options_header(self._headers.get("content-type"))
        encoding = self._headers.get("content-encoding", "identity").lower()
        if encoding != "identity":
            raise RefusedError(
                415, "unsupported_encoding", f"bodies are taken as they are, not encoded by {encoding[:40]!r}"
            )
        length = self._headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > self._limits.max_body:
            raise self._too_large()
        if kind == b"multipart/form-data":
            return await self._form(options.get(b"boundary", b""))
        if kind.startswith(b"image/") or kind == b"application/octet-stream":
            data = bytearray()
            async for chunk in self._chunks():
                data += chunk
            if not data:
                raise RefusedError(400, "empty", "the body is empty: send an image file")
            return [Upload("", bytes(data))]
        told = repr(kind.decode("latin-1")[:80]) if kind else "missing"
        raise RefusedError(
            415,
            "unsupported_type",
            f"the Content-Type is {told}: send multipart/form-data with files, or one image as image/png ...",
        )

    async def _form(self, boundary: bytes) -> list[Upload]:
        if not boundary:
            raise RefusedError(400, "malformed", "the Content-Type has no boundary: let your HTTP library set it")
        try:
            form = _Form(boundary, self._most)
            async for chunk in self._chunks():
                form.write(chunk)
        except FormParserError as error:
            raise RefusedError(400, "malformed", f"the multipart body is damaged: {error}") from error
        if not form.ended:
            raise RefusedError(
                400, "malformed", "the multipart body ends before its last boundary: it was cut, or is damaged"
            )
        if not form.uploads:
            raise RefusedError(400, "empty", "the form holds no file: send images as files (curl -F images=@word.jpg)")
        return form.uploads

    async def _chunks(self) -> AsyncIterator[bytes]:
        size = 0
        while not self.ended:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise HungUpError
            self.ended = not message.get("more_body", False)
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > self._limits.max_body:
                raise self._too_large()
            self._held.take(len(chunk))
            yield chunk

    def _too_large(self) -> RefusedError:
        most = f"{self._limits.max_body_mb:g} MB"
        return RefusedError(413, "body_too_large", f"a request may have {most}, this one has more")


class _Form:
    """The files of a form, in memory: nothing is written to disks.

    Args:
      boundary: what stands between its parts.
      most: the most files.
    """

    def __init__(self, boundary: bytes, most: int) -> None:
        self.uploads: list[Upload] = []
        self.ended = False
        self._most = most
        self._header, self._value, self._data = bytearray(), bytearray(), bytearray()
        self._headers: dict[bytes, bytes] = {}
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
                "on_header_end": self._end_header,
                "on_headers_finished": self._check,
                "on_part_data": lambda data, start, end: self._data.extend(data[start:end]),
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
        )

    def write(self, data: bytes) -> None:
        """Take more of it. Raises ``FormParserError`` where it is damaged, and ``RefusedError``."""
        self._parser.write(data)

    def _begin(self) -> None:
        self._headers, self._data = {}, bytearray()
        self._header, self._value = bytearray(), bytearray()

    def _end_header(self) -> None:
        self._headers[bytes(self._header).lower()] = bytes(self._value)
        self._header, self._value = bytearray(), bytearray()

    def _check(self) -> None:
        if len(self.uploads) == self._most:
            raise RefusedError(413, "too_many_images", f"a request may have {self._most} images, this one has more")
        kind, options = parse_options_header(self._headers.get(b"content-disposition", b"").decode("latin-1"))
        if kind != b"form-data":
            raise RefusedError(400, "malformed", "a part of the multipart body has no Content-Disposition: form-data")
        is_image = self._headers.get(b"content-type", b"").lower().startswith(b"image/")
        if b"filename" not in options and not is_image:
            name = options.get(b"name", b"").decode(errors="replace")[:80]
            raise RefusedError(
                400, "no_file", f"the field {name!r} is no file: send images as files (curl -F images=@word.jpg)"
            )
        self._name = options.get(b"filename", b"").decode(errors="replace")[:_LONGEST_NAME]

    def _end_part(self) -> None:
        self.uploads.append(Upload(self._name, bytes(self._data)))
        self._data = bytearray()

    def _end(self) -> None:
        self.ended = True
