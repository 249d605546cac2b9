"""Training steps on several meshes of 8 CPU devices, each kind in a process of its own, for test_sharding.py."""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from maerec_jax.config import MeshConfig, OptimizerConfig, TrainConfig
from maerec_jax.distributed.sharding import (
    laid_out,
    make_mesh,
    put_batch,
    put_whole,
    replicated,
    state_bytes,
    state_shardings,
)
from maerec_jax.models.interface import RecogniserConfig
from maerec_jax.training.optimizer import make_optimizer
from maerec_jax.training.run import fresh_state, make_task
from maerec_jax.training.step import jit_train_step, state_shapes
from maerec_jax.weights.checkpoint import Checkpoints
from tests.training.conftest import adapted_config, autoencoder_config, cross_autoencoder_config, recogniser_config

ROWS = 16
MUON = OptimizerConfig(algorithm="muon")
MESHES = {
    "one": MeshConfig(),
    "data": MeshConfig(),
    "fsdp": MeshConfig(fsdp=8),
    "fsdp and tensor": MeshConfig(data=1, fsdp=4, tensor=2),
    "all": MeshConfig(data=2, fsdp=2, tensor=2),
    "four": MeshConfig(data=2, fsdp=2),
}
DEVICES = {"one": 1, "four": 4}


def configs() -> dict[str, TrainConfig]:
    """Both stages, and what else has parameters or an optimizer of its own; accumulation is with some of them."""
    made = {
        "mae": autoencoder_config(""),
        "maerec": recogniser_config(""),
        "cross_mae": cross_autoencoder_config("", optimizer=MUON, accumulation=2),
        "lora": adapted_config("", optimizer=MUON, accumulation=2),
    }
    return {kind: _averaged(config) for kind, config in made.items()}


def _averaged(config: TrainConfig) -> TrainConfig:
    optimizer = replace(config.optimizer, clip_norm=1.0)
    return replace(config, ema_decay=0.9, batch_size=ROWS, optimizer=optimizer)


def make_batch(config: TrainConfig, step: int) -> dict[str, np.ndarray]:
    """A batch of noise and words of different lengths, one image of which is not valid."""
    rng = np.random.default_rng(step)
    model = config.model
    batch = {"image": rng.integers(0, 256, (ROWS, *model.image_size, 3), np.uint8), "valid": np.arange(ROWS) != 3}
    if isinstance(model, RecogniserConfig):
        encode, length = model.charset.encode, model.max_length
        batch["tokens"] = np.stack([encode("a1b2c3d4"[: 1 + i % 6], length) for i in range(ROWS)]).astype(np.int32)
    return batch


class Run:
    """A run of steps on a mesh."""

    def __init__(self, config: TrainConfig, mesh: str) -> None:
        self.config = replace(config, mesh=MESHES[mesh])
        self.mesh = make_mesh(self.config.mesh, jax.devices()[: DEVICES.get(mesh, 8)])
        self.task = make_task(self.config)
        self.optimizer = make_optimizer(config.optimizer, lambda step: 1e-3, 1, self.task.config.frozen)
        self.shapes = state_shapes(self.task, self.optimizer, self.config)
        self.shardings = state_shardings(self.shapes, self.mesh, self.config.model.sharding)
        self.step = jit_train_step(self.task, self.optimizer, self.config, self.shardings)

    def start(self):
        state = fresh_state(self.config, self.task, self.optimizer, self.shardings)
        self.check(state)
        return state

    def check(self, state) -> None:
        """Everything lies where it is to lie."""
        assert all(x.sharding == s for x, s in zip(*map(jax.tree.leaves, (state, self.shardings)), strict=True))

    def inputs(self, step):
        batch = put_batch(make_batch(self.config, step), self.mesh)
        return batch, put_whole(np.int32(step), replicated(self.mesh))

    def go(self, state, steps):
        """The state after the steps, and their losses and gradient norms."""
        found = []
        for step in steps:
            before = jax.tree.leaves(state)
            with jax.transfer_guard("disallow"):
                state, values = self.step(state, *self.inputs(step))
            found.append([float(values["loss"]), float(values["gradient_norm"])])
            assert values["good"]
            assert all(x.is_deleted() for x in before)  # its memory is used again
        self.check(state)
        return state, found

    def parts(self):
        """Of each array of the state its shape, and the shape and number of the different parts of it on devices."""
        flat, _ = jax.tree_util.tree_flatten_with_path(self.shapes)
        found = {}
        for (path, x), sharding in zip(flat, jax.tree.leaves(self.shardings), strict=True):
            places = {str(index) for index in sharding.devices_indices_map(x.shape).values()}
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            found[name] = [x.shape, sharding.shard_shape(x.shape), len(places)]
        return found


def resumed(many: Run, once: Run) -> list[list[float]]:
    """Losses and gradient norms of a run that goes from 8 devices to 4, and from these to 1."""
    state, found = many.go(many.start(), range(2))
    with tempfile.TemporaryDirectory() as folder, Checkpoints(Path(folder), 2, 0) as checkpoints:
        for run, steps in ((Run(many.config, "four"), range(2, 4)), (once, range(4, 6))):
            checkpoints.save(steps[0], state)
            state = checkpoints.restore(steps[0], laid_out(run.shapes, run.shardings))
            run.check(state)
            state, values = run.go(state, steps)
            found = found + values
    return found


def partitioned(config: TrainConfig) -> list[str]:
    """The reductions between devices, before a backend that has no bfloat16 changes their dtype."""
    run = Run(replace(config, dtype="bfloat16"), "fsdp and tensor")
    with tempfile.TemporaryDirectory() as folder:
        options = {"xla_dump_to": folder, "xla_dump_hlo_pass_re": "spmd-partitioning"}
        run.step.lower(run.shapes, *run.inputs(0)).compile(compiler_options=options)
        (file,) = Path(folder).glob("*after_spmd-partitioning*.txt")
        return [line for line in file.read_text().splitlines() if " all-" in line]


def find_out(kind: str, out: Path) -> None:
    """Write what was found to a JSON file. To be called in a process that has not asked for its devices."""
    jax.config.update("jax_num_cpu_devices", 8)
    if kind == "bfloat16":
        jax.config.update("jax_enable_compilation_cache", False)  # what comes from it leaves no program to look at
        found = {"partitioned": partitioned(configs()["maerec"])}
    elif kind in ("mae", "maerec"):
        config = configs()[kind]
        once = Run(config, "one")
        runs = {mesh: Run(config, mesh) for mesh in ("data", "fsdp", "fsdp and tensor", "all")} | {"one": once}
        found = {
            "parts": {mesh: run.parts() for mesh, run in runs.items()},
            "bytes": {mesh: state_bytes(run.shapes, run.shardings) for mesh, run in runs.items()},
            "one": once.go(once.start(), range(6))[1],
            "all": resumed(runs["all"], once),
        }
    else:
        runs = {mesh: Run(configs()[kind], mesh) for mesh in ("one", "all")}
        found = {mesh: run.go(run.start(), range(3))[1] for mesh, run in runs.items()}
    out.write_text(json.dumps(found))
