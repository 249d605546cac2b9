"""Ending a command in the middle of its work."""

import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def kill_9(command: Sequence[str], folder: Path, pattern: str, state: Callable[[], Any]) -> Any:
    """Kill a command when three files of a pattern are in a folder; returns the state that its workers leave."""
    process = subprocess.Popen(command)
    deadline = time.monotonic() + 60
    while len(list(folder.glob(pattern))) < 3:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = None
    while left != (left := state()):  # the workers follow
        time.sleep(0.5)
    return left
