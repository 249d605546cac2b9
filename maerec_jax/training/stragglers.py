"""Of several processes, naming the one that keeps the others waiting."""

from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

_TIMES = 2.0  # as much time as the others is what a straggler takes for itself
_SHARE = 0.1  # of a step is what it takes longer, at least
_TWICE = 2  # in a row it does so before it is named: anyone may be late once


class Stragglers:
    """Compares what processes take for themselves in each step: waiting for data, and bringing it to the devices.

    In a step, all processes wait for the slowest, and each takes as long as any other. So what tells them apart is how
    long they take until they let their devices begin. Devices that are slow themselves are not found this way.

    Args:
      message: prints a line.
    """

    def __init__(self, message: Callable[[str], None]) -> None:
        self._message, self._seconds, self._steps = message, 0.0, 0
        self._late, self._named = (-1, 0), -1  # the process that was last late, and how often in a row
        devices_PD = np.array(sorted(jax.devices(), key=lambda device: device.process_index))
        mesh = Mesh(devices_PD.reshape(jax.process_count(), -1), ("process", "device"))
        self._own = NamedSharding(mesh, PartitionSpec("process"))
        self._share = jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, PartitionSpec()))

    def count(self, seconds: float) -> None:
        """Count a step, and what this process took for itself in it."""
        self._seconds += seconds
        self._steps += 1

    def gather(self) -> jax.Array:
        """The seconds a step of each process since this was last called, float32 (processes,).

        All processes call it at the same step. Nothing is waited for: the devices exchange it between two steps.
        """
        mean, self._seconds, self._steps = self._seconds / self._steps, 0.0, 0
        return self._share(jax.make_array_from_process_local_data(self._own, np.array([mean], np.float32)))

    def judge(self, own_P: np.ndarray, step_seconds: float) -> None:
        """Name a straggler, once for as long as it is one: by what ``gather`` gave, and how long a step takes."""
        process = int(own_P.argmax())
        others = float(np.median(np.delete(own_P, process)))
        longer = own_P[process] - others
        if longer < _SHARE * step_seconds or own_P[process] < _TIMES * others:
            self._late, self._named = (-1, 0), -1
            return
        self._late = (process, self._late[1] + 1 if self._late[0] == process else 1)
        if self._late[1] >= _TWICE and process != self._named:
            self._named = process
            self._message(
                f"warning: process {process} keeps the others waiting: until its devices can begin a step it takes "
                f"{own_P[process]:.2g} s, and the others {others:.2g} s; look at its storage, its data.workers, and "
                "what else its machine does"
            )
