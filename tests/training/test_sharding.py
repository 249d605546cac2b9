"""Meshes: what lies where, that losses do not depend on it, and that a run goes from one mesh to another."""

import json
import re
import shutil
from dataclasses import dataclass, replace

import jax
import numpy as np
import pytest

from data_pipelines.errors import UserError
from maerec_jax.config import MeshConfig, OptimizerConfig, differences
from maerec_jax.distributed.sharding import batch_part, make_mesh, state_shardings
from maerec_jax.models.cross_mae import CrossMAEConfig
from maerec_jax.models.mae import MAEConfig
from maerec_jax.models.maerec import MAERecConfig
from maerec_jax.models.vit import ViTConfig
from maerec_jax.training import loop
from maerec_jax.training.loop import train
from maerec_jax.training.optimizer import make_optimizer
from maerec_jax.training.run import make_task
from maerec_jax.training.step import state_shapes
from tests.training.conftest import autoencoder_config, logged, recogniser_config
from tests.training.on_eight_devices import configs, find_out
from tests.training.processes import FORKS, Processes, write_config

STAGES = ("mae", "maerec")
FULL = {
    "mae": MAEConfig.base(),
    "cross_mae": CrossMAEConfig.base(),
    "maerec": MAERecConfig.base(),
    "lora": MAERecConfig.base(encoder=ViTConfig.base(lora_rank=4)),
    "stem": MAERecConfig.base(encoder=ViTConfig.base(patch_size=(8, 8), stem="convolutions")),
    "muon": MAERecConfig.base(),
}


@dataclass(frozen=True)
class Device:
    """What a mesh wants to know of a device."""

    id: int
    process_index: int = 0
    slice_index: int = 0
    platform: str = "tests"
    device_kind: str = "tests"


def devices(count, a_process=1, slices=1):
    return [Device(i, i // a_process, i % slices) for i in range(count)]


def shapes_of(model, **changes):
    config = recogniser_config("") if model.kind == "maerec" else autoencoder_config("")
    config = replace(config, model=model, **changes)
    task = make_task(config)
    optimizer = make_optimizer(config.optimizer, lambda step: 1e-3, model.encoder.depth, task.config.frozen)
    return state_shapes(task, optimizer, config)


def by_path(tree):
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}


def run_together(function, *arguments):
    """Call a function in processes of their own at the same time, with each of the arguments; all have to succeed."""
    processes = [FORKS.Process(target=function, args=some) for some in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * len(processes)


on_one_worker = pytest.mark.xdist_group("on_eight")  # the fixture takes long


@pytest.fixture(scope="module")
def on_eight(tmp_path_factory):
    """What ``on_eight_devices.py`` found out about each kind of run."""
    folder = tmp_path_factory.mktemp("on_eight")
    files = {kind: folder / f"{kind}.json" for kind in (*configs(), "bfloat16")}
    run_together(find_out, *files.items())
    return {kind: json.loads(file.read_text()) for kind, file in files.items()}


@on_one_worker
@pytest.mark.parametrize("kind", configs())
def test_losses_and_gradients_do_not_depend_on_the_mesh(on_eight, kind):
    """Of both stages a run goes on from a checkpoint with fewer devices: two steps on 8, two on 4, two on 1."""
    found, expected = (np.array(on_eight[kind][mesh]) for mesh in ("all", "one"))
    assert len(found) == (6 if kind in STAGES else 3)
    np.testing.assert_allclose(found[:, 0], expected[:, 0], rtol=1e-5)
    np.testing.assert_allclose(found, expected, rtol=1e-4)  # gradient norms, too


@on_one_worker
@pytest.mark.parametrize("kind", STAGES)
def test_devices_hold_their_part_of_the_state(on_eight, kind):
    """Matrices, their moments and averages lie in as many parts as there are devices to divide them."""
    divided = {"one": 1, "data": 1, "fsdp": 8, "fsdp and tensor": 8, "all": 4}
    for mesh, count in divided.items():
        found = on_eight[kind]["parts"][mesh]
        for place in ("params", "ema", "opt_state/0/inner_state/1/mu", "opt_state/0/inner_state/1/nu"):
            for name in ("qkv/kernel", "proj/kernel", "fc1/kernel", "fc2/kernel"):
                whole, part, parts = found[f"{place}/encoder/blocks_0/{name}"]
                assert parts == count, (mesh, place, name)
                assert np.prod(part) * count == np.prod(whole)
            _, part, parts = found[f"{place}/encoder/blocks_0/norm1/scale"]
            assert (part, parts) == ([32], 1)
        total = sum(np.prod(part) for _, part, _ in found.values()) * 4
        assert on_eight[kind]["bytes"][mesh] == total
        assert total < 2 / count * on_eight[kind]["bytes"]["one"]  # of a small model much is replicated


@on_one_worker
def test_gradients_are_reduced_in_float32_where_activations_are_bfloat16(on_eight):
    reduced = {}
    for line in on_eight["bfloat16"]["partitioned"]:
        assert "all-to-all" not in line
        if found := re.search(r"= (\w+)\[([\d,]*)\]\S* all-reduce\(", line):
            reduced.setdefault(found[1], set()).add(found[2])
    assert {"32,64", "64,32", "32", "64"} & reduced["f32"]
    # Sums over "tensor" of a device's 4 rows are activations; without them this would not be a bfloat16 step.
    assert reduced["bf16"]
    assert all(shape.startswith("4,") for shape in reduced["bf16"])


def test_a_run_goes_from_eight_devices_to_one(pretrained, tmp_path):
    """Starting from other weights, training, validating, reading and resuming, on a mesh and off it."""
    changes = {"init_from": str(pretrained), "steps": 4, "validate_every": 2, "checkpoint_every": 2}
    one = recogniser_config(tmp_path / "one", **changes)
    train(one)
    mesh = MeshConfig(fsdp=2, tensor=2)
    many = replace(one, workdir=str(tmp_path / "many"), mesh=mesh)
    with Processes(write_config(tmp_path, many), devices=8) as run:
        assert run.wait() == [0], run.told()
        assert "on 8 cpu (data 2 x fsdp 2 x tensor 2)" in run.told()

    def assert_same():
        for name, group in (("loss", "train"), ("edit_similarity", "validation")):
            found, expected = (logged(tmp_path / run, name, group) for run in ("many", "one"))
            assert found.keys() == expected.keys()
            assert list(found.values()) == pytest.approx(list(expected.values()), rel=1e-5)
        readings = [logged(tmp_path / run, "samples", "samples")[4] for run in ("many", "one")]
        assert [s["reading"] for s in readings[0]] == [s["reading"] for s in readings[1]]

    assert_same()
    shutil.rmtree(tmp_path / "many" / "checkpoints" / "4")
    train(replace(many, mesh=MeshConfig()))
    assert_same()


def test_what_moves_to_the_device_unnoticed_stops_the_loop(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "put_batch", lambda batch, mesh: batch)
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        train(recogniser_config(tmp_path, steps=1))


@pytest.mark.parametrize("kind", FULL)
def test_every_parameter_has_one_rule_and_little_is_replicated(kind):
    params = shapes_of(FULL[kind]).params
    replicated = 0
    for name, leaf in by_path(params).items():
        (axes,) = [axes for pattern, axes in FULL[kind].sharding if re.search(rf"(^|/|_)({pattern})$", name)]
        replicated += leaf.size * (axes == ())
    assert replicated < 0.01 * sum(x.size for x in jax.tree.leaves(params))


def test_every_rule_is_of_use():
    muon = OptimizerConfig(algorithm="muon")
    names = [name for model in FULL.values() for name in by_path(shapes_of(model, optimizer=muon))]
    for pattern, _ in {rule for model in FULL.values() for rule in model.sharding}:
        assert any(re.search(rf"(^|/|_)({pattern})$", name) for name in names), pattern


def test_what_is_derived_from_a_parameter_lies_where_it_lies():
    state = shapes_of(FULL["maerec"], ema_decay=0.9)
    specs = {
        name: tuple(s.spec) for name, s in by_path(state_shardings(state, make_mesh(), MAERecConfig.sharding)).items()
    }
    params = {name.removeprefix("params/"): spec for name, spec in specs.items() if name.startswith("params/")}
    for name, spec in params.items():
        assert {found for path, found in specs.items() if path.endswith(f"/{name}")} == {spec}
        assert sum(path.endswith(f"/{name}") for path in specs) == 4  # with its average and two moments


def test_a_model_that_does_not_fit_a_mesh_is_refused():
    shapes = shapes_of(MAERecConfig.small())
    for sizes, told in (
        (
            {"tensor": 4},
            r"mesh\.tensor 4 does not divide the 6 of params/encoder/blocks_0/\w+/\w+ \(.* numbers of heads",
        ),
        ({"fsdp": 5}, r"mesh\.fsdp 5 does not divide the 384 of .* fsdp the widths"),
    ):
        mesh = make_mesh(MeshConfig(**sizes), devices(20))
        with pytest.raises(UserError, match=told):
            state_shardings(shapes, mesh, MAERecConfig.sharding)
    with pytest.raises(ValueError, match=r"no rule .* says how encoder/adapter \(3, 4\)"):
        state_shardings({"encoder": {"adapter": np.zeros((3, 4))}}, make_mesh(), MAERecConfig.sharding)
    unlike = {"encoder": {"blocks_0": {"fc1": {"kernel": np.zeros((3, 4, 5))}}}}
    with pytest.raises(ValueError, match="has 2 axes, not 3"):
        state_shardings(unlike, make_mesh(), MAERecConfig.sharding)


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ({"fsdp": 3}, r"slices 1 x data -1 x fsdp 3 x tensor 1 do not fit 8 devices"),
        ({"data": 4}, r"data 4 .* do not fit 8 devices"),
        ({"fsdp": 16}, r"fsdp 16 .* do not fit 8 devices"),
        ({"slices": 2}, r"mesh\.slices is 2, but the devices belong to 1 slice"),
    ],
)
def test_meshes_that_do_not_fit_the_devices_are_refused(sizes, told):
    with pytest.raises(UserError, match=told):
        make_mesh(MeshConfig(**sizes), devices(8))


def test_sizes_of_a_mesh_are_checked(tmp_path):
    for sizes in ({"data": 0}, {"fsdp": 0}, {"tensor": -1}, {"slices": 0}):
        with pytest.raises(ValueError, match=r"mesh\.\w+ must be at least 1"):
            MeshConfig(**sizes)
    config = recogniser_config(tmp_path / "run", mesh=MeshConfig(fsdp=2))
    with pytest.raises(UserError, match="do not fit 1 device"):
        train(config)
    assert not (tmp_path / "run").exists()
    assert differences(config, replace(config, mesh=MeshConfig(tensor=2, slices=4))) == []


def test_slices_come_first_and_neighbours_are_next_to_each_other():
    mesh = make_mesh(MeshConfig(fsdp=2, tensor=2, slices=2), devices(16, slices=2))
    assert dict(mesh.shape) == {"data": 4, "fsdp": 2, "tensor": 2}
    slices = np.vectorize(lambda device: device.slice_index)(mesh.devices)
    np.testing.assert_array_equal(slices, np.repeat([0, 0, 1, 1], 4).reshape(4, 2, 2))


def test_each_process_reads_the_rows_of_its_devices():
    whole = make_mesh(MeshConfig(), devices(8, a_process=2))
    assert [batch_part(whole, process) for process in range(4)] == [(0, 4), (1, 4), (2, 4), (3, 4)]
    shared = make_mesh(MeshConfig(fsdp=2, tensor=4), devices(8, a_process=2))
    assert [batch_part(shared, process) for process in range(4)] == [(0, 2), (0, 2), (1, 2), (1, 2)]
    alone = make_mesh(MeshConfig(tensor=8), devices(8, a_process=2))
    assert {batch_part(alone, process) for process in range(4)} == {(0, 1)}
    uneven = make_mesh(MeshConfig(tensor=2), devices(6, a_process=3))
    with pytest.raises(UserError, match="processes would share a part of their rows"):
        batch_part(uneven, 0)
