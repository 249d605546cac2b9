"""How worker processes end, when the main process says so or has gone, and what they do not print."""

import os
import signal
import sys
import threading
from multiprocessing import connection, parent_process


def follow_parent() -> None:
    """Call this first in a worker process: it then ignores Ctrl-C, and exits when its parent process does."""
    # Ctrl-C reaches all processes of a terminal; the main process decides, and closes its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Killed main processes cannot close their workers: these go by themselves.
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def mute_libraries() -> None:
    """Call this in a worker process that decodes: only Python then writes to standard error.

    libjpeg and libpng print a line for every damaged image, which names no file and runs into the progress bar; the
    main process names and counts them.
    """
    sys.stderr.flush()
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 2)
    os.close(silence)


def _exit_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
