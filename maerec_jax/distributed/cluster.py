"""Several processes that run together: how they find each other, and how they end."""

import os
import re
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from data_pipelines.command import guarded
from data_pipelines.errors import UserError

Method = Literal["auto", "none", "tpu", "slurm", "ompi", "k8s"]

# A process that has not been heard of for so long is dead, and the others end, too. With what JAX needs to tell them
# that is less than a minute.
_HEARTBEAT_SECONDS = 30
_SHUTDOWN_SECONDS = 60
_CONNECT_SECONDS = 300

_joined = False


@dataclass(frozen=True)
class Cluster:
    """How this process finds the others of its run: by address and number, or through what has started it."""

    coordinator: str = ""
    """HOST:PORT of process 0, if no cluster manager is used."""
    num_processes: int | None = None
    """Number of processes, with --coordinator."""
    process_id: int | None = None
    """Index of this process from 0, with --coordinator."""
    method: Annotated[Method, tyro.conf.arg(name="cluster")] = "auto"
    """Cluster manager that finds the other processes (auto detects it); none runs this process alone."""

    def __post_init__(self) -> None:
        explicit = {"--coordinator": self.coordinator or None, "--num-processes": self.num_processes}
        explicit["--process-id"] = self.process_id
        missing = [name for name, value in explicit.items() if value is None]
        if 0 < len(missing) < len(explicit):
            raise UserError(f"{' and '.join(missing)} missing: give {', '.join(explicit)} together or not at all")
        if self.num_processes is None or self.process_id is None:
            return
        if not re.fullmatch(r".+:\d+", self.coordinator):
            raise UserError(f"--coordinator {self.coordinator}: give HOST:PORT of process 0, such as 10.0.0.2:8476")
        if not 0 <= self.process_id < self.num_processes:
            raise UserError(f"--process-id {self.process_id} is not from 0 to {self.num_processes - 1}")

    def join(self) -> None:
        """Meet the other processes, where there are any. Call it before JAX is asked for its devices.

        Raises ``UserError`` where the others cannot be found.
        """
        global _joined
        method: str = _detect(os.environ) if self.method == "auto" else self.method
        if self.coordinator:
            method = "deactivate"
            self._await_coordinator()
        elif method == "none":
            return
        import jax  # not for --help

        try:
            jax.distributed.initialize(
                self.coordinator or None,
                self.num_processes,
                self.process_id,
                # JAX knows two kinds of TPU clusters and finds out by itself which of them this is.
                cluster_detection_method=None if method == "tpu" else method,
                initialization_timeout=_CONNECT_SECONDS,
                heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
                shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
            )
        except (RuntimeError, ValueError, LookupError, OSError) as error:  # JAX's are of all these kinds
            if self.method == "auto" and method == "tpu" and "should be defined" in str(error):
                return  # TPUs that nobody has described as a cluster: those of this machine alone
            asked = self.coordinator or f"--cluster {method}"
            hint = "" if self.coordinator else "; --cluster none trains on this machine alone"
            raise UserError(f"cannot find the other processes through {asked}: {_first_line(error)}{hint}") from error
        _joined = True
        if method in ("slurm", "ompi") and _sees_its_gpus(os.environ):
            for vendor in ("cuda", "rocm"):
                jax.config.update(f"jax_{vendor}_visible_devices", "all")

    def _await_coordinator(self) -> None:
        """Wait for process 0. JAX would end this process with a report of its insides where nobody answers."""
        if self.process_id == 0:
            print(f"waiting for {self.num_processes} processes at {self.coordinator}", file=sys.stderr, flush=True)
            return
        host, port = self.coordinator.rsplit(":", 1)
        deadline = time.monotonic() + _CONNECT_SECONDS
        while True:
            try:
                socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
                return
            except OSError as error:
                if time.monotonic() > deadline:
                    place = f"process 0 at --coordinator {self.coordinator}"
                    raise UserError(f"process {self.process_id} cannot reach {place}: {error}") from error
                time.sleep(0.5)


def _detect(environment: Mapping[str, str]) -> Method:
    """What has started this process as one of several, by the variables that it has set."""
    import jax

    if int(environment.get("SLURM_NTASKS", "1")) > 1 and "SLURM_STEP_NODELIST" in environment:  # under srun
        return "slurm"
    if int(environment.get("OMPI_COMM_WORLD_SIZE", "1")) > 1:
        return "ompi"
    if (getattr(jax.config, "jax_platforms", None) or "").startswith("tpu"):  # set by JAX itself on a machine with TPUs
        return "tpu"
    if "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment:
        return "k8s"
    return "none"


def _sees_its_gpus(environment: Mapping[str, str]) -> bool:
    """Whether all GPUs that this task of Slurm or Open MPI sees are for it.

    JAX takes only the one with the task's number on its node, which is wrong for a task that has the node to itself,
    and for tasks that see no more than their own.
    """
    names = ("OMPI_COMM_WORLD_LOCAL_SIZE", "SLURM_STEP_TASKS_PER_NODE", "SLURM_NTASKS_PER_NODE")
    tasks = re.match(r"\d+", next((environment[name] for name in names if name in environment), ""))
    visible = environment.get("CUDA_VISIBLE_DEVICES", "")
    return (tasks is not None and tasks[0] == "1") or (bool(visible) and "," not in visible)


def _first_line(error: Exception) -> str:
    text = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {text}" if isinstance(error, LookupError) else text or type(error).__name__


def run_together(cluster: Cluster, run: Callable[[], int]) -> int:
    """Run a command as one of several processes; returns its exit status.

    A process that fails ends at once: the others wait for it in vain, and end when they notice. Where each of them
    waited for all to finish, as JAX does, none would.
    """

    def joined() -> int:
        cluster.join()
        return run()

    try:
        status = guarded(joined, _place)
    except BaseException as error:
        if not _joined:
            raise
        traceback.print_exc()
        if _is_of_others(error):
            print(
                f"error: {_place()}another process has died or cannot be reached, so this one ends, too; repeat the "
                "commands to resume from the last checkpoint",
                file=sys.stderr,
            )
        status = 1
    if status and _joined:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _place() -> str:
    """Which of several processes this is, as the beginning of a message."""
    if not _joined:  # asking for the number of processes would look for devices
        return ""
    import jax

    return f"process {jax.process_index()} of {jax.process_count()}: "


def _is_of_others(error: BaseException) -> bool:
    """Whether an error comes from communication between processes."""
    text = str(error)
    return isinstance(error, (RuntimeError, ValueError)) and any(
        sign in text for sign in ("Gloo", "NCCL", "coordination service", "UNAVAILABLE", "DEADLINE_EXCEEDED", "barrier")
    )
