"""What the service takes, and how it says no."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields

from data_pipelines.errors import UserError
from data_pipelines.images.decoding import MAX_PIXELS

MEGA = 1_000_000
_HOST = re.compile(r"\*|(\*\.)?[\w.-]+|\[[\da-fA-F:.]+\]")


@dataclass(frozen=True)
class Limits:
    """How much the service takes at a time."""

    max_images: int = 64
    """Images per request; more get 413."""
    max_body_mb: float = 32.0
    """Largest request body, in MB; larger ones get 413."""
    max_megapixels: float = 16.0
    """Largest image, in megapixels; larger ones are not read, and the answer says so."""
    timeout: float = 30.0
    """Seconds per request, upload included; then it gets 408 (uploading) or 504 (reading)."""
    queue: int = 512
    """Images in the service at the same time (decoding, waiting, reading); further requests get 503."""
    scenes: int = 16
    """Pictures accepted by /scenes at the same time; further requests get 503."""
    buffer_mb: float = 256.0
    """Memory for the bodies of all requests, in MB; further requests get 503."""
    connections: int = 512
    """Open connections; images that are sent on further ones get 503."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise UserError(f"{field.name} must be above 0, not {getattr(self, field.name)}")
        if self.max_images > self.queue:
            raise UserError(f"max_images {self.max_images} must not be above queue {self.queue}")
        if self.max_body_mb > self.buffer_mb:
            raise UserError(f"max_body_mb {self.max_body_mb} must not be above buffer_mb {self.buffer_mb}")
        if self.max_megapixels * MEGA > MAX_PIXELS:
            raise UserError(f"max_megapixels must be at most {MAX_PIXELS / 1e6:.0f}, not {self.max_megapixels}")

    @property
    def max_body(self) -> int:
        """``max_body_mb`` in bytes."""
        return int(self.max_body_mb * MEGA)


@dataclass(eq=False)
class RefusedError(Exception):
    """A request that gets no reading."""

    status: int  # of the response
    code: str  # a word for programs, which also counts it in the metrics
    reason: str  # a sentence for people
    busy: bool = False  # whether the same request may succeed later: the response then says when to try again


class Places:
    """A number of places; what is taken is given back at the end of ``hold``. For one thread.

    Where they do not suffice, the refusal (503) has ``code`` and ``reason``.
    """

    def __init__(self, number: int, code: str, reason: str) -> None:
        self.number, self.taken, self._code, self._reason = number, 0, code, reason

    def refuse_unless(self, number: int) -> None:
        """Raises the refusal where not so many places are left."""
        if self.taken + number > self.number:
            # A new one each time: an exception keeps the frames of every time that it was raised.
            raise RefusedError(503, self._code, self._reason, busy=True)

    @contextmanager
    def hold(self, number: int = 0) -> Iterator[Callable[[int], None]]:
        """Take places; gives what takes more of them. Raises the refusal where they do not suffice."""
        held = 0

        def take(more: int) -> None:
            nonlocal held
            self.refuse_unless(more)
            self.taken += more
            held += more

        try:
            take(number)
            yield take
        finally:
            self.taken -= held


def check_hosts(names: Sequence[str]) -> None:
    """Raises ``UserError`` for what is no host name as ``--allowed-hosts`` takes them."""
    for name in names:
        if not _HOST.fullmatch(name):
            known = "words.example.org, *.example.org for all in it, or * for any, without a port"
            raise UserError(f"--allowed-hosts {name!r} is no name of a host: give one such as {known}")
