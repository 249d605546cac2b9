"""The mesh, and how batches, parameters and optimizer state lie on it.

Rows of a batch are divided between "data" and "fsdp". Parameters are divided along "fsdp" and "tensor" as their model's
``sharding`` says, and what is derived from them, such as the moments of the optimizer, lies where they lie.
``docs/tpu.md`` tells when to use which.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from data_pipelines.errors import UserError
from data_pipelines.sources.records import Batch
from maerec_jax.config import MeshConfig

AXES = ("data", "fsdp", "tensor")
_ROWS = PartitionSpec(("data", "fsdp"))
Rule = tuple[str, tuple[str | None, ...]]
"""A pattern, and how the parameters whose paths end so lie on the mesh (``ModelConfig.sharding``)."""

_MUON: tuple[Rule, ...] = ((r"ns_coeffs", ()),)


def make_mesh(config: MeshConfig | None = None, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh of a run, its axes "data", "fsdp" and "tensor".

    Neighbours on "tensor" are next to each other in the network, then those on "fsdp". Where there are several slices,
    "data" runs over the slices first: it is ``slices`` times as long as ``config.data`` says.

    Args:
      config: sizes; all devices on "data" by default.
      devices: the devices; all of all processes by default.

    Raises:
      UserError: where the sizes do not make up the number of devices, or the devices are not of that many slices.
    """
    config = config or MeshConfig()
    devices = jax.devices() if devices is None else devices
    rest = config.fsdp * config.tensor * config.slices
    data = len(devices) // rest if config.data == -1 else config.data
    if data * rest != len(devices):
        sizes = " x ".join(f"{name} {getattr(config, name)}" for name in ("slices", "data", "fsdp", "tensor"))
        raise UserError(f"mesh: {sizes} do not fit {len(devices)} devices (data -1 takes the rest)")
    found = len({getattr(device, "slice_index", 0) for device in devices})
    # GPUs count as slices what has a fast network of its own; those may be one mesh without asking.
    if config.slices != found and (config.slices > 1 or devices[0].platform == "tpu"):
        raise UserError(f"mesh.slices is {config.slices}, but the devices belong to {found} slice{'s' * (found > 1)}")
    shape, slices = (data, config.fsdp, config.tensor), (config.slices, 1, 1)
    split = {"allow_split_physical_axes": True}  # a physical ring, between two axes, where the shape asks for it
    if config.slices > 1:
        grid = mesh_utils.create_hybrid_device_mesh(shape, slices, devices, **split)
    else:
        grid = mesh_utils.create_device_mesh(shape, devices, **split)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows divided between the devices along "data" and "fsdp", and the same on all along "tensor"."""
    return NamedSharding(mesh, _ROWS)


def row_shards(mesh: Mesh) -> int:
    """Into how many parts the rows of a batch are divided."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def state_shardings(shapes: Any, mesh: Mesh, rules: Sequence[Rule]) -> Any:
    """Where each array of a training state, or of parameters alone, lies.

    Args:
      shapes: a tree of arrays or ``jax.ShapeDtypeStruct``. Moments and averages are found by the end of their paths,
        which is that of the parameter; scalars are replicated.
      mesh: the devices.
      rules: the model's ``sharding``.

    Returns:
      A tree of ``NamedSharding``, of the same structure.

    Raises:
      UserError: where a mesh axis does not divide the dimension that a rule lays along it.
      ValueError: for a parameter for which there is no rule.
    """

    def place(path: Any, leaf: Any) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        axes = next((axes for pattern, axes in (*rules, *_MUON) if re.search(rf"(^|/|_)({pattern})$", name)), None)
        if not leaf.shape:
            axes = ()  # counters
        if axes is None:
            raise ValueError(f"no rule of the model's sharding says how {name} {leaf.shape} lies on a mesh")
        if axes and len(axes) != len(leaf.shape):
            raise ValueError(f"the rule of the model's sharding for {name} has {len(axes)} axes, not {len(leaf.shape)}")
        for axis, size in zip(axes, leaf.shape, strict=False):
            if axis and size % mesh.shape[axis]:
                raise UserError(
                    f"mesh.{axis} {mesh.shape[axis]} does not divide the {size} of {name} {leaf.shape}: "
                    "tensor must divide the numbers of heads and hidden units, fsdp the widths"
                )
        return NamedSharding(mesh, PartitionSpec(*axes))

    return jax.tree_util.tree_map_with_path(place, shapes)


def laid_out(shapes: Any, shardings: Any) -> Any:
    """``jax.ShapeDtypeStruct`` of arrays that lie by ``shardings``: what a checkpoint is restored to."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)


def state_bytes(shapes: Any, shardings: Any) -> int:
    """How many bytes of arrays of these shapes, laid out by ``shardings``, a device holds."""
    parts = jax.tree.map(lambda x, s: math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize, shapes, shardings)
    return sum(jax.tree.leaves(parts))


def describe(mesh: Mesh) -> str:
    """The devices of a mesh and how they are laid out, for the log."""
    device = mesh.devices.flat[0]
    axes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items() if size > 1)
    return f"{mesh.size} {device.device_kind}{f' ({axes})' if axes else ''}"


def whole_on_fsdp(shardings: Any) -> Any:
    """The same shardings, but with whole parameters along "fsdp": for passes that would gather them at every step."""

    def gathered(sharding: NamedSharding) -> NamedSharding:
        axes = (None if axis == "fsdp" else axis for axis in sharding.spec)
        return NamedSharding(sharding.mesh, PartitionSpec(*axes))

    return jax.tree.map(gathered, shardings)


def gather(params: Any, shardings: Any) -> Any:
    """Parameters as a step computes with them: whole along "fsdp". Their gradients come back divided again.

    Without it compilers may as well move the activations, which are larger. For use under jit.

    Args:
      params: parameters that lie by ``shardings``.
      shardings: what ``state_shardings`` says of them.
    """
    whole = whole_on_fsdp(shardings)

    @jax.custom_vjp
    def gathered(params: Any) -> Any:
        return jax.lax.with_sharding_constraint(params, whole)

    gathered.defvjp(
        lambda params: (gathered(params), None),
        lambda _, gradients: (jax.lax.with_sharding_constraint(gradients, shardings),),
    )
    return gathered(params)


def batch_part(mesh: Mesh, process: int | None = None) -> tuple[int, int]:
    """Which part of every batch a process has to read, as ``train_batches`` counts them: its number, and of how many.

    Processes whose devices hold the same rows (those that differ in "tensor" only) read the same part. Rows come in the
    order of the mesh, which for TPUs is that of the network: a process's part may lie scattered over the batch.

    Args:
      mesh: the devices.
      process: the index of the process; this one by default.

    Raises:
      UserError: where processes share some of their rows but not all.
    """
    process = jax.process_index() if process is None else process
    rows = mesh.devices.reshape(row_shards(mesh), -1)
    held: dict[int, set[int]] = {}
    for row, devices in enumerate(rows):
        for device in devices:
            held.setdefault(device.process_index, set()).add(row)
    parts = sorted({tuple(sorted(part)) for part in held.values()})
    if sum(map(len, parts)) != len(rows) or len({len(part) for part in parts}) != 1:
        raise UserError(
            f"mesh: with data {mesh.shape['data']} x fsdp {mesh.shape['fsdp']} x tensor {mesh.shape['tensor']} some "
            "processes would share a part of their rows: let tensor divide, or be a multiple of, the devices a process"
        )
    return parts.index(tuple(sorted(held[process]))), len(parts)


def put_batch(batch: Batch, mesh: Mesh) -> dict[str, jax.Array]:
    """This process's part of a batch (``batch_part``) as arrays over the mesh, rows divided as ``batch_sharding``."""
    with jax.transfer_guard("allow"):  # here is where the loop moves something on purpose
        return jax.make_array_from_process_local_data(batch_sharding(mesh), dict(batch))


def put_whole(tree: Any, shardings: Any) -> Any:
    """NumPy arrays that every process has whole as arrays over the mesh; each device gets its part.

    ``shardings`` is a sharding, or a tree of them like ``tree`` or a beginning of it.
    """

    def put(sharding: NamedSharding, part: Any) -> Any:
        return jax.tree.map(
            lambda x: jax.make_array_from_callback(np.shape(x), sharding, lambda index: np.asarray(x)[index]), part
        )

    with jax.transfer_guard("allow"):
        return jax.tree.map(put, shardings, tree)


def fetch(tree: Any) -> Any:
    """Replicated arrays to NumPy, in every process."""
    return jax.device_get(tree)
