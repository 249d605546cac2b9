"""SAR goes through all that models go through: files, pictures, meshes, other precisions."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax.traverse_util import flatten_dict

from data_pipelines.charset import MAEREC_CHARACTERS
from data_pipelines.errors import UserError
from maerec_jax.config import MeshConfig
from maerec_jax.distributed.sharding import batch_sharding, make_mesh, state_shardings
from maerec_jax.export import ExportArguments, export
from maerec_jax.interop.baselines_of_shapes import sar_of
from maerec_jax.interop.import_options import ImportOptions
from maerec_jax.interop.importing import import_weights
from maerec_jax.interop.model_of_shapes import kind_of
from maerec_jax.interop.stablehlo_file import reading_program
from maerec_jax.models.interface import Reading
from maerec_jax.models.sar import SARConfig
from maerec_jax.reading.recognizer import Recognizer
from maerec_jax.weights.checkpoint import load_params
from maerec_jax.weights.finding import load_weights
from maerec_jax.weights.state_dicts import state_dict_shapes
from tests.interop.imports import FULL_SIZE, imported
from tests.models.sar_reference import (
    CHARACTERS,
    FIRST,
    WIDTHS,
    assert_read,
    import_reference,
    load_reference,
    state_of,
)
from tests.training.conftest import random_params
from tests.training.processes import FORKS

PUBLISHED = "sar_resnet31_sequential-decoder_5e_union14m"


@pytest.fixture(scope="module")
def reference():
    return load_reference()


@pytest.fixture(scope="module")
def state(reference):
    return state_of(reference)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return import_reference(tmp_path_factory.mktemp("sar"))


@pytest.fixture(scope="module")
def imported_model(folder):
    """The model, and its parameters by their paths."""
    config, params, _ = load_params(folder / "run")
    return config.model, flatten_dict(params, sep="/")


def test_reading_with_all_that_belongs_to_it(reference, folder):
    """From a file to the word in a picture, and where in it its characters are."""
    recognizer = Recognizer.load(folder / "run", batch_size=1)
    image = np.ascontiguousarray(reference["images_uint8_bgr_nchw"][0].transpose(1, 2, 0)[..., ::-1])
    (word,) = recognizer.read([image])
    assert word.text == reference["test_texts"][0]
    assert recognizer.attention(recognizer.prepare(image), word).shape == (len(word.text), 3, 12)


def test_stablehlo_reads_the_same(reference, imported_model):
    config, weights = imported_model
    program = reading_program(config, weights, (24, 48))
    images = reference["images_uint8_bgr_nchw"].transpose(0, 2, 3, 1)[..., ::-1]
    made = jax.device_get(jax.export.deserialize(program.serialize()).call(weights, images, WIDTHS[:2]))
    assert_read(config.charset, Reading(made["tokens"], made["probabilities"]), reference, "test")


def test_files_come_back_to_the_bit(state, folder, imported_model):
    """As PyTorch's file that the reference takes, as one of ours, and as safetensors."""
    for name, released in (("released.pth", True), ("ours.pth", False)):
        assert export(ExportArguments("pytorch", str(folder / name), str(folder / "run"), released=released)) == 0
        found = torch.load(folder / name, weights_only=True)["state_dict"]
        assert found.keys() == state.keys()
        for key, value in state.items():
            expected = value[:, ::-1] if key == FIRST and not released else value
            assert found[key].numpy().dtype == value.dtype
            np.testing.assert_array_equal(found[key].numpy(), expected, key)
    assert export(ExportArguments("safetensors", str(folder / "ours.safetensors"), str(folder / "run"))) == 0
    config, weights = imported_model
    for name in ("released.pth", "ours.pth", "ours.safetensors"):  # they say themselves what they hold
        found = import_weights(folder / name, ImportOptions())
        assert found.config.model == config
        assert_same(flatten_dict(found.params, sep="/"), weights)
    assert_same(flatten_dict(load_weights(str(folder / "ours.safetensors"))[1], sep="/"), weights)


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_array_equal(found[path], value, path)


def test_wrong_tensors_are_told_in_a_line(state, tmp_path):
    options = {"characters": CHARACTERS, "image_size": (24, 48)}
    missing = {
        key: value for key, value in state.items() if key not in ("backbone.bn3.running_var", "encoder.linear.bias")
    }
    for wrong, told in (
        (missing, "missing: backbone.bn3.running_var, encoder.linear.bias"),
        ({**state, "decoder.extra": np.zeros(2, np.float32)}, "left over: decoder.extra"),
        (
            {**state, "decoder.embedding.weight": np.zeros((9, 20), np.float32)},
            r"decoder.embedding.weight \(9, 20\) instead",
        ),
        ({**state, "decoder.conv3x3_1.weight": np.zeros(2, np.float32)}, "conv3x3_1.weight has shape"),
        ({**state, "decoder.rnn_decoder_layer1.weight_hh": np.zeros((4, 8), np.float32)}, "decoder_dim 8 must be"),
    ):
        with pytest.raises(UserError, match=f"file.safetensors: .*{told}") as error:
            imported(wrong, tmp_path, **options)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"15 classes, which are 12 characters .* give its --characters"):
        imported(state, tmp_path)
    with pytest.raises(UserError, match="but --characters has 3: give others"):
        imported(state, tmp_path, characters="abc")
    with pytest.raises(UserError, match="has no Vision Transformer"):
        imported(state, tmp_path, encoder_only=True, **options)


def test_published_models_at_full_size():
    if not FULL_SIZE.is_file():
        pytest.skip(f"shapes of the published models are not at ../shared/fixtures: {FULL_SIZE}")
    published = json.loads(FULL_SIZE.read_text())[PUBLISHED]
    shapes = {key: tuple(shape) for key, shape in published["keys"].items()}
    assert kind_of(shapes) == "sar"
    assert sar_of(shapes, ImportOptions()) == SARConfig(cell_state="hidden")
    found = state_dict_shapes(SARConfig())
    assert {key: shape for key, (_, shape) in found.items()} == shapes
    trained = [shape for path, shape in found.values() if not SARConfig().frozen(path)]
    assert sum(map(math.prod, trained)) == published["n_params"] == 57_460_063
    without_space = {**shapes, "decoder.prediction.weight": (93, 1536)}
    assert sar_of(without_space, ImportOptions()).charset.characters == MAEREC_CHARACTERS[:-1]


def test_work_is_that_of_all_kernels():
    """Counted, and as the shapes of the kernels have it."""
    config = SARConfig.tiny()
    flat = flatten_dict(jax.eval_shape(config.init, jax.random.key(0)), sep="/")
    places = {"stem": 24 * 48, "stage2": 12 * 24, "stage3": 6 * 12, "stage4": 3 * 12, "stage5": 3 * 12, "key": 3 * 12}
    steps = config.max_length - 1
    places |= {
        "layers_": 12,
        "linear": 1,
        "lstm1": steps + 1,
        "lstm2": steps + 1,
        "query": steps,
        "prediction": steps,
        "score": 3 * 12 * steps,
    }
    forward = 2 * 2 * steps * 3 * 12 * config.channels[-1] // 2  # the glimpses
    for path, kernel in flat.items():
        if path.endswith("kernel"):
            forward += 2 * math.prod(kernel.shape) * next(n for name, n in places.items() if name in path)
    work = config.work((24, 48))
    assert work.forward == forward
    assert 1.95 * forward < work.backward < 2.05 * forward


def test_bfloat16_goes_through_losses_and_readings():
    config, dtype = SARConfig.tiny(), jnp.bfloat16
    params = jax.eval_shape(config.init, jax.random.key(0))
    image, tokens = jnp.zeros((2, 24, 48, 3)), jnp.zeros((2, 8), jnp.int32)
    loss = lambda p: config.loss(p, image, tokens, jnp.ones(2), jax.random.key(0), 0.1, dtype).total  # noqa: E731
    grads = jax.eval_shape(jax.grad(loss), params)
    assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {jnp.dtype("float32")}
    reading = jax.eval_shape(lambda p: config.read(p, image, dtype), params)
    assert reading.tokens_BT.shape == (2, 8)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"decoder_dim": 16}, "decoder_dim 16 must be encoder_dim 32"),
        ({"image_size": (32, 50)}, "must be multiples of 8 and 4"),
        ({"blocks": (1, 0, 1, 1)}, "blocks must be above 0"),
        ({"dropout": 1.0}, r"must be in \[0, 1\)"),
    ],
)
def test_sizes_that_cannot_be(changes, told):
    with pytest.raises(ValueError, match=told):
        SARConfig.tiny(**changes)


def on_eight_devices(out):
    """Losses, gradients and statistics on one device and on eight, to a file."""
    jax.config.update("jax_num_cpu_devices", 8)
    full = jax.eval_shape(SARConfig().init, jax.random.key(0))
    for sizes in ({"fsdp": 8}, {"data": 1, "fsdp": 4, "tensor": 2}):
        state_shardings(full, make_mesh(MeshConfig(**sizes)), SARConfig.sharding)
    config, rng = SARConfig.tiny(blocks=(1, 1, 1, 1)), np.random.default_rng(0)
    params = random_params(config)
    images = rng.normal(size=(16, 24, 48, 3)).astype(np.float32)
    tokens = np.stack([config.charset.encode("a1b2c3"[: 1 + i % 6], 8) for i in range(16)])
    batch = (images, tokens, np.float32(np.arange(16) != 3), np.int32(16 + 2 * np.arange(16)))

    def total(params, image, tokens, valid, width):
        loss = config.loss(params, image, tokens, valid, jax.random.key(2), width_B=width)
        return loss.total, loss

    found = {}
    for name, sizes, devices in (("one", MeshConfig(), 1), ("all", MeshConfig(data=2, fsdp=2, tensor=2), 8)):
        mesh = make_mesh(sizes, jax.devices()[:devices])
        places = (state_shardings(params, mesh, config.sharding), *[batch_sharding(mesh)] * 4)
        step = jax.jit(jax.grad(total, has_aux=True), in_shardings=places)
        grads, loss = step(*jax.device_put((params, *batch), places))
        flat = {"total": loss.total, "weight": loss.weight} | flatten_dict(loss.statistics, sep="/")
        flat |= {f"gradient/{path}": value for path, value in flatten_dict(grads, sep="/").items()}
        found |= {f"{name}:{path}": np.asarray(value) for path, value in flat.items()}
    np.savez(out, **found)


def test_losses_do_not_depend_on_the_mesh(tmp_path):
    process = FORKS.Process(target=on_eight_devices, args=(tmp_path / "found.npz",))
    process.start()
    process.join()
    assert process.exitcode == 0
    with np.load(tmp_path / "found.npz") as npz:
        found = dict(npz)
    pairs = {key[4:]: (value, found[f"all:{key[4:]}"]) for key, value in found.items() if key.startswith("one:")}
    assert {"total", "weight", "backbone/stem1/norm/variance", "gradient/decoder/score/kernel"} <= pairs.keys()
    largest = max(np.abs(one).max() for key, (one, _) in pairs.items() if key.startswith("gradient/"))
    for key, (one, several) in pairs.items():
        scale = max(np.abs(one).max(), 1e-3 * largest if key.startswith("gradient/") else 0)
        assert np.abs(one - several).max() <= 1e-4 * scale, key
