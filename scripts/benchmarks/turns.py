"""What the benchmarks share: each contender in a process of its own, which sleeps while others take their turn.

So each has its own threads and its own memory, and none slows another down by what it leaves running.
"""

import multiprocessing
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

Actions = Mapping[str, Callable[..., Any]]


class DroppedOutError(Exception):
    """A contender cannot go on."""


def _serve(connection: Connection, make: Callable[..., Actions], arguments: tuple) -> None:
    """A contender's process: does what it is told until it is told to stop."""
    try:
        actions = make(*arguments)
        connection.send(("done", None))
        while (request := connection.recv()) is not None:
            action, *rest = request
            connection.send(("done", actions[action](*rest)))
    except (EOFError, KeyboardInterrupt):
        return  # whoever asks has ended
    except Exception as error:
        connection.send(
            ("failed", f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}")
        )


class ContenderProcess:
    """A contender in its process.

    Args:
      make: is called in the process, and returns what can be asked for; a function of a module.
      arguments: those of ``make``.

    Raises:
      DroppedOutError: if it fails.
    """

    def __init__(self, make: Callable[..., Actions], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, make, arguments), daemon=True)
        self._process.start()
        other.close()
        self._answer()

    def ask(self, action: str, *arguments: Any) -> Any:
        """What an action returns. Raises ``DroppedOutError``."""
        with suppress(OSError):  # of a process that has ended; then there is no answer either
            self._connection.send((action, *arguments))
        return self._answer()

    def _answer(self) -> Any:
        try:
            state, value = self._connection.recv()
        except (EOFError, OSError):
            state, value = "failed", "its process has ended"
        if state == "failed":
            raise DroppedOutError(value)
        return value

    def stop(self) -> None:
        """End the process."""
        with suppress(OSError):
            self._connection.send(None)
        self._process.join(10)
        self._process.terminate()
