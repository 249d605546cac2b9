"""Imported weights are the file's, bit for bit, read the same texts, and whatever does not fit is told by name."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

from maerec_jax import import_pytorch, train
from maerec_jax.charset import MAEREC_CHARACTERS
from maerec_jax.command import run_command
from maerec_jax.config import TrainConfig, UserError, to_json
from maerec_jax.interop.encoder_weights import rescale_pixels, resize_projection
from maerec_jax.interop.importing import import_weights
from maerec_jax.interop.model_of_shapes import ImportOptions
from maerec_jax.interop.pytorch_names import (
    POSITION_BUFFER,
    params_from_state_dict,
    state_dict_from_params,
    state_dict_shapes,
)
from maerec_jax.interop.state_dict_checks import grouped
from maerec_jax.models.lora import merge_lora
from maerec_jax.models.mae import MAEConfig
from maerec_jax.models.maerec import MAERecConfig
from maerec_jax.models.position import sincos_2d, sincos_interleaved
from maerec_jax.models.vit import ViTConfig, ViTEncoder, normalize
from maerec_jax.recognizer import Recognizer
from maerec_jax.training.checkpoint import load_params, merge_params, misfits, write_run
from maerec_jax.training.recognition import Recognition
from maerec_jax.weights import save_recognizer
from tests.interop.pth_files import save_pth
from tests.training.conftest import recogniser_config

FIXTURES = Path(__file__).parents[1] / "fixtures"
FULL_SIZE = Path(__file__).parents[3] / "shared" / "fixtures" / "state_dicts.json"
PATCHES = "patch_embed.proj.weight"
SIZES = {"encoder_heads": 2, "decoder_heads": 4, "max_length": 12}
TINY = [f"--{name.replace('_', '-')}={value}" for name, value in SIZES.items()]


def state_of(name):
    with np.load(FIXTURES / name / "weights.npz") as npz:
        return {key.removeprefix("sd/"): np.ascontiguousarray(value) for key, value in npz.items()}


def run(*arguments):
    return run_command(
        import_pytorch.ImportArguments, import_pytorch.import_pytorch, "import", list(map(str, arguments))
    )


def imported(state, tmp_path, **options):
    save_file(state, tmp_path / "file.safetensors")
    return import_weights(tmp_path / "file.safetensors", ImportOptions(**options))


def assert_same(found, expected):
    found, expected = flatten_dict(found, sep="/"), flatten_dict(expected, sep="/")
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_array_equal(found[path], value, path)


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
    for name in found.keys() - {POSITION_BUFFER}:
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
    assert f"one of two copies is not there: {outside}" in found.notes


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
    fresh = Recognition(recogniser, np.float32).init(jax.random.key(0))
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
    params = jax.device_get(Recognition(config.model, np.float32).init(jax.random.key(0)))
    save_recognizer(tmp_path / "own.safetensors", config, params, 7)
    found = import_weights(tmp_path / "own.safetensors", ImportOptions())
    assert found.config.model == config.model
    assert_same(found.params, params)


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
        ({}, {"encoder_heads": 3}, "3 attention heads do not divide a width of 64: give --encoder-heads"),
        ({}, {"decoder_heads": 3}, "give --decoder-heads"),
        ({}, {"characters": "abc"}, "94 classes, which are 91 characters .* --characters has 3"),
        ({}, {"characters": "a" * 91}, "needs each character once"),
        ({"backbone.pos_embed": (1, 103, 64)}, {}, "pos_embed is for 102 patches.*--image-size"),
        ({"backbone.pos_embed": (1, 101, 64)}, {"image_size": (32, 128)}, r"\(1, 101, 64\) instead of \(1, 257, 64\)"),
        ({POSITION_BUFFER: (1, 200, 64)}, {}, "position_table is not the table of 200 places"),
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
    with pytest.raises(UserError, match=r"neither a masked autoencoder.*2 tensors such as conv\.weight"):
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
    state["norm.bias"] = np.full(64, np.nan, np.float32)
    found = imported(state, tmp_path, encoder_heads=2, decoder_heads=2)
    assert "warning: not all numbers are finite in norm.bias" in found.notes


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
        with pytest.raises(UserError, match=r"file.safetensors: is it cut"):
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
    assert f"{workdir} is there and not an empty folder" in refused(
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
    assert "holds imported weights, not a run to go on with" in refused(status, capsys)
    assert sorted((path, path.stat().st_mtime_ns) for path in workdir.rglob("*")) == before


def test_autoencoders_cannot_read(workdir):
    with pytest.raises(UserError, match="masked autoencoder, which cannot read: fine-tune it first"):
        Recognizer.load(workdir)


# Encoders from elsewhere.


def foreign_state(rng, dim=64, patch=8, grid=(6, 6), depth=2, extra=1):
    """A small Vision Transformer as timm names its tensors."""
    encoder = ViTConfig(
        dim=dim, depth=depth, heads=2, image_size=(grid[0] * patch, grid[1] * patch), patch_size=(patch, patch),
        position_table="grid",
    )  # fmt: skip
    decoder = {"decoder_dim": 4, "decoder_depth": 0, "decoder_heads": 1}
    named = state_dict_shapes(MAEConfig(encoder=encoder, **decoder)).items()
    shapes = {name: shape for name, (path, shape) in named if path.startswith("encoder/")}
    state = {name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}
    state["pos_embed"] = rng.normal(0, 0.1, (1, extra + grid[0] * grid[1], dim)).astype(np.float32)
    state |= {"head.weight": np.zeros((10, dim), np.float32), "head.bias": np.zeros(10, np.float32)}
    return state, encoder


def test_encoders_from_elsewhere(tmp_path):
    """All of it is taken by a recogniser with the usual images and pixels."""
    state, _ = foreign_state(np.random.default_rng(0))
    found = imported(state, tmp_path, encoder_heads=2)
    assert found.kind == "encoder"
    write_run(replace(found.config, workdir=str(tmp_path / "run")), found.params)
    config, params, _ = load_params(tmp_path / "run")
    recogniser = MAERecConfig.tiny()
    fresh = Recognition(recogniser, np.float32).init(jax.random.key(0))
    merged, missing, unused = merge_params(fresh, params, misfits(config.model, recogniser))
    assert {path.split("/")[0] for path in missing} == {"decoder"}
    assert not unused
    assert_same(merged["encoder"], found.params["encoder"])
    np.testing.assert_array_equal(params["encoder"]["blocks_1"]["fc1"]["kernel"], state["blocks.1.mlp.fc1.weight"].T)
    told = " ".join(found.notes)
    for part in ("head (2 tensors)", "from 8 x 8 to 4 x 4 pixels", "from 6 x 6 to 8 x 32 patches", "mean 127.5"):
        assert part in told


def test_an_encoder_of_our_own_stays_as_it_is(tmp_path):
    """Also when the rest of its model is in the file."""
    state = state_of("mae_tiny")
    alone = {name: value for name, value in state.items() if "decoder" not in name and name != "mask_token"}
    expected = params_from_state_dict(state, MAEConfig.tiny())["encoder"]
    for given, options in ((alone, {}), (state, {"encoder_only": True, "decoder_heads": 2})):
        found = imported(given, tmp_path, encoder_heads=2, **options)
        assert_same(found.params, {"encoder": expected})
        assert found.config.model.encoder == ViTConfig.tiny()


def test_the_encoder_of_a_recogniser_computes_the_same_from_our_pixels(tmp_path):
    """Though its pixel scale is another: it is in the projection then."""
    state = state_of("maerec_tiny")
    whole = imported(state, tmp_path, **SIZES)
    alone = imported(state, tmp_path, encoder_only=True, **SIZES)
    image = np.random.default_rng(0).integers(0, 256, (2, 32, 128, 3), np.uint8)
    features = [
        ViTEncoder(found.config.model.encoder).apply(
            {"params": found.params["encoder"]}, normalize(image, found.config.model.encoder)
        )
        for found in (whole, alone)
    ]
    assert alone.config.model.encoder.pixel_mean == ViTConfig().pixel_mean != whole.config.model.encoder.pixel_mean
    np.testing.assert_allclose(features[0], features[1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("form", ["distilled", "no class row", "rectangle"])
def test_position_tables_from_elsewhere(form, tmp_path):
    """The class token keeps its row; a table that tells rows and columns tells them after it was interpolated."""
    grid, extra = {"distilled": ((6, 6), 2), "no class row": ((6, 6), 0), "rectangle": ((4, 9), 1)}[form]
    state, _ = foreign_state(np.random.default_rng(0), grid=grid, extra=extra)
    rows, columns = np.meshgrid(*((np.arange(n) + 0.5) / n for n in grid), indexing="ij")
    state["pos_embed"][0, extra:, 0], state["pos_embed"][0, extra:, 1] = rows.ravel(), columns.ravel()
    if form == "distilled":
        state |= {"dist_token": np.zeros((1, 1, 64), np.float32), "head_dist.bias": np.zeros(10, np.float32)}
    options = {"source_grid": grid} if form == "rectangle" else {}
    found = imported(state, tmp_path, encoder_heads=2, **options)
    table = found.params["encoder"]["pos_embed"]
    assert table.shape == (1, 257, 64)
    np.testing.assert_array_equal(table[0, 0], state["pos_embed"][0, 0] if extra else np.zeros(64))
    rows, columns = np.meshgrid((np.arange(8) + 0.5) / 8, (np.arange(32) + 0.5) / 32, indexing="ij")
    middle = (slice(2, 6), slice(8, 24))  # at the borders there is nothing to interpolate between
    made = table[0, 1:, :2].reshape(8, 32, 2)
    np.testing.assert_allclose(made[middle][..., 0], rows[middle], atol=0.03)
    np.testing.assert_allclose(made[middle][..., 1], columns[middle], atol=0.03)


def test_a_grid_that_is_no_square_has_to_be_named(tmp_path):
    state, _ = foreign_state(np.random.default_rng(0), grid=(4, 8))
    with pytest.raises(UserError, match=r"pos_embed is for 32 patches.*give their --source-grid"):
        imported(state, tmp_path, encoder_heads=2)


@pytest.mark.parametrize("new", [(4, 4), (2, 8), (8, 8), (12, 10)])
def test_patches_of_other_sizes(new):
    """Projecting a patch is projecting it at the old size; a plain patch gives what it gave."""
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(8 * 8 * 3, 5)).astype(np.float32)
    made = resize_projection(kernel, (8, 8), new)
    patch = rng.normal(size=(*new, 3)).astype(np.float32)
    old = np.asarray(jax.image.resize(patch, (8, 8, 3), "linear"))
    np.testing.assert_allclose(patch.ravel() @ made, old.ravel() @ kernel, rtol=1e-4, atol=1e-4)
    plain = np.tile(np.array([1.0, 2.0, 3.0], np.float32), (new[0] * new[1],))
    np.testing.assert_allclose(plain @ made, np.tile([1.0, 2.0, 3.0], 64) @ kernel, rtol=1e-4, atol=1e-4)
    if new == (8, 8):
        np.testing.assert_array_equal(made, kernel)


def test_pixel_scales():
    rng = np.random.default_rng(0)
    kernel, bias = rng.normal(size=(48, 5)).astype(np.float32), rng.normal(size=5).astype(np.float32)
    source = ViTConfig.tiny(pixel_mean=(120.0, 110.0, 100.0), pixel_std=(60.0, 50.0, 40.0))
    pixels = rng.integers(0, 256, (16, 3)).astype(np.float32)
    made, moved = rescale_pixels(kernel, bias, source, ViTConfig.tiny())
    old = ((pixels - source.pixel_mean) / source.pixel_std).ravel() @ kernel + bias
    np.testing.assert_allclose(((pixels - 127.5) / 127.5).ravel() @ made + moved, old, rtol=1e-4, atol=1e-4)


def test_names_in_a_line():
    names = [f"blocks.{i}.norm1.bias" for i in (0, 1, 2, 5)] + ["norm.bias", "blocks.7.norm2.bias"]
    assert grouped(names) == "blocks.{0-2,5}.norm1.bias, norm.bias, blocks.7.norm2.bias"
    assert grouped([]) == ""


# Full size.

MODELS = {
    "mae_vit_small_patch4": MAEConfig.small(),
    "mae_vit_base_patch4": MAEConfig.base(),
    "maerec_s_union14m": MAERecConfig.small(),
    "maerec_b_union14m": MAERecConfig.base(),
    "maerec_s_lora_union14m": MAERecConfig.small(encoder=ViTConfig.small(lora_rank=4)),
    "maerec_b_lora_union14m": MAERecConfig.base(encoder=ViTConfig.base(lora_rank=4)),
}


def full_size_state(name, config):
    """Random numbers in the shapes of a published model, its constants where they belong."""
    shapes = json.loads(FULL_SIZE.read_text())[name]["keys"]
    rng = np.random.default_rng(0)
    state = {key: rng.standard_normal(shape, np.float32) for key, shape in shapes.items()}
    for key in (key for key in shapes if key.endswith("pos_embed") and "decoder" not in key):
        state[key] = sincos_2d((8, 32), config.encoder.dim, "square")
    if isinstance(config, MAERecConfig):
        state[POSITION_BUFFER] = sincos_interleaved(200, config.decoder.dim)[None]
    for kind in ("query", "value"):  # every adapter is there twice
        for i in range(config.encoder.depth if config.encoder.lora_rank else 0):
            for part in "AB":
                inside = f"backbone.vit.blocks.{i}.attn.qkv.linear_{part.lower()}_{kind[0]}.weight"
                state[inside] = state[f"backbone.{kind}_{part}s.{i}.weight"]
    return state


@pytest.mark.parametrize("name", MODELS)
def test_published_models_at_full_size(name, tmp_path):
    """Recognised from their tensors alone, written, loaded, and named back: the file again, bit by bit."""
    if not FULL_SIZE.is_file():
        pytest.skip(f"shapes of the published models are not at ../shared/fixtures: {FULL_SIZE}")
    config = MODELS[name]
    state = full_size_state(name, config)
    save_file(state, tmp_path / "file.safetensors")
    found = import_weights(tmp_path / "file.safetensors", ImportOptions(merge_lora=False))
    (tmp_path / "file.safetensors").unlink()
    released = isinstance(config, MAERecConfig)
    pixels = {"pixel_mean": (103.53, 116.28, 123.675), "pixel_std": (57.375, 57.12, 58.395)} if released else {}
    assert found.config.model == replace(config, encoder=replace(config.encoder, **pixels))
    write_run(replace(found.config, workdir=str(tmp_path / "run")), found.params)
    del found
    loaded, params, _ = load_params(tmp_path / "run")
    back = state_dict_from_params(params, loaded.model)
    assert back.keys() == state.keys()
    for key, value in state.items():
        flipped = value[:, ::-1] if released and key.endswith(PATCHES) else value
        np.testing.assert_array_equal(back[key], flipped, key)
