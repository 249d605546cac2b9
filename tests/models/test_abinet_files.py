"""ABINet in files and on several devices; sizes, numbers and what is refused."""
# ruff: noqa: F811 (fixtures of another file)

import json
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from jax.sharding import AbstractMesh

from data_pipelines.charset import MAEREC_CHARACTERS, Charset
from data_pipelines.errors import UserError
from maerec_jax.config import DataConfig, MeshConfig, OptimizerConfig, TrainConfig
from maerec_jax.distributed.sharding import AXES, gather, make_mesh, put_batch, put_whole, state_shardings
from maerec_jax.interop.baselines_of_shapes import abinet_of
from maerec_jax.interop.import_options import ImportOptions
from maerec_jax.interop.importing import import_weights
from maerec_jax.interop.stablehlo_file import reading_program
from maerec_jax.models.abinet import ABINetConfig, LanguageConfig
from maerec_jax.models.interface import normalize
from maerec_jax.reading.recognizer import Recognizer
from maerec_jax.training.optimizer import make_optimizer
from maerec_jax.training.run import make_task
from maerec_jax.training.starting import with_characters
from maerec_jax.training.step import StepSettings, initial_state, loss_gradients, make_train_step
from maerec_jax.weights.files import about_weights, run_of_metadata
from maerec_jax.weights.finding import save_weights
from maerec_jax.weights.state_dicts import (
    name_table,
    params_from_state_dict,
    state_dict_from_params,
    state_dict_shapes,
)
from tests.interop.imports import FULL_SIZE, assert_same, imported, run
from tests.interop.pth_files import save_pth
from tests.models.test_abinet import (
    CONFIG,
    LETTERS,
    OPTIONS,
    PUBLISHED,
    close,
    images_of,
    params_of,
    reference,  # noqa: F401
    state_of,
)
from tests.training.conftest import random_params
from tests.training.processes import FORKS


def test_position_tables_and_names(reference):
    """All go back bit by bit, also tables that are computed."""
    state = state_of(reference)
    back = state_dict_from_params(params_from_state_dict(state, CONFIG), CONFIG)
    table = "encoder.pos_encoder.position_table"
    assert back.keys() == state.keys() | {table}
    assert reference["formula_keys"].tolist() == [table]
    assert back[table].shape == (1, 128, 16)
    close(np.abs(back[table].astype(float)).sum(), reference["formula_abs_sums"][0], table, 1e-8)
    for key, value in state.items():
        assert np.asarray(value).dtype.kind == back[key].dtype.kind, key
        np.testing.assert_array_equal(back[key], value, key)


@pytest.mark.parametrize("name", PUBLISHED)
def test_full_size(name):
    """The published keys, shapes and numbers of parameters; and every mesh that their widths allow."""
    if not FULL_SIZE.is_file():
        pytest.skip(f"no {FULL_SIZE}")
    model, published = PUBLISHED[name], json.loads(FULL_SIZE.read_text())[name]
    shapes = {key: shape for key, (_, shape) in state_dict_shapes(model).items()}
    shapes |= {key: table.shape for key, table in name_table(model).constants.items()}
    assert shapes == {key: tuple(shape) for key, shape in published["keys"].items()}
    params = jax.eval_shape(model.init, jax.random.key(0))
    trained = [x.size for path, x in flatten_dict(params, sep="/").items() if not model.frozen(path)]
    assert sum(trained) == published["n_params"]
    for sizes in ((1, 8, 1), (1, 1, 8), (1, 4, 2)):
        state_shardings(params, AbstractMesh(sizes, AXES), model.sharding)
    config, *_ = run_of_metadata(about_weights(TrainConfig(model=model), 0), shapes)
    assert config.model == model


WORDS = ("b", "a1", "dab#", "cab 12")


def batch_of(model, words, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (len(words), *model.image_size, 3), np.uint8)
    tokens = np.stack([model.charset.encode(word, model.max_length) for word in words])
    return {"image": images, "tokens": tokens, "valid": np.ones(len(words), bool)}


def test_one_batch_is_learnt_by_heart():
    model = ABINetConfig.tiny(
        language=LanguageConfig(1, 2), dropout=0.0, max_length=8, image_size=(32, 64), charset=CONFIG.charset
    )
    batch = batch_of(model, WORDS)
    config = TrainConfig(model=model, batch_size=len(WORDS), optimizer=OptimizerConfig(weight_decay=0.0))
    task, optimizer = make_task(config), make_optimizer(config.optimizer, lambda step: 3e-3, 0, model.frozen)
    step = jax.jit(make_train_step(task, optimizer, StepSettings.of(config)))
    state = initial_state(jax.jit(model.init)(jax.random.key(0)), optimizer, bool(config.ema_decay))
    for number in range(100):
        state, told = step(state, batch, jnp.int32(number))
    assert told["loss"] < 0.1
    assert told["character_accuracy"] == 1
    assert state.params["backbone"]["stem"]["norm"]["count"] == 100
    reading = jax.jit(model.read)(state.params, normalize(batch["image"], model))
    assert tuple(model.charset.decode(tokens)[0] for tokens in reading.tokens_BT) == WORDS


def on_meshes(out):
    """Write the loss, the gradients' sums of squares and the statistics on meshes. In a process that has 8 devices."""
    jax.config.update("jax_num_cpu_devices", 8)
    model = ABINetConfig.tiny(
        language=LanguageConfig(1, 2), heads=2, max_length=8, image_size=(32, 64), charset=CONFIG.charset
    )
    task, params, batch = make_task(TrainConfig(model=model)), random_params(model), batch_of(model, WORDS * 4)
    batch["valid"][3] = False
    found = {}
    for name, sizes, devices in (("one", MeshConfig(), 1), ("eight", MeshConfig(data=1, fsdp=4, tensor=2), 8)):
        mesh = make_mesh(sizes, jax.devices()[:devices])
        shardings = state_shardings(params, mesh, model.sharding)

        @jax.jit
        def numbers(params, batch, shardings=shardings):
            gradients, weight, sums, statistics = loss_gradients(
                task, params, batch, jax.random.key(0), partial(gather, shardings=shardings)
            )
            leaves = jax.tree.leaves((gradients, statistics))
            return [weight, *sums.values(), *(jnp.square(leaf).sum() for leaf in leaves)]

        found[name] = [float(number) for number in numbers(put_whole(params, shardings), put_batch(batch, mesh))]
    out.write_text(json.dumps(found))


def test_losses_and_statistics_do_not_depend_on_the_mesh(tmp_path):
    process = FORKS.Process(target=on_meshes, args=(tmp_path / "found.json",))
    process.start()
    process.join()
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found["one"]) > 150
    assert found["one"][0] == 15 + sum(map(len, WORDS * 4)) - len(WORDS[3])
    np.testing.assert_allclose(found["eight"], found["one"], rtol=1e-3, atol=1e-9)
    np.testing.assert_allclose(found["eight"][:3], found["one"][:3], rtol=1e-5)


def test_import_of_a_released_file(reference, tmp_path, capsys):
    """Read like the reference, and exported again bit by bit."""
    state = {name: np.array(value) for name, value in state_of(reference).items()}
    whole = {name: value.astype(int) if value.dtype.kind == "i" else value for name, value in state.items()}
    save_pth(tmp_path / "file.pth", {"meta": {"epoch": 10}, "state_dict": whole, "optimizer": {"state": {}}})
    flags = ["--encoder-heads=4", f"--characters={CONFIG.charset.characters}", "--image-size", "32", "64"]
    assert run(tmp_path / "file.pth", tmp_path / "run", *flags) == 0
    told = capsys.readouterr().out
    for part in (
        "ABINet, recogniser",
        "BGR in the file; flipped to RGB",
        "103.53 116.28 123.675",
        "position_table is computed",
    ):
        assert part in told
    words = Recognizer.load(tmp_path / "run", batch_size=2).read(images_of(reference))
    assert [word.text for word in words] == reference["test_texts"].tolist()

    found = import_weights(tmp_path / "file.pth", ImportOptions(**OPTIONS))
    assert found.config.model == replace(CONFIG, dropout=0.1)
    assert found.config.data.interpolation == "bilinear"
    torch = pytest.importorskip("torch")
    from maerec_jax.interop.pytorch_file import write_pytorch

    write_pytorch(tmp_path / "out.pth", found.config, found.params, 0, released=True)
    back = torch.load(tmp_path / "out.pth")["state_dict"]
    assert back.keys() == state.keys() | {"encoder.pos_encoder.position_table"}
    for key in state:
        np.testing.assert_array_equal(back[key].numpy(), whole[key], key)
    save_weights(tmp_path / "out.safetensors", found.config, found.params, 0)
    for name in ("out.pth", "out.safetensors"):
        again = import_weights(tmp_path / name, ImportOptions())
        assert again.config.model == found.config.model
        assert_same(again.params, found.params)


@pytest.mark.parametrize(
    ("change", "options", "told"),
    [
        ({"decoder.w_att.bias": None}, {}, r"missing: decoder\.w_att\.bias"),
        ({"backbone.layer2.0.bn1.running_var": None}, {}, r"missing: backbone\.layer2\.0\.bn1\.running_var"),
        ({"decoder.vision_decoder.cls.weight": None}, {}, r"decoder\.vision_decoder\.cls\.weight is missing"),
        ({"decoder.extra": (3,)}, {}, r"left over: decoder\.extra"),
        ({"backbone.bn1.bias": (5,)}, {}, r"of another shape: backbone\.bn1\.bias \(5,\) instead of \(4,\)"),
        ({"backbone.conv1.weight": (4, 1, 3, 3)}, {}, "images of 1 channels, not 3"),
        ({"encoder.pos_encoder.position_table": (1, 128, 16)}, {}, "is not the table"),
        ({"encoder.pos_encoder.position_table": (1, 128, 16)}, {"image_size": None}, "128 places: give --image-size"),
        ({}, {"characters": ""}, "cls has 15 classes, which are 12 characters .* 94, 93 or 37: give its --characters"),
        (
            {},
            {"characters": "abc"},
            "15 classes, which are 12 characters .* or 14 with the end alone, but --characters has 3: give others",
        ),
        ({}, {"characters": "aa"}, "--characters: a charset needs each character once"),
        ({}, {"encoder_heads": 3}, "3 attention heads do not divide the width 16: give --encoder-heads"),
        ({}, {"encoder_only": True}, "no Vision Transformer, which --encoder-only is about"),
    ],
)
def test_wrong_files_and_flags_are_one_line(reference, change, options, told, tmp_path):
    state = {name: np.array(value) for name, value in state_of(reference).items() if change.get(name, "") is not None}
    state |= {name: np.zeros(shape, np.float32) for name, shape in change.items() if shape}
    with pytest.raises(UserError, match=told) as error:
        imported(state, tmp_path, **{**OPTIONS, **options})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("classes", "characters", "end_only"),
    [(94, MAEREC_CHARACTERS, False), (93, MAEREC_CHARACTERS[:-1], False), (37, LETTERS.characters, True)],
)
def test_published_numbers_of_classes(reference, classes, characters, end_only):
    shapes = {name: np.shape(value) for name, value in state_of(reference).items()}
    shapes["decoder.vision_decoder.cls.weight"] = (classes, 16)
    found = abinet_of(shapes, ImportOptions(encoder_heads=4))
    charset = Charset(characters, lower_case=end_only)
    assert found == replace(CONFIG, charset=charset, end_only=end_only, dropout=0.1, image_size=(32, 128))
    assert found.n_classes == classes


def test_characters_go_on_to_a_model_with_the_end_alone():
    """The rows of characters and of the end are those of the other model, however many classes it has beside them."""
    one = replace(CONFIG, charset=Charset("abc"), end_only=True)
    two = replace(one, charset=Charset("cdb"))
    params = random_params(one)
    found, new = with_characters(params, one.character_tables, one.charset, two.charset)
    assert new == {"d": ""}
    before, after = (p["language"]["embedding"]["kernel"] for p in (params, found))
    np.testing.assert_array_equal(after[[0, 2, 3]], before[[2, 1, 3]])
    assert flatten_dict(found).keys() == flatten_dict(params).keys()
    with pytest.raises(ValueError, match=r"data\.unknown_characters keep needs a class"):
        TrainConfig(model=one, data=DataConfig(unknown_characters="keep"))


def test_exported_programs_read_the_same(reference):
    weights = flatten_dict(params_of(reference), sep="/")
    images = np.concatenate([images_of(reference)] * 2)[:3]
    made = reading_program(CONFIG, weights, (32, 64)).call(weights, images)
    expected = jax.jit(CONFIG.read)(params_of(reference), normalize(images, CONFIG))
    np.testing.assert_array_equal(made["tokens"], expected.tokens_BT)
    np.testing.assert_allclose(made["probabilities"], expected.probability_BT, rtol=1e-5)


def test_logits_and_gradients_are_float32_in_other_computations():
    def total(params, images):
        loss = CONFIG.loss(params, images, jnp.zeros((2, 8), int), jnp.ones(2), jax.random.key(0), 0.1, jnp.bfloat16)
        return loss.total, CONFIG.module(jnp.bfloat16).apply({"params": params}, images)

    params, images = jax.eval_shape(CONFIG.init, jax.random.key(0)), jax.ShapeDtypeStruct((2, 32, 64, 3), jnp.float32)
    gradients, logits = jax.eval_shape(jax.grad(total, has_aux=True), params, images)
    assert {leaf.dtype for leaf in jax.tree.leaves((gradients, logits))} == {jnp.dtype("float32")}


def test_sizes_that_no_model_has():
    for change, told in (
        ({"widths": (1, 2, 4, 8, 8)}, "must be dim"),
        ({"heads": 3}, "a multiple of heads"),
        ({"image_size": (32, 96)}, "multiples of 32 and 64"),
        ({"blocks": (1, 1, 1, 1, 0)}, "blocks must be above 0"),
        ({"dropout": 1.0}, "dropout"),
        ({"max_length": 1}, "max_length 1 must be at least 2"),
    ):
        with pytest.raises(ValueError, match=told):
            replace(CONFIG, **change)


def test_work_is_counted_once():
    model = ABINetConfig.tiny(language=LanguageConfig(1, 2), image_size=(32, 64))
    work = model.work((32, 64))
    assert model.work((32, 64)) is work
    more = replace(model, language=LanguageConfig(1, 3)).work((32, 64))
    blocks = 2 * 26 * 32 * (4 * 32 + 2 * 64) + 4 * 26 * 26 * 32
    linear = 2 * 26 * (94 * 32 + 32 * 94) + 2 * 26 * (64 * 32 + 32 * 94)
    assert more.forward - work.forward == blocks + linear
