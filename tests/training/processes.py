"""Runs of ``python -m maerec_jax.train`` in one or several processes, for tests that stop, kill and resume them."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from maerec_jax.config import TrainConfig, to_json
from tests.conftest import REPOSITORY
from tests.training.conftest import logged

PATIENCE = 300  # seconds after which a test gives up, on a machine that is busy with other tests, too


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
        **environment: str,
    ):
        self.files = [config.with_suffix(f".{time.monotonic_ns()}-{i}.log") for i in range(count)]
        command = [sys.executable, "-m", "maerec_jax.train", "--config", str(config), *flags]
        # Compiling is nearly all that these runs do.
        settings = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_backend_optimization_level=0"}
        settings |= {"JAX_NUM_CPU_DEVICES": str(devices)} | environment
        address = f"localhost:{free_port()}"
        self.all = []
        for i, file in enumerate(self.files):
            place = ["--coordinator", address, "--num-processes", str(count), "--process-id", str(i)]
            whole = command + list(last[i : i + 1]) + (place if count > 1 else [])
            with file.open("w") as out:
                self.all.append(
                    subprocess.Popen(
                        whole, cwd=REPOSITORY, env=settings, stdout=out, stderr=out, start_new_session=True
                    )
                )

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def told(self, index: int = 0) -> str:
        return self.files[index].read_text()

    def kill(self) -> None:
        """kill -9, also of what is stopped."""
        for process in self.all:
            process.send_signal(signal.SIGKILL)
        for process in self.all:
            process.wait()

    def wait(self) -> list[int]:
        """The exit statuses."""
        return [process.wait(PATIENCE) for process in self.all]

    def until(self, condition, poll: float = 0.01) -> bool:
        """Wait for a condition; false where a process has ended before it held."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if any(process.poll() is not None for process in self.all):
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
