"""The mesh, and how batches and states lie on it."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from data_pipelines.records import Batch


def make_mesh() -> Mesh:
    """All devices of all processes on one axis, "data"."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device: parameters and optimizer state."""
    return NamedSharding(mesh, PartitionSpec())


def put_batch(batch: Batch, mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows of a batch as arrays over the mesh, split along the first axis."""
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()}


def fetch(tree: Any) -> Any:
    """Replicated arrays to NumPy, in every process."""
    return jax.tree.map(np.asarray, tree)
