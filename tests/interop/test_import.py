"""Imported weights are the file's, bit for bit, read the same texts, and whatever does not fit is told by name."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from data_pipelines.charset import MAEREC_CHARACTERS
from data_pipelines.errors import UserError
from maerec_jax import train
from maerec_jax.config import TrainConfig, to_json
from maerec_jax.interop.import_options import ImportOptions
from maerec_jax.interop.importing import import_weights
from maerec_jax.interop.state_dict_checks import grouped
from maerec_jax.models.lora import merge_lora
from maerec_jax.models.mae import MAEConfig
from maerec_jax.models.maerec import MAERecConfig
from maerec_jax.models.names.transformer import POSITION_BUFFER
from maerec_jax.reading.recognizer import Recognizer
from maerec_jax.training.starting import merge_params, misfits
from maerec_jax.weights.checkpoint import load_params, write_run
from maerec_jax.weights.files import about_weights
from maerec_jax.weights.finding import save_weights
from maerec_jax.weights.state_dicts import params_from_state_dict, state_dict_from_params
from tests.interop.imports import FIXTURES, PATCHES, SIZES, TINY, assert_same, imported, run, state_of
from tests.interop.pth_files import save_pth
from tests.training.conftest import random_params, recogniser_config


@pytest.mark.parametrize("name", ["maerec_tiny", "maerec_lora_tiny"])
def test_released_recognisers_read_the_same_texts(name, tmp_path, capsys):
    """From the reference's BGR files to our run: its texts of its images, which are given as RGB here."""
    state = state_of(name)
    content = {"meta": {"epoch": 10}, "state_dict": {f"module.{key}": value for key, value in state.items()}}
    save_pth(tmp_path / "file.pth", content)
    assert run(tmp_path / "file.pth", tmp_path / "run", *TINY) == 0
    told = capsys.readouterr().out
    for part in (
        "recogniser",
        "64 wide, 2 blocks, 2 heads",
        "BGR in the file",
        "103.53 116.28 123.675",
        "'module.'",
        "meta",
    ):
        assert part in told
    assert ("adapters of rank 4 are merged" in told) == (name == "maerec_lora_tiny")
    with np.load(FIXTURES / name / "outputs.npz") as expected:
        images = np.ascontiguousarray(expected["images_uint8_bgr_nchw"].transpose(0, 2, 3, 1)[..., ::-1])
        words = Recognizer.load(tmp_path / "run", batch_size=8).read(images)
        assert [word.text for word in words] == expected["pred_texts"].tolist()
        for word, scores in zip(words, expected["pred_scores_nanpadded"], strict=True):
            np.testing.assert_allclose(word.character_confidences, scores[~np.isnan(scores)], rtol=1e-4)


def test_adapters_can_be_kept(tmp_path):
    state = state_of("maerec_lora_tiny")
    kept = imported(state, tmp_path, merge_lora=False, color="rgb", **SIZES)
    assert kept.config.model.encoder.lora_rank == 4
    found = state_dict_from_params(kept.params, kept.config.model)
    assert found.keys() == state.keys()
    for name in found:
        np.testing.assert_array_equal(found[name], state[name], name)
    merged = imported(state, tmp_path, color="rgb", **SIZES)
    assert_same(merged.params, merge_lora(kept.config.model, kept.params)[1])
    assert merged.config.model.encoder.lora_rank == 0


def test_copies_of_adapters_that_differ(tmp_path):
    state = state_of("maerec_lora_tiny")
    inside, outside = "backbone.vit.blocks.1.attn.qkv.linear_a_v.weight", "backbone.value_As.1.weight"
    found = imported({**state, inside: state[inside] + 1}, tmp_path, merge_lora=False, **SIZES)
    assert_same(found.params, imported(state, tmp_path, merge_lora=False, **SIZES).params)
    assert f"copies differ, and the first counts: {outside}, {inside}" in found.notes
    del state[outside]
    found = imported(state, tmp_path, **SIZES)
    assert f"one of two copies is missing: {outside}" in found.notes


def test_autoencoders(tmp_path):
    """Bit by bit, and fine-tuning takes all of the encoder."""
    state = state_of("mae_tiny")
    save_pth(tmp_path / "file.pth", {"model": state, "optimizer": {"state": {}}, "epoch": 3})
    assert run(tmp_path / "file.pth", tmp_path / "run", "--encoder-heads=2", "--decoder-heads=2") == 0
    config, params, step = load_params(tmp_path / "run")
    assert step == 0
    assert (config.model, config.data.interpolation) == (MAEConfig.tiny(), "bicubic")
    assert_same(params, params_from_state_dict(state, MAEConfig.tiny()))
    recogniser = MAERecConfig.tiny()
    fresh = random_params(recogniser)
    _, missing, _ = merge_params(fresh, params, misfits(config.model, recogniser))
    assert {path.split("/")[0] for path in missing} == {"decoder"}


@pytest.mark.parametrize("kind", ["mae", "maerec"])
def test_pixels_of_other_orders(kind, tmp_path):
    """What the encoder makes of a picture does not depend on the order of the channels in the file."""
    state, key = state_of(f"{kind}_tiny"), PATCHES if kind == "mae" else f"backbone.{PATCHES}"
    sizes = {**SIZES, "decoder_heads": 2}
    mean, std = (10.0, 20.0, 30.0), (40.0, 50.0, 60.0)
    rgb = imported(state, tmp_path, color="rgb", pixel_mean=mean, pixel_std=std, **sizes)
    assert (rgb.config.model.encoder.pixel_mean, rgb.config.model.encoder.pixel_std) == (mean, std)
    flipped = {**state, key: np.ascontiguousarray(state[key][:, ::-1])}
    if kind == "mae":
        for name in ("decoder_pred.weight", "decoder_pred.bias"):
            pixels = flipped[name].reshape(16, 3, *flipped[name].shape[1:])
            flipped[name] = np.ascontiguousarray(pixels[:, ::-1].reshape(flipped[name].shape))
    bgr = imported(flipped, tmp_path, color="bgr", pixel_mean=mean[::-1], pixel_std=std[::-1], **sizes)
    assert bgr.config == rgb.config
    assert_same(bgr.params, rgb.params)


def test_our_own_files_say_what_they_hold(tmp_path):
    """No flag is needed: sizes, characters and pixel scale come from the metadata."""
    config = recogniser_config("")
    params = random_params(config.model)
    save_weights(tmp_path / "own.safetensors", config, params, 7)
    found = import_weights(tmp_path / "own.safetensors", ImportOptions())
    assert found.config.model == config.model
    assert_same(found.params, params)


def own_file(tmp_path, change=lambda about: None):
    """A file of a small recogniser, and what it says of itself after a change."""
    state, config = state_of("maerec_tiny"), recogniser_config("")
    about = json.loads(about_weights(config, 7))
    change(about)
    save_file(state, tmp_path / "own.safetensors", {"maerec_jax": json.dumps(about)})
    return tmp_path / "own.safetensors"


@pytest.mark.parametrize(
    "options",
    [{"characters": "abc"}, {"max_length": 9}, {"color": "bgr"}, {"pixel_mean": (1.0,) * 3}, {"image_size": (32, 64)}],
)
def test_our_own_files_are_not_contradicted(options, tmp_path):
    flag = next(iter(options)).replace("_", "-")
    with pytest.raises(UserError, match=f"already says what it holds: leave out --{flag}"):
        import_weights(own_file(tmp_path), ImportOptions(**options))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda about: about["model"]["encoder"].update(depth=10**9), "its depth is larger than any"),
        (lambda about: about["model"]["encoder"].update(image_size=[4 * 10**6] * 2), "its image_size is larger"),
        (lambda about: about.pop("model"), "KeyError: 'model'"),
        (lambda about: about.update(model=3), "own.safetensors: not of this version: model: "),
        (lambda about: about.update(base={}), "holds adapters: give it to predict or evaluate as --adapters"),
    ],
)
def test_what_a_file_says_of_itself_is_not_trusted(change, told, tmp_path):
    """No model is made that its tensors cannot be of."""
    with pytest.raises(UserError, match=told) as error:
        import_weights(own_file(tmp_path, change), ImportOptions())
    assert "\n" not in str(error.value)


def test_numbers_in_names_make_no_model_large(tmp_path):
    state = state_of("maerec_tiny")
    state["backbone.blocks.1000000000.norm1.bias"] = state["backbone.norm.bias"]
    with pytest.raises(UserError, match=r"left over: backbone\.blocks\.1000000000\.norm1\.bias"):
        imported(state, tmp_path, **SIZES)


@pytest.mark.parametrize("dtype", [np.float16, jax.numpy.bfloat16])
def test_recognisers_in_half_precision(dtype, tmp_path):
    """Their position table is rounded, too."""
    state = {name: value.astype(dtype) for name, value in state_of("maerec_tiny").items()}
    found = imported(state, tmp_path, color="rgb", **SIZES)
    rounded = {name: value.astype(np.float32) for name, value in state.items()}
    assert_same(found.params, params_from_state_dict(rounded, found.config.model))


@pytest.mark.parametrize("name", ["mae_tiny", "maerec_tiny", "maerec_lora_tiny"])
@pytest.mark.parametrize("form", ["safetensors", "pytorch", "released"])
def test_what_is_exported_comes_back(name, form, tmp_path):
    """Parameter by parameter, bit by bit; sizes and pixels are those that the file names."""
    pixels = {"pixel_mean": (1.0, 2.0, 3.0), "pixel_std": (4.0, 5.0, 6.0), "color": "rgb"} if form != "released" else {}
    sizes = {**SIZES, "decoder_heads": 2 if name == "mae_tiny" else 4}
    first = imported(state_of(name), tmp_path, merge_lora=False, **pixels, **sizes)
    output = tmp_path / ("out.safetensors" if form == "safetensors" else "out.pth")
    if form == "safetensors":
        save_weights(output, first.config, first.params, 0)
    else:
        from maerec_jax.interop.pytorch_file import write_pytorch

        write_pytorch(output, first.config, first.params, 0, form == "released")
    again = import_weights(output, ImportOptions(merge_lora=False))
    assert again.config.model == first.config.model
    assert_same(again.params, first.params)


def test_all_that_does_not_fit_is_named(tmp_path):
    state = state_of("mae_tiny")
    state = {name: value for name, value in state.items() if not name.endswith("norm2.bias")}
    state["blocks.0.ls1.gamma"] = state["blocks.1.ls1.gamma"] = state["norm.bias"]
    state["norm.weight"] = np.zeros(3, np.float32)
    with pytest.raises(UserError) as error:
        imported(state, tmp_path, encoder_heads=2, decoder_heads=2)
    told = str(error.value)
    assert "\n" not in told
    for part in (
        "file.safetensors: ",
        "missing: ",
        "blocks.{0-1}.norm2.bias",
        "decoder_blocks.0.norm2.bias",
        "left over: blocks.{0-1}.ls1.gamma",
        "of another shape: norm.weight (3,) instead of (64,)",
    ):
        assert part in told


@pytest.mark.parametrize(
    ("change", "options", "told"),
    [
        ({}, {"encoder_heads": 3}, "3 attention heads do not divide the width 64: give --encoder-heads"),
        ({}, {"decoder_heads": 3}, "give --decoder-heads"),
        ({}, {"characters": "abc"}, "94 classes, which are 91 characters .* --characters has 3"),
        ({}, {"characters": "a" * 91}, "needs each character once"),
        ({"backbone.pos_embed": (1, 103, 64)}, {}, "pos_embed is for 102 patches.*--image-size"),
        ({"backbone.pos_embed": (1, 101, 64)}, {"image_size": (32, 128)}, r"\(1, 101, 64\) instead of \(1, 257, 64\)"),
        ({POSITION_BUFFER: (1, 200, 64)}, {}, "position_table .* is not the table .* that the model computes"),
        ({"decoder.classifier.weight": (40, 64)}, {}, "40 classes, which are 37 .* give its --characters"),
        ({f"backbone.{PATCHES}": (64, 1, 4, 4)}, {}, "images of 1 channels"),
        ({f"backbone.{PATCHES}": (64, 3)}, {}, "instead of 4 dimensions"),
    ],
)
def test_wrong_files_and_flags_are_one_clear_line(change, options, told, tmp_path):
    state = state_of("maerec_tiny") | {name: np.zeros(shape, np.float32) for name, shape in change.items()}
    with pytest.raises(UserError, match=told) as error:
        imported(state, tmp_path, **{**SIZES, **options})
    assert "\n" not in str(error.value)


def test_other_models_are_not_guessed_at(tmp_path):
    with pytest.raises(UserError, match=r"neither an autoencoder.*2 tensors such as conv\.weight"):
        imported({"conv.weight": np.zeros(3, np.float32), "fc.bias": np.zeros(3, np.float32)}, tmp_path)


def test_numbers_of_other_types(tmp_path):
    state = state_of("mae_tiny")
    halves = imported({k: v.astype(np.float16) for k, v in state.items()}, tmp_path, encoder_heads=2, decoder_heads=2)
    expected = {name: value.astype(np.float16).astype(np.float32) for name, value in state.items()}
    assert_same(halves.params, params_from_state_dict(expected, MAEConfig.tiny()))
    assert any("float16" in note for note in halves.notes)
    state["norm.bias"] = state["norm.bias"].astype(np.int32)
    with pytest.raises(UserError, match=r"no floating-point numbers: norm.bias \(int32\)"):
        imported(state, tmp_path, encoder_heads=2, decoder_heads=2)


@pytest.mark.parametrize("value", [np.full(64, np.nan, np.float32), np.float16([np.inf] * 64), np.full(64, 1e300)])
def test_numbers_that_are_none_are_refused(value, tmp_path, capsys):
    """Also those that float32 cannot hold; and checkpoints of which earlier versions made runs."""
    state = state_of("mae_tiny") | {"norm.bias": value}
    save_file(state, tmp_path / "file.safetensors")
    heads = ("--encoder-heads=2", "--decoder-heads=2")
    told = refused(run(tmp_path / "file.safetensors", tmp_path / "run", *heads), capsys)
    assert "file.safetensors: NaN or infinity in norm.bias: use weights from before training failed" in told
    assert not (tmp_path / "run").exists()
    with np.errstate(over="ignore"):
        params = params_from_state_dict({**state, "norm.bias": np.float32(value)}, MAEConfig.tiny())
    write_run(TrainConfig(model=MAEConfig.tiny(), workdir=str(tmp_path / "old")), params)
    with pytest.raises(UserError, match="old: checkpoint 0: encoder/blocks_norm/bias has NaN or infinity"):
        load_params(tmp_path / "old")


@pytest.mark.parametrize("form", ["lines", "line", "string"])
def test_characters(form, tmp_path):
    given = MAEREC_CHARACTERS[::-1]
    if form != "string":
        (tmp_path / "dictionary.txt").write_text("\n".join(given) + "\n" if form == "lines" else given, "utf-8")
    options = {**SIZES, "characters": given if form == "string" else str(tmp_path / "dictionary.txt")}
    assert imported(state_of("maerec_tiny"), tmp_path, **options).config.model.charset.characters == given
    (tmp_path / "dictionary.txt").write_text("a\nbc\nd\n")
    with pytest.raises(UserError, match=r"dictionary.txt:2: 'bc' is not one character"):
        imported(state_of("maerec_tiny"), tmp_path, characters=str(tmp_path / "dictionary.txt"))


def test_cut_safetensors(tmp_path):
    save_file(state_of("mae_tiny"), tmp_path / "file.safetensors")
    data = (tmp_path / "file.safetensors").read_bytes()
    for size in (0, 5, 2000, len(data) - 1):
        (tmp_path / "file.safetensors").write_bytes(data[:size])
        with pytest.raises(UserError, match=r"file.safetensors: is it truncated"):
            import_weights(tmp_path / "file.safetensors", ImportOptions())


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """An imported autoencoder. Not to be changed."""
    folder = tmp_path_factory.mktemp("imported")
    save_file(state_of("mae_tiny"), folder / "file.safetensors")
    assert run(folder / "file.safetensors", folder / "run", "--encoder-heads=2", "--decoder-heads=2") == 0
    return folder / "run"


def refused(status, capsys):
    assert status != 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


def test_nothing_is_overwritten(workdir, tmp_path, capsys):
    before = sorted((path, path.stat().st_mtime_ns) for path in workdir.rglob("*"))
    assert f"{workdir} exists and is not an empty folder" in refused(
        run(workdir.parent / "file.safetensors", workdir), capsys
    )
    with pytest.raises(UserError, match="not an empty folder"):
        write_run(TrainConfig(model=MAEConfig.tiny(), workdir=str(workdir)), {})
    (tmp_path / "small.json").write_text(to_json(recogniser_config("")))
    (tmp_path / "small.py").write_text(
        "from pathlib import Path\nfrom maerec_jax.config import read_json\n"
        "def get_config():\n    return read_json(Path(__file__).with_suffix('.json'))\n"
    )
    status = train.main(["--config", str(tmp_path / "small.py"), "--workdir", str(workdir), "--data.workers", "0"])
    assert "holds imported weights, not a run to resume" in refused(status, capsys)
    assert sorted((path, path.stat().st_mtime_ns) for path in workdir.rglob("*")) == before


def test_autoencoders_cannot_read(workdir):
    with pytest.raises(UserError, match="masked autoencoder, which cannot read: fine-tune it first"):
        Recognizer.load(workdir)


def test_names_in_a_line():
    names = [f"blocks.{i}.norm1.bias" for i in (0, 1, 2, 5)] + ["norm.bias", "blocks.7.norm2.bias"]
    assert grouped(names) == "blocks.{0-2,5}.norm1.bias, norm.bias, blocks.7.norm2.bias"
    assert grouped([]) == ""
