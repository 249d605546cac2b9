"""Ending a run before its last step: when it is asked to, and when its data does not come."""

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils


class Stopped(Exception):  # noqa: N818 - nothing has gone wrong
    """A run has saved its state because it was asked to stop; repeat the command to resume."""

    def __init__(self, step: int, total: int, signal_number: int) -> None:
        name = signal.Signals(signal_number).name
        super().__init__(f"stopped by {name} at step {step} of {total}: repeat the command to resume")
        self.status = 0 if signal_number == signal.SIGTERM else 128 + signal_number
        """The exit status of the command: 0 for SIGTERM, so that schedulers start the run again."""


class StopRequests:
    """Learns, in a ``with`` block, when the run is to stop: by SIGTERM to any of its processes.

    Where there is one process only, Ctrl-C is such a request, too; a second one is not waited for.
    """

    def __init__(self) -> None:
        self.signal = int(signal.SIGTERM)
        """Which signal has asked."""
        self._asked = False
        self._count = 0
        self._before: dict[int, Any] = {}

    def reached(self) -> bool:
        """Whether to stop now. All processes ask equally often, and get the same answer.

        Cheap: of several processes, JAX tells all in the background when one gets a SIGTERM, and settles from which
        call on the answer is yes.
        """
        if jax.distributed.is_initialized():
            self._count += 1
            self._asked = self._asked or multihost_utils.reached_preemption_sync_point(self._count)
        return self._asked

    def __enter__(self) -> "StopRequests":
        """Listen to signals, where Python lets this thread and JAX does not do it."""
        if not jax.distributed.is_initialized() and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        """Listen no more."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked, self.signal = True, number


class Patience:
    """Watches, from a thread of its own, how long the run waits for data in ``with patience:`` blocks.

    Long waits are told. What takes longer than the limit ends the process: where there are several, one that waits for
    its batch keeps all others waiting for it, and none of them could tell why.

    Args:
      limit: seconds; 0 for none.
      alarm: prints a line, whichever process this is.
      tell_after: seconds after which a wait is told.
    """

    def __init__(self, limit: float, alarm: Callable[[str], None], tell_after: float = 60.0) -> None:
        self._limit, self._alarm, self._tell_after = limit, alarm, tell_after
        self._since: float | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, args=(threading.get_ident(),), daemon=True)
        self._thread.start()

    def __enter__(self) -> None:
        """Begin to wait."""
        self._since = time.monotonic()

    def __exit__(self, *_: object) -> None:
        """Waiting is over."""
        self._since = None

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        self._thread.join()

    def _watch(self, watched: int) -> None:
        told = None
        while not self._closed.wait(1.0):
            since = self._since
            if since is None:
                continue
            waited = time.monotonic() - since
            if waited > self._tell_after and told != since:
                told = since
                self._alarm(f"no batch for {waited:,.0f} s: storage or worker processes are slow, or hang")
            if self._limit and waited > self._limit:
                # What hangs need not be Python, and could not be interrupted.
                traceback.print_stack(sys._current_frames()[watched])
                self._alarm(
                    f"error: no batch for {self._limit:,.0f} s (data.timeout); the traceback above shows where it "
                    "hangs: check storage and worker processes, and repeat the command to resume"
                )
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(1)
