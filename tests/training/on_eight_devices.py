"""Training steps on several meshes of 8 CPU devices, for test_sharding.py: ``on_eight_devices.py KIND OUT.json``."""

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import jax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_enable_compilation_cache", False)  # what comes from it leaves no program to look at

import numpy as np  # noqa: E402

from maerec_jax.config import MeshConfig, OptimizerConfig, TrainConfig  # noqa: E402
from maerec_jax.distributed.sharding import (  # noqa: E402
    laid_out,
    make_mesh,
    put_batch,
    put_whole,
    replicated,
    state_bytes,
    state_shardings,
)
from maerec_jax.training.loop import fresh_state, make_task  # noqa: E402
from maerec_jax.training.optimizer import make_optimizer  # noqa: E402
from maerec_jax.training.step import jit_train_step, state_shapes  # noqa: E402
from maerec_jax.weights.checkpoint import Checkpoints  # noqa: E402
from tests.training.conftest import (  # noqa: E402
    adapted_config,
    autoencoder_config,
    cross_autoencoder_config,
    recogniser_config,
)

ROWS, STEPS = 16, 3
MESHES = {
    "one": MeshConfig(),
    "data": MeshConfig(),
    "fsdp": MeshConfig(fsdp=8),
    "fsdp and tensor": MeshConfig(data=1, fsdp=4, tensor=2),
    "all": MeshConfig(data=2, fsdp=2, tensor=2),
    "four": MeshConfig(data=2, fsdp=2),
}
DEVICES = {"one": 1, "four": 4}


def muon_config(workdir: str) -> TrainConfig:
    """A recogniser that Muon trains."""
    return recogniser_config(workdir, optimizer=OptimizerConfig(algorithm="muon"))


def make_batch(config: TrainConfig, step: int) -> dict[str, np.ndarray]:
    """A batch of noise and words of different lengths, one image of which is not valid."""
    rng = np.random.default_rng(step)
    batch = {"image": rng.integers(0, 256, (ROWS, 32, 128, 3), np.uint8), "valid": np.arange(ROWS) != 3}
    if config.model.kind == "maerec":
        encode, length = config.model.charset.encode, config.model.decoder.max_length
        batch["tokens"] = np.stack([encode("a1b2c3d4"[: 1 + i % 6], length) for i in range(ROWS)]).astype(np.int32)
    return batch


class Run:
    """A run of steps on a mesh."""

    def __init__(self, config: TrainConfig, mesh: str, parts: int = 1) -> None:
        self.config = replace(config, mesh=MESHES[mesh], accumulation=parts)
        self.mesh = make_mesh(self.config.mesh, jax.devices()[: DEVICES.get(mesh, 8)])
        self.task = make_task(self.config)
        self.optimizer = make_optimizer(config.optimizer, lambda step: 1e-3, 1, self.task.frozen)
        self.shapes = state_shapes(self.task, self.optimizer, self.config)
        self.shardings = state_shardings(self.shapes, self.mesh)
        self.step = jit_train_step(self.task, self.optimizer, self.config, self.mesh)

    def start(self):
        return fresh_state(self.config, self.task, self.optimizer, self.shardings)

    def inputs(self, step):
        batch = put_batch(make_batch(self.config, step), self.mesh)
        return batch, put_whole(np.int32(step), replicated(self.mesh))

    def go(self, state, steps):
        """The state after the steps, and their losses and gradient norms."""
        found = []
        for step in steps:
            with jax.transfer_guard("disallow"):
                state, values = self.step(state, *self.inputs(step))
            found.append([float(values["loss"]), float(values["gradient_norm"])])
            assert values["good"]
        return state, found


def leaves(state):
    """The arrays of a state by their paths."""
    flat, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in flat}


def shapes_on_devices(state):
    """Of each array its shape, and the shape and number of the different parts of it on devices."""
    return {
        path: [x.shape, x.addressable_shards[0].data.shape, len({str(part.index) for part in x.addressable_shards})]
        for path, x in leaves(state).items()
    }


def resumed(many: Run, once: Run) -> list[list[float]]:
    """Losses and gradient norms of a run that goes from 8 devices to 4, and from these to 1."""
    state, found = many.go(many.start(), range(2))
    with tempfile.TemporaryDirectory() as folder, Checkpoints(Path(folder), 2, 0) as checkpoints:
        for run, steps in ((Run(many.config, "four"), range(2, 4)), (once, range(4, 6))):
            checkpoints.save(steps[0], state)
            state = checkpoints.restore(steps[0], laid_out(run.shapes, run.shardings))
            assert all(x.sharding == s for x, s in zip(*map(jax.tree.leaves, (state, run.shardings)), strict=True))
            state, values = run.go(state, steps)
            found = found + values
    return found


def main(kind: str, out: str) -> None:
    """Write what was found to a JSON file."""
    configs = {"mae": autoencoder_config, "cross_mae": cross_autoencoder_config}
    configs |= {"maerec": recogniser_config, "lora": adapted_config, "muon": muon_config}
    config = configs[kind]("")
    new_model_only = kind in ("cross_mae", "lora", "muon")
    # A block and a head for each device along "tensor" are enough; every block is compiled anew.
    config = replace(config, model=replace(config.model, encoder=replace(config.model.encoder, depth=1)))
    config = replace(config, ema_decay=0.9, batch_size=ROWS, optimizer=replace(config.optimizer, clip_norm=1.0))
    found: dict = {"losses": {}, "parts": {}, "bytes": {}}
    for mesh in ("one", "all") if new_model_only else ("one", "data", "fsdp", "fsdp and tensor", "all"):
        run = Run(config, mesh)
        state = run.start()
        found["parts"][mesh] = shapes_on_devices(state)
        found["bytes"][mesh] = state_bytes(run.shapes, run.shardings)
        before = jax.tree.leaves(state)
        state, found["losses"][mesh] = run.go(state, range(STEPS))
        assert shapes_on_devices(state) == found["parts"][mesh]
        found.setdefault("donated", {})[mesh] = all(x.is_deleted() for x in before)
        if mesh == "one":
            once, found["unbroken"] = run, run.go(run.start(), range(2 * STEPS))[1]
    if not new_model_only:
        found["resumed"] = resumed(run, once)
    for mesh in ("one", "all"):
        run = Run(config, mesh, parts=2)
        found["losses"][f"{mesh}, accumulated"] = run.go(run.start(), range(STEPS))[1]

    if kind == "maerec":  # the dtype of reductions between devices, before a backend that has no bfloat16 changes it
        run = Run(replace(config, dtype="bfloat16"), "fsdp and tensor")
        with tempfile.TemporaryDirectory() as folder:
            options = {"xla_dump_to": folder, "xla_dump_hlo_pass_re": "spmd-partitioning"}
            run.step.lower(run.shapes, *run.inputs(0)).compile(compiler_options=options)
            (file,) = Path(folder).glob("*after_spmd-partitioning*.txt")
            found["partitioned"] = [line for line in file.read_text().splitlines() if " all-" in line]
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
