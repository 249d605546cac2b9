"""What several processes that run together tell each other."""

import zlib
from collections.abc import Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils

from data_pipelines.errors import UserError


def meet(name: str) -> None:
    """Wait until all processes are here; no devices take part. A name is used once in a run."""
    if jax.process_count() > 1:
        import orbax.checkpoint as ocp

        ocp.multihost.get_barrier_sync_fn()(key=f"maerec_jax: {name}", timeout_ms=1_800_000)


def as_first(value: int) -> int:
    """The value of the first process: what a folder holds need not look the same to all of them at the same time."""
    return value if jax.process_count() == 1 else int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def array_of_first(values: np.ndarray) -> np.ndarray:
    """An array of the first process, in all; the others give one of the same shape and dtype."""
    return values if jax.process_count() == 1 else np.asarray(multihost_utils.broadcast_one_to_all(values))


def agree(values: Mapping[str, object]) -> None:
    """See to it that all processes have the same values, by their names. Raises ``UserError`` in all where not.

    Processes that differ would wait for each other at different places, or train something that is no model.
    """
    if jax.process_count() == 1:
        return
    digests_V = np.array([zlib.crc32(str(value).encode()) for value in values.values()], np.uint32)
    all_PV = np.asarray(multihost_utils.process_allgather(digests_V))
    differ_P = [[name for name, same in zip(values, row == all_PV[0], strict=True) if not same] for row in all_PV]
    for process, names in enumerate(differ_P):
        if names:
            raise UserError(f"process {process} differs from process 0 in: {', '.join(names)}")
