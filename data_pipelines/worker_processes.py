"""How worker processes end: when the main process says so, or has gone."""

import os
import signal
import threading
from multiprocessing import connection, parent_process


def follow_parent() -> None:
    """Call this first in a worker process: it then ignores Ctrl-C, and exits when its parent process does."""
    # Ctrl-C reaches all processes of a terminal; the main process decides, and closes its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Killed main processes cannot close their workers: these go by themselves.
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
