"""What the service takes, and how it says no."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

from data_pipelines.errors import UserError
from data_pipelines.images.decoding import MAX_PIXELS

MEGA = 1_000_000


@dataclass(frozen=True)
class Limits:
    """How much the service takes at a time."""

    max_images: int = 64
    """The most images of a request; more are refused with 413."""
    max_body_mb: float = 32.0
    """The largest body of a request, in megabytes; larger ones are refused with 413, as soon as that is known."""
    max_megapixels: float = 16.0
    """The largest image, in millions of pixels; the answer says of a larger one that it was not read."""
    timeout: float = 30.0
    """Seconds that a request may take, its upload included: then 408 while it is sent, 504 while it is read."""
    queue: int = 512
    """Images that are decoded, waiting and read at the same time; requests that would make more get 503."""
    scenes: int = 16
    """Pictures in which words are looked for at the same time; requests that would make more get 503."""
    buffer_mb: float = 256.0
    """What all requests together may hold of their bodies, in megabytes; requests that need more get 503."""
    connections: int = 512
    """Connections that are open at the same time; requests on others get 503."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise UserError(f"{field.name} must be above 0, not {getattr(self, field.name)}")
        if self.max_images > self.queue:
            raise UserError(f"max_images is {self.max_images}, but no more than the queue ({self.queue}) ever fit in")
        if self.max_body_mb > self.buffer_mb:
            raise UserError(f"max_body_mb is {self.max_body_mb}, but buffer_mb holds only {self.buffer_mb}")
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
