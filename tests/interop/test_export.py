"""What is exported computes what the model computes, in files that need nothing of this package to be read with."""

import errno
import json
import subprocess
import sys
import zipfile
from functools import cache

import jax
import numpy as np
import PIL.Image
import pytest

from data_pipelines.errors import UserError
from maerec_jax import Recognizer
from maerec_jax.config import DataConfig, TrainConfig
from maerec_jax.export import ExportArguments, export
from maerec_jax.interop.stablehlo_file import PLATFORMS, reading_program, write_stablehlo
from maerec_jax.models.cross_mae import CrossMAEConfig
from maerec_jax.models.greedy import greedy_read
from maerec_jax.models.interface import normalize
from maerec_jax.models.mae import MAEConfig
from maerec_jax.models.maerec import MAERec, MAERecConfig
from maerec_jax.models.vit import ViTConfig
from maerec_jax.weights.files import written_whole
from maerec_jax.weights.finding import load_weights, save_weights
from maerec_jax.weights.state_dicts import params_from_state_dict
from tests.conftest import FIXTURES, REPOSITORY
from tests.training.conftest import random_params

IMAGES = np.random.default_rng(0).integers(0, 256, (17, 32, 128, 3), np.uint8)


def fixture_state(name):
    with np.load(FIXTURES / name / "weights.npz") as npz:
        return {key.removeprefix("sd/"): value for key, value in npz.items()}


@pytest.fixture(scope="module")
def recogniser():
    """The run and the parameters of the reference's recogniser, for RGB pixels as all of ours."""
    constants = {"pixel_mean": (103.53, 116.28, 123.675), "pixel_std": (57.375, 57.12, 58.395)}
    config = MAERecConfig.tiny(encoder=ViTConfig.tiny(**constants))
    state = fixture_state("maerec_tiny")
    patches = "backbone.patch_embed.proj.weight"
    return TrainConfig(model=config), params_from_state_dict(state | {patches: state[patches][:, ::-1]}, config)


@pytest.fixture(scope="module")
def autoencoder():
    config = MAEConfig.tiny()
    return TrainConfig(model=config), params_from_state_dict(fixture_state("mae_tiny"), config)


@pytest.fixture(scope="module")
def adapted():
    """The run and the parameters of the reference's recogniser with adapters."""
    config = MAERecConfig.tiny(encoder=ViTConfig.tiny(lora_rank=4))
    return TrainConfig(model=config), params_from_state_dict(fixture_state("maerec_lora_tiny"), config)


@pytest.fixture(scope="module")
def checkpoint(recogniser, tmp_path_factory):
    """A file of the recogniser."""
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    save_weights(path, *recogniser, step=7)
    return path


@pytest.fixture(scope="module")
def buckets():
    """A recogniser of images of two sizes, with random weights and adapters, that turns portrait ones."""
    encoder = ViTConfig.tiny(position_table="grid", patch_size=(8, 8), lora_rank=4)
    config = MAERecConfig.tiny(encoder=encoder)
    params = jax.device_get(jax.jit(config.init)(jax.random.key(0)))
    for block in ("blocks_0", "blocks_1"):
        for name in ("lora_query", "lora_value"):  # at first they change nothing
            params["encoder"][block][name]["b"]["kernel"] = np.random.default_rng(0).normal(0, 0.5, (4, 2, 32))
    params = jax.tree.map(np.float32, params)
    return TrainConfig(model=config, data=DataConfig(buckets=((32, 128), (64, 64)), turn_vertical=True)), params


def reference_pixels():
    """Images of the reference's fixture whose readings end at once, later and never, and hold padding and unknowns."""
    with np.load(FIXTURES / "maerec_tiny" / "outputs.npz") as npz:
        return np.ascontiguousarray(npz["images_uint8_bgr_nchw"].transpose(0, 2, 3, 1)[..., ::-1])


@cache
def compiled(model):
    return jax.jit(lambda params, image: greedy_read(MAERec(model), params, normalize(image, model.encoder)))


def read_ours(recogniser, image_BHWC):
    config, params = recogniser
    reading = compiled(config.model)(params, image_BHWC)
    return np.asarray(reading.tokens_BT), np.asarray(reading.probability_BT)


def command(checkpoint, form, output, **options):
    return export(ExportArguments(form, str(output), str(checkpoint), **options))


def assert_same_reading(found, expected):
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_allclose(found[1], expected[1], atol=1e-5)


def test_safetensors_of_both_kinds_come_back_to_the_bit(recogniser, autoencoder, tmp_path):
    for name, (config, params) in (("reader", recogniser), ("mae", autoencoder)):
        save_weights(tmp_path / f"{name}.safetensors", config, params, 3)
        assert command(tmp_path / f"{name}.safetensors", "safetensors", tmp_path / f"{name}2.safetensors") == 0
        again, found, step = load_weights(tmp_path / f"{name}2.safetensors")
        assert (again.model, step) == (config.model, 3)
        jax.tree.map(np.testing.assert_array_equal, found, params)


def test_the_mean_of_checkpoints(recogniser, adapted, autoencoder, tmp_path):
    config, params = recogniser
    for number in (1, 2, 6):
        scaled = jax.tree.map(lambda leaf, number=number: leaf * np.float32(number), params)
        save_weights(tmp_path / f"{number}.safetensors", config, scaled, number)
    one, *others = (str(tmp_path / f"{number}.safetensors") for number in (1, 2, 6))
    assert command(one, "safetensors", tmp_path / "mean.safetensors", average=tuple(others)) == 0
    _, mean, step = load_weights(tmp_path / "mean.safetensors")
    assert step == 1
    for found, expected in zip(jax.tree.leaves(mean), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(found, 3 * expected, rtol=1e-6)
    save_weights(tmp_path / "mae.safetensors", *autoencoder, 1)
    with pytest.raises(UserError, match="are different models"):
        command(one, "safetensors", tmp_path / "none.safetensors", average=(str(tmp_path / "mae.safetensors"),))
    save_weights(tmp_path / "adapted.safetensors", *adapted, 1)
    with pytest.raises(UserError, match="works for whole models only"):
        command(tmp_path / "adapted.safetensors", "safetensors", tmp_path / "none.safetensors", average=(one,))


def test_stablehlo_reads_the_same_on_any_batch(recogniser):
    config, params = recogniser
    weights = {"/".join(k.key for k in path): value for path, value in jax.tree.leaves_with_path(params)}
    program = reading_program(config.model, weights, (32, 128))
    assert program.platforms == PLATFORMS
    again = jax.export.deserialize(program.serialize())
    images = np.concatenate([IMAGES, reference_pixels()])
    expected = read_ours(recogniser, images)
    for rows in (slice(0, 1), slice(None)):
        made = again.call(weights, images[rows])
        assert_same_reading((made["tokens"], made["probabilities"]), [part[rows] for part in expected])


@pytest.mark.parametrize("int8", [False, True])
def test_a_stablehlo_file_reads_without_this_package(checkpoint, tmp_path, int8):
    assert command(checkpoint, "stablehlo", tmp_path / "tiny.stablehlo", int8=int8) == 0
    PIL.Image.fromarray(IMAGES[0]).resize((200, 50)).save(tmp_path / "word.png")
    script = REPOSITORY / "scripts" / "read_exported.py"
    program = (
        "import sys, runpy\n"
        "sys.modules['maerec_jax'] = None\n"  # importing it fails
        f"sys.argv = ['read', 'tiny.stablehlo', 'word.png']\n"
        f"runpy.run_path({str(script)!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    from maerec_jax import ReadingConfig

    word = Recognizer.load(checkpoint, ReadingConfig(int8=int8)).read([tmp_path / "word.png"])[0]
    assert done.stdout == f"{word.confidence:6.1%}  {word.text:<24}  word.png\n"
    with zipfile.ZipFile(tmp_path / "tiny.stablehlo") as archive:
        assert archive.namelist() == ["about.json", "programs/32x128", "weights.npz"]
        about = json.loads(archive.read("about.json"))
    special = about["start_end"], about["padding"], about["unknown"]
    assert (about["characters"], special) == (MAERecConfig.tiny().charset.characters, (91, 92, 93))
    assert about["weights"] == ("int8" if int8 else "float32")


def test_stablehlo_of_buckets_has_a_program_for_each_size_with_adapters_merged(buckets, tmp_path):
    write_stablehlo(tmp_path / "two.stablehlo", *buckets, step=0)
    with zipfile.ZipFile(tmp_path / "two.stablehlo") as archive:
        assert {"programs/32x128", "programs/64x64"} < set(archive.namelist())
        program = jax.export.deserialize(bytearray(archive.read("programs/64x64")))
        with np.load(archive.open("weights.npz")) as weights:
            assert not any("lora" in name for name in weights)
            made = program.call(dict(weights), IMAGES[:3].reshape(3, 64, 64, 3))
    expected = read_ours(buckets, IMAGES[:3].reshape(3, 64, 64, 3))
    assert_same_reading((made["tokens"], made["probabilities"]), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "onnx", "output": "model.bin"}, r"model\.bin must end in \.onnx"),
        ({"form": "pytorch", "output": "model.pth", "int8": True}, "--int8 is for --format onnx or stablehlo"),
        ({"form": "onnx", "output": "model.onnx", "released": True}, "--released is for --format pytorch"),
        ({"form": "onnx", "output": "model.onnx", "dtype": "bfloat16"}, "onnx has no bfloat16"),
        ({"form": "stablehlo", "output": "m.stablehlo", "dtype": "float16"}, "stablehlo has no float16"),
    ],
)
def test_what_does_not_go_together_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        command("runs/small", **options)


def test_exported_files_are_as_readable_as_any_other(checkpoint, tmp_path):
    (tmp_path / "usual").touch()
    command(checkpoint, "safetensors", tmp_path / "tiny.safetensors")
    assert (tmp_path / "tiny.safetensors").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_after_an_error_nothing_is_left(tmp_path):
    """Whatever stood there before stays, and no half of a file beside it."""
    (tmp_path / "out").write_text("before")

    def fill_the_disk():
        with written_whole(tmp_path / "out") as fresh:
            fresh.write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match=r"out: cannot be written .*No space left"):
        fill_the_disk()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("out", "before")]


def test_where_nothing_can_be_written_nothing_is_computed(tmp_path):
    (tmp_path / "folder.stablehlo").mkdir()
    with pytest.raises(UserError, match=r"folder\.stablehlo is a folder: give the name of a file"):
        command(tmp_path / "no checkpoint", "stablehlo", tmp_path / "folder.stablehlo")


def test_mistakes_are_one_clear_line(autoencoder, checkpoint, tmp_path, monkeypatch):
    save_weights(tmp_path / "mae.safetensors", *autoencoder, step=0)
    with pytest.raises(UserError, match="is a masked autoencoder, which cannot read: fine-tune it first"):
        command(tmp_path / "mae.safetensors", "stablehlo", tmp_path / "mae.stablehlo")
    with pytest.raises(UserError, match="no such checkpoint"):
        command(tmp_path / "gone", "safetensors", tmp_path / "out.safetensors")
    config = CrossMAEConfig.tiny()
    with pytest.raises(UserError, match="a model of the kind cross_mae cannot be exported"):
        save_weights(tmp_path / "cross.safetensors", TrainConfig(model=config), random_params(config), 0)
    monkeypatch.setattr("maerec_jax.export.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs torch and onnx and onnxscript and onnxruntime: pip install -e "):
        command(checkpoint, "onnx", tmp_path / "tiny.onnx")
    with pytest.raises(UserError, match=r"needs torch: pip install -e '\.\[torch\]'"):
        command(checkpoint, "pytorch", tmp_path / "tiny.pth")
    assert not (tmp_path / "tiny.onnx").exists()
