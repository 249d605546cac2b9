"""Runs of ``maerec_jax.train`` in one or several processes, for tests that stop, kill and resume them.

The processes are forked from one that has imported everything, since that takes longer than the runs themselves.
"""

import atexit
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable
from multiprocessing.process import BaseProcess
from pathlib import Path

import jax

from maerec_jax import train
from maerec_jax.config import TrainConfig, to_json
from tests.training.conftest import logged

PATIENCE = 300  # seconds after which a test gives up, on a machine that is busy with other tests, too
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.training.preloaded"])


def write_config(folder: Path, config: TrainConfig) -> Path:
    """A config file that returns ``config``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "small.json").write_text(to_json(config))
    file = folder / "small.py"
    file.write_text(
        "from pathlib import Path\nfrom maerec_jax.config import read_json\n"
        "def get_config():\n    return read_json(Path(__file__).with_suffix('.json'))\n"
    )
    return file


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def fork(
    command: Callable[[list[str]], int],
    arguments: list[str],
    out: Path,
    error: Path,
    devices: int = 1,
    environment: dict[str, str] | None = None,
) -> BaseProcess:
    """Start a command, a function of its arguments that returns the exit status, in a process of its own.

    What it prints goes to files, which may be the same.
    """
    settings = os.environ | (environment or {})
    process = FORKS.Process(target=_run, args=(command, arguments, out, error, devices, settings))
    process.start()
    return process


def _run(command, arguments, out: Path, error: Path, devices: int, environment: dict[str, str]) -> None:
    os.setsid()
    for number, path in ((1, out), (2, error)):
        with path.open("a") as file:
            os.dup2(file.fileno(), number)
    os.environ.clear()
    os.environ.update(environment)
    jax.config.update("jax_num_cpu_devices", devices)
    status = command(arguments)
    atexit._run_exitfuncs()  # as at the end of any other program; among them is JAX's, which lets the others go
    sys.exit(status)


class Processes:
    """The processes of a run, started. ``told(i)`` is what process i has printed so far.

    All get the flags, and each a last argument of its own where ``last`` has any.
    """

    def __init__(
        self,
        config: Path,
        count: int = 1,
        devices: int = 1,
        flags: tuple[str, ...] = (),
        last: tuple[str, ...] = (),
        command: Callable[[list[str]], int] = train.main,
        **environment: str,
    ):
        self.files = [config.with_suffix(f".{time.monotonic_ns()}-{i}.log") for i in range(count)]
        address = f"localhost:{free_port()}"
        self.all = []
        for i, file in enumerate(self.files):
            place = ["--coordinator", address, "--num-processes", str(count), "--process-id", str(i)]
            arguments = ["--config", str(config), *flags, *last[i : i + 1], *(place if count > 1 else [])]
            file.touch()
            self.all.append(fork(command, arguments, file, file, devices, environment))

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def told(self, index: int = 0) -> str:
        return self.files[index].read_text()

    def send(self, index: int, number: signal.Signals) -> None:
        """Send a signal to process ``index``."""
        os.kill(self.all[index].pid, number)

    def kill(self) -> None:
        """kill -9, also of what is stopped."""
        for process in self.all:
            process.kill()
        for process in self.all:
            process.join()

    def wait(self, seconds: float = PATIENCE, which: Iterable[int] | None = None) -> list[int]:
        """The exit statuses, of all processes or of some."""
        chosen = self.all if which is None else [self.all[i] for i in which]
        deadline = time.monotonic() + seconds
        for process in chosen:
            process.join(max(0, deadline - time.monotonic()))
            assert process.exitcode is not None, "it goes on and on"
        return [process.exitcode for process in chosen]

    def until(self, condition, poll: float = 0.01) -> bool:
        """Wait for a condition; false where a process has ended before it held."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if any(process.exitcode is not None for process in self.all):
                return False
            assert time.monotonic() < deadline, "\n".join(self.told(i) for i in range(len(self.all)))
            time.sleep(poll)
        return True

    def until_step(self, workdir: Path, step: int) -> bool:
        """Wait until a step is logged."""
        return self.until(lambda: has_logged(workdir, step))


def has_logged(workdir: Path, step: int) -> bool:
    try:
        return step <= max(logged(workdir), default=-1)
    except (FileNotFoundError, ValueError):  # not there yet, or a line half-written
        return False
