"""ASTER in files and on several devices; sizes, numbers and what is refused."""
# ruff: noqa: F811 (fixtures of another file)

import json
import re
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax.traverse_util import flatten_dict

from data_pipelines.charset import MAEREC_CHARACTERS, Charset
from data_pipelines.errors import UserError
from maerec_jax.config import TrainConfig
from maerec_jax.distributed.sharding import put_batch, put_whole, replicated
from maerec_jax.interop.baselines_of_shapes import aster_of
from maerec_jax.interop.encoder_weights import flip_channels
from maerec_jax.interop.import_options import ImportOptions
from maerec_jax.interop.importing import import_weights
from maerec_jax.interop.model_of_shapes import kind_of
from maerec_jax.interop.pytorch_file import write_pytorch
from maerec_jax.interop.stablehlo_file import reading_program
from maerec_jax.models.aster import ASTERConfig
from maerec_jax.models.batch_norm import is_statistic
from maerec_jax.weights.files import about_weights, run_of_metadata
from maerec_jax.weights.finding import load_weights, save_weights
from maerec_jax.weights.state_dicts import state_dict_from_params, state_dict_shapes
from tests.interop.imports import FULL_SIZE
from tests.models.test_aster import (
    CONFIG,
    READ,
    RUN,
    TEXTS,
    batch_of,
    fixture,  # noqa: F401
    image,  # noqa: F401
    params,  # noqa: F401
    state,  # noqa: F401
)
from tests.training.on_eight_devices import Run
from tests.training.processes import FORKS


def test_bfloat16_returns_float32(params, image, fixture):
    given = (params, image, fixture["padded_indexes"], jnp.ones(2), jax.random.key(0))
    loss = jax.eval_shape(partial(CONFIG.loss, dtype=jnp.bfloat16), *given)
    assert {x.dtype for x in jax.tree.leaves(loss)} == {jnp.dtype("float32")}
    reading = jax.eval_shape(partial(CONFIG.read, dtype=jnp.bfloat16), *given[:2])
    assert reading.probability_BT.dtype == jnp.float32


@pytest.mark.parametrize(("name", "value"), [("blocks", [10**6] * 5), ("image_size", [10**5] * 2)])
def test_what_a_file_says_of_itself_is_not_trusted(name, value):
    """No model is made that its tensors cannot be of."""
    run = TrainConfig(model=ASTERConfig())
    written, shapes = about_weights(run, 3), {key: shape for key, (_, shape) in state_dict_shapes(run.model).items()}
    assert run_of_metadata(written, shapes)[0].model == run.model
    about = json.loads(written)
    about["model"][name] = value
    with pytest.raises(ValueError, match=f"its {name} is larger than any of the tensors"):
        run_of_metadata(json.dumps(about), shapes)


def torch_file(path, state):
    """A file as mmengine writes it."""
    tensors = {key: torch.from_numpy(np.array(value)) for key, value in state.items()}
    counts = {key: tensors[key].long() for key in tensors if key.endswith("num_batches_tracked")}
    torch.save({"meta": {"epoch": 6}, "state_dict": tensors | counts, "message_hub": {}}, path)
    return tensors | counts


TINY = ImportOptions(characters=CONFIG.charset.characters, image_size=(40, 120), max_length=8)


def test_import_and_export_to_the_bit(state, fixture, image, tmp_path):
    original = torch_file(tmp_path / "tiny.pth", state)
    found = import_weights(tmp_path / "tiny.pth", TINY)
    assert (found.kind, found.color, found.config.model) == ("aster", "bgr", CONFIG)
    assert found.config.data.interpolation == "bilinear"
    reading = READ(found.params, image[..., ::-1])  # it reads RGB now
    assert [CONFIG.charset.decode(tokens)[0] for tokens in reading.tokens_BT] == fixture["test_texts"].tolist()
    write_pytorch(tmp_path / "again.pth", found.config, found.params, 3, released=True)
    again = torch.load(tmp_path / "again.pth", weights_only=True)["state_dict"]
    assert again.keys() == original.keys()
    for key, value in original.items():
        assert again[key].dtype == value.dtype
        assert torch.equal(again[key], value), key
    save_weights(tmp_path / "tiny.safetensors", found.config, found.params, 3)
    config, loaded, _ = load_weights(tmp_path / "tiny.safetensors")
    assert config.model == CONFIG
    for key, value in state_dict_from_params(flip_channels(loaded, CONFIG), CONFIG).items():
        np.testing.assert_array_equal(value, original[key].numpy(), key)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda state: state.pop("decoder.fc.bias"), r"missing: decoder\.fc\.bias$"),
        (lambda state: state.pop("decoder.embedding.weight"), r"decoder\.embedding\.weight is missing"),
        (lambda state: state.update({"decoder.more": np.zeros(1, np.float32)}), r"left over: decoder\.more$"),
        (
            lambda state: state.update({"decoder.fc.bias": np.zeros(3, np.float32)}),
            r"another shape: decoder\.fc\.bias \(3,\)",
        ),
        (
            lambda state: state.update({"preprocessor.tps.target_control_points": np.zeros((20, 2), np.float32)}),
            "preprocessor.tps.target_control_points .* is not the table",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(change, told, state, tmp_path):
    changed = dict(state)
    change(changed)
    torch_file(tmp_path / "tiny.pth", changed)
    with pytest.raises(UserError, match=told) as error:
        import_weights(tmp_path / "tiny.pth", TINY)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("classes", "characters"), [(94, MAEREC_CHARACTERS), (93, MAEREC_CHARACTERS[:-1])])
def test_published_characters_are_told_by_the_number_of_classes(classes, characters):
    shapes = {key: shape for key, (_, shape) in state_dict_shapes(ASTERConfig(charset=Charset(characters))).items()}
    assert shapes["decoder.embedding.weight"] == (classes, 512)
    assert kind_of(shapes) == "aster"
    found = aster_of(shapes, ImportOptions())
    assert found == ASTERConfig(charset=Charset(characters))
    assert found.charset.n_classes == classes
    for given, told in (
        ("", "37 classes, which are 34 characters .* 94 or 93: give its --char"),
        ("ab", "has 2: give"),
    ):
        with pytest.raises(ValueError, match=told):
            aster_of(shapes | {"decoder.embedding.weight": (37, 512)}, ImportOptions(characters=given))
    assert aster_of(shapes | {"decoder.embedding.weight": (5, 9)}, ImportOptions("ab")).charset == Charset("ab")


def test_full_size_is_the_published_one():
    config = ASTERConfig(charset=Charset(MAEREC_CHARACTERS[:-1]))
    params = flatten_dict(jax.eval_shape(config.init, jax.random.key(0)), sep="/")
    assert sum(x.size for path, x in params.items() if not config.frozen(path)) == 20_985_990
    parts = {"rectifier": 1_853_768, "backbone": 12_994_784, "encoder": 3_153_920, "decoder": 2_983_518}
    for part, count in parts.items():
        assert sum(x.size for path, x in params.items() if path.startswith(part) and not config.frozen(path)) == count
    if not FULL_SIZE.is_file():
        pytest.skip(f"shapes of the published models are not at ../shared/fixtures: {FULL_SIZE}")
    published = json.loads(FULL_SIZE.read_text())["aster_resnet45_6e_union14m"]["keys"]
    ours = {key: shape for key, (_, shape) in state_dict_shapes(config).items()}
    ours |= {key: value.shape for key, value in config.names().constants.items()}
    assert ours == {key: tuple(shape) for key, shape in published.items()}


def test_operations_are_counted():
    work = CONFIG.work((40, 120))
    assert work.forward > 2 * 9 * 256 * 256 * 8  # one of the rectifier's convolutions
    assert 1.5 < work.backward / work.forward < 2.1


def test_stablehlo_reads_the_same(params, image, fixture):
    weights = flatten_dict(params, sep="/")
    program = jax.export.deserialize(reading_program(CONFIG, weights, (40, 120)).serialize())
    pixels = fixture["images_uint8_bgr_nchw"].transpose(0, 2, 3, 1)
    made, expected = program.call(weights, pixels), READ(params, image)
    np.testing.assert_array_equal(made["tokens"], expected.tokens_BT)
    np.testing.assert_allclose(made["probabilities"], expected.probability_BT, atol=1e-4)


def test_every_parameter_has_one_rule_and_little_is_replicated():
    params, replicated = flatten_dict(jax.eval_shape(ASTERConfig().init, jax.random.key(0)), sep="/"), 0
    for name, leaf in params.items():
        (axes,) = [axes for pattern, axes in ASTERConfig.sharding if re.search(rf"(^|/|_)({pattern})$", name)]
        replicated += leaf.size * (axes == ())
        assert all(axis is None or side % 8 == 0 for axis, side in zip(axes, leaf.shape, strict=False)), name
    assert replicated < 0.01 * sum(leaf.size for leaf in params.values())


class Divided(Run):
    """Steps on a mesh."""

    def __init__(self, mesh):
        super().__init__(replace(RUN, batch_size=16), mesh)

    def inputs(self, step):
        image = np.random.default_rng(step).integers(0, 256, (16, 40, 120, 3), np.uint8)
        batch = batch_of(image, TEXTS * 4, np.arange(16) != 3)
        return put_batch(batch, self.mesh), put_whole(np.int32(step), replicated(self.mesh))


def find_out(out):
    """Losses, gradient norms and statistics of two steps on one device and on eight. For a process of its own."""
    jax.config.update("jax_num_cpu_devices", 8)
    found = {}
    for mesh in ("one", "fsdp"):
        run = Divided(mesh)
        state, found[mesh] = run.go(run.start(), range(2))
        flat = flatten_dict(jax.device_get(state.params), sep="/")
        found[mesh] += [flat[path].tolist() for path in sorted(flat) if is_statistic(path)]
    out.write_text(json.dumps(found))


def test_losses_and_statistics_do_not_depend_on_the_mesh(tmp_path):
    process = FORKS.Process(target=find_out, args=(tmp_path / "found.json",))
    process.start()
    process.join()
    assert process.exitcode == 0
    found = json.loads((tmp_path / "found.json").read_text())
    steps, statistics = ([found[mesh][part] for mesh in ("one", "fsdp")] for part in (slice(0, 2), slice(2, None)))
    (losses, norms), (expected_losses, expected_norms) = (np.transpose(values) for values in steps)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-4)
    # Rounding takes pixels to between others, see above.
    np.testing.assert_allclose(norms, expected_norms, rtol=1e-2)
    for one, eight in zip(*statistics, strict=True):
        np.testing.assert_allclose(one, eight, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"widths": (8, 8)}, "must be 5 each"),
        ({"max_length": 1}, "max_length 1"),
        ({"rectified_size": (64, 100)}, r"rectified_size \(64, 100\)"),
        ({"localisation_size": (32, 60)}, r"localisation_size \(32, 60\): no multiples of 32"),
        ({"decoder_dim": 0}, "decoder_dim must be above 0"),
    ],
)
def test_sizes_that_no_model_has_are_refused(changes, told):
    with pytest.raises(ValueError, match=told):
        ASTERConfig.tiny(**changes)
