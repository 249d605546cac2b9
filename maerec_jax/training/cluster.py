"""Several processes that train together: how they find each other, and how they end."""

import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import jax

from maerec_jax.command import guarded
from maerec_jax.config import UserError

Method = Literal["auto", "none", "tpu", "slurm", "ompi", "k8s"]
METHODS = get_args(Method)

# A process that has not been heard of for so long is dead, and the others end, too. With what JAX needs to tell them
# that is less than a minute.
_HEARTBEAT_SECONDS = 30
_SHUTDOWN_SECONDS = 60
_CONNECT_SECONDS = 300


@dataclass(frozen=True)
class Cluster:
    """How this process finds the others of its run: by address and number, or through what has started it."""

    coordinator: str = ""
    """HOST:PORT of process 0."""
    num_processes: int | None = None
    """How many processes there are."""
    process_id: int | None = None
    """The number of this one, from 0."""
    method: Method = "auto"
    """What to ask where there is no coordinator: "tpu" (pods, also of several slices), "slurm", "ompi" (Open MPI),
    "k8s" (indexed jobs of Kubernetes); "auto" for the one that is there, "none" for a process of its own."""

    def __post_init__(self) -> None:
        explicit = {"--coordinator": self.coordinator or None, "--num-processes": self.num_processes}
        explicit["--process-id"] = self.process_id
        missing = [name for name, value in explicit.items() if value is None]
        if not missing:
            assert self.num_processes is not None
            assert self.process_id is not None
            if not re.fullmatch(r".+:\d+", self.coordinator):
                raise UserError(f"--coordinator {self.coordinator}: give HOST:PORT of process 0, such as 10.0.0.2:8476")
            if not 0 <= self.process_id < self.num_processes:
                raise UserError(f"--process-id {self.process_id} is not from 0 to {self.num_processes - 1}")
        elif len(missing) < len(explicit):
            raise UserError(f"{' and '.join(missing)} missing: {', '.join(explicit)} are given together or not at all")

    def join(self) -> None:
        """Meet the other processes, where there are any. Call it before JAX is asked for its devices.

        Raises:
          UserError: where the others cannot be found.
        """
        method: str = _detect(os.environ) if self.method == "auto" else self.method
        if self.coordinator:
            method = "deactivate"
        elif method == "none":
            return
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
        except (RuntimeError, ValueError) as error:  # JAX's are of either kind
            asked = self.coordinator or f"--cluster {method}"
            hint = "" if self.coordinator else "; --cluster none trains on this machine alone"
            raise UserError(f"the other processes cannot be found by {asked}: {_first_line(error)}{hint}") from error
        if method == "slurm" and _sees_its_gpus(os.environ):
            jax.config.update("jax_cuda_visible_devices", "all")


def _detect(environment: Mapping[str, str]) -> Method:
    """What has started this process as one of several, by the variables that it has set."""
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
    """Whether all GPUs that this task of Slurm sees are for it.

    JAX takes only the one with the task's number on its node, which is wrong for a task that has the node to itself,
    and for tasks that see no more than their own.
    """
    tasks = re.match(r"\d+", environment.get("SLURM_STEP_TASKS_PER_NODE", environment.get("SLURM_NTASKS_PER_NODE", "")))
    visible = environment.get("CUDA_VISIBLE_DEVICES", "")
    return (tasks is not None and tasks[0] == "1") or (bool(visible) and "," not in visible)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


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
        if not jax.distributed.is_initialized():
            raise
        traceback.print_exc()
        if _is_of_others(error):
            print(
                f"error: {_place()}another process has died or cannot be reached any more, so this one ends; the same "
                "commands go on from the last checkpoint",
                file=sys.stderr,
            )
        status = 1
    if status and jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _place() -> str:
    """Which of several processes this is, as the beginning of a message."""
    if not jax.distributed.is_initialized():  # asking for the number of processes would look for devices
        return ""
    return f"process {jax.process_index()} of {jax.process_count()}: "


def _is_of_others(error: BaseException) -> bool:
    """Whether an error comes from communication between processes."""
    text = str(error)
    return isinstance(error, (RuntimeError, ValueError)) and any(
        sign in text for sign in ("Gloo", "NCCL", "coordination service", "UNAVAILABLE", "DEADLINE_EXCEEDED", "barrier")
    )
