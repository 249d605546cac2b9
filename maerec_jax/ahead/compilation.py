"""Compile the training step for TPUs that are not there, and measure what comes out."""

import hashlib
import importlib.metadata
import math
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import TypeAdapter, ValidationError

from data_pipelines.errors import UserError
from data_pipelines.sources.records import Record
from maerec_jax.ahead.collectives import Collective, read_program
from maerec_jax.config import TrainConfig
from maerec_jax.costs.chips import Topology
from maerec_jax.distributed.sharding import batch_sharding, make_mesh, state_bytes, state_shardings
from maerec_jax.training.data import make_decoder
from maerec_jax.training.optimizer import learning_rate_schedule, make_optimizer
from maerec_jax.training.run import check_batch_size, make_task
from maerec_jax.training.step import TrainState, jit_train_step, state_shapes

# What a process has to be told before it loads the compiler: that it is on no TPU machine, and need not be alone.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}

# For as long as a step takes, the learning rate's schedule is a few constants: any will do.
_STEPS = 10_000


@dataclass(frozen=True)
class Memory:
    """Bytes of memory in a device during a step."""

    parameters: float
    optimizer: float
    """Moments of the optimizer, and the step."""
    average: float
    """The moving average of the parameters."""
    batch: float
    """The images and labels of a step."""
    padding: float | None
    """What the device's layout adds to those. None where nothing could be compiled, as what follows."""
    temporaries: float | None
    """Activations, gradients and all else that lives within the step."""
    outputs: float | None
    """What comes out beside the state, which takes the place of the one before."""
    program: float | None
    total: float
    """All of it; what the compiler says it would need, where that is more than there is."""


@dataclass(frozen=True)
class Compiled:
    """What a compiled training step says about itself, for one device."""

    fits: bool
    """Whether the compiler found room for it in the device's memory."""
    memory: Memory
    flops: float | None
    """Operations by the compiler's count, which sees the body of a loop once; None where it does not fit."""
    traffic: float | None
    """Bytes that its operations read and write by the compiler's count, some of them in the small memory inside the
    chip; of a loop, one turn."""
    fusions: int
    """Operations that the compiler has made of several: more of them, and more bytes, are a sign of worse ones."""
    cycles: int
    """The compiler's estimate of its cycles without collectives; 0 where unknown."""
    collectives: tuple[Collective, ...]
    """What it sends."""
    image_size: tuple[int, int]
    """Height and width of its images."""
    seconds: float
    """How long compiling took."""
    versions: dict[str, str]
    """Of jax, jaxlib and libtpu."""


_ADAPTER = TypeAdapter(Compiled)


def prepare_environment() -> None:
    """Set what the compiler reads from the environment; before JAX is first used.

    Raises ``UserError`` where the compiler is not installed.
    """
    os.environ.update(ENVIRONMENT)
    jax.config.update("jax_platforms", "cpu")
    try:
        importlib.metadata.version("libtpu")
    except importlib.metadata.PackageNotFoundError:
        raise UserError("no TPU compiler installed: pip install -e '.[ahead]' in the project's folder") from None


def largest_image(config: TrainConfig) -> tuple[int, int]:
    """Height and width of the images to compile for: with buckets, of the one with the most pixels.

    It takes the most memory and time of them; the others, by their number of pixels, not much less.
    """
    return max(config.data.buckets or (config.model.image_size,), key=lambda size: (math.prod(size), size))


def compile_step(
    config: TrainConfig, topology: Topology, cache: Path | None = None, message: Callable[[str], None] = print
) -> Compiled:
    """Compile the step that ``maerec_jax.train`` would run on a topology; ``message`` is told when that begins.

    A result in the folder ``cache`` is found again only by the same program and compiler. Raises ``UserError`` where
    the mesh does not fit the topology, with its slices, or the batch size the mesh.
    """
    if config.dtype == "auto":
        config = replace(config, dtype="bfloat16")  # as "auto" means on a TPU
    mesh = make_mesh(config.mesh, _devices(topology))
    check_batch_size(config, mesh)
    task = make_task(config)
    schedule = learning_rate_schedule(config.optimizer, config.batch_size, _STEPS / 10, _STEPS)
    optimizer = make_optimizer(config.optimizer, schedule, config.model.layers, config.model.frozen)
    shapes, image_size = state_shapes(task, optimizer, config), largest_image(config)
    lies = state_shardings(shapes, mesh, config.model.sharding)
    batch = _batch_shapes(config, image_size)
    jitted: Any = jit_train_step(task, optimizer, config, lies)
    lowered = jitted.lower(shapes, batch, jax.ShapeDtypeStruct((), jnp.int32))

    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "libtpu")}
    key = hashlib.sha256(f"{topology} {mesh.devices.tolist()} {versions}\n{lowered.as_text()}".encode()).hexdigest()
    file = None if cache is None else cache / f"{key[:32]}.json"
    if file is not None:
        with suppress(FileNotFoundError, ValidationError):  # of an earlier version
            return _ADAPTER.validate_json(file.read_bytes())
    message(f"compiling for {topology}, {config.batch_size // topology.chips} images a chip ...")
    begin = time.perf_counter()
    memory = _arguments(shapes, lies, batch)
    read: tuple[float | None, float | None, int, int, tuple[Collective, ...]] = (None, None, 0, 0, ())
    try:
        executable = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        needed = _needed(str(error), memory.total)
        if needed is None:
            raise
        memory = replace(memory, total=needed)
    else:
        memory, counted = _measured(memory, executable.memory_analysis()), executable.cost_analysis() or {}
        text = executable.as_text()
        found, cycles = read_program(text, topology.devices, topology.slices, config.accumulation)
        read = (counted.get("flops"), counted.get("bytes accessed"), text.count(" fusion("), cycles, found)
    seconds = time.perf_counter() - begin
    compiled = Compiled(memory.temporaries is not None, memory, *read, image_size, seconds, versions)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(_ADAPTER.dump_json(compiled, indent=1))
    return compiled


def _devices(topology: Topology) -> list[Any]:
    """The devices of a topology, described by the compiler."""
    from jax.experimental import topologies

    arguments = dict(topology.chip.topology_arguments)
    if topology.slices > 1:
        arguments["num_slices"] = topology.slices
    if math.prod(topology.shape) == 1:
        arguments["chips_per_host_bounds"] = (1, 1, 1)
    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology.name, **arguments).devices
    assert len(devices) == topology.devices, (len(devices), topology)
    return list(devices)


def _batch_shapes(config: TrainConfig, image_size: tuple[int, int]) -> dict[str, jax.ShapeDtypeStruct]:
    """What the loop puts on the devices, found by decoding a black image as the loop would."""
    decoder = replace(make_decoder(config), height=image_size[0], width=image_size[1])
    batch = decoder([(0, Record(np.zeros((*image_size, 3), np.uint8), ""))], 1, random_key=(0, 0))
    batch["source"] = batch.pop("index").astype(np.int32)  # as the loop does it
    rows = config.batch_size
    return {name: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype) for name, x in batch.items()}


def _arguments(shapes: TrainState, lies: Any, batch: dict[str, jax.ShapeDtypeStruct]) -> Memory:
    """What is known of the memory before compiling."""
    parameters = state_bytes(shapes.params, lies.params)
    optimizer = state_bytes((shapes.opt_state, shapes.step), (lies.opt_state, lies.step))
    average = state_bytes(shapes.ema, lies.ema)
    rows = state_bytes(batch, {name: batch_sharding(lies.step.mesh) for name in batch})
    return Memory(parameters, optimizer, average, rows, None, None, None, None, parameters + optimizer + average + rows)


def _measured(memory: Memory, analysis: Any) -> Memory:
    """The memory with what the compiler says of it."""
    outputs = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    temporaries, program = analysis.temp_size_in_bytes, analysis.generated_code_size_in_bytes
    return replace(
        memory,
        padding=analysis.argument_size_in_bytes - memory.total,
        temporaries=temporaries,
        outputs=outputs,
        program=program,
        total=analysis.argument_size_in_bytes + outputs + temporaries + program,
    )


def _needed(error: str, arguments: float) -> float | None:
    """How many bytes a program that does not fit would need, from the compiler's message; None for other errors.

    The compiler stops at what it finds first: the temporaries alone, or everything.
    """
    temporaries = re.search(r"HLO temporaries \(([\d.]+)([KMGT]?)\) exceeds available HBM", error)
    match = temporaries or re.search(r"Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm", error)
    if "RESOURCE_EXHAUSTED" not in error or match is None:
        return None
    needed = float(match[1]) * 1024 ** ("KMGT".index(match[2]) + 1 if match[2] else 0)
    return needed + arguments if temporaries else needed
