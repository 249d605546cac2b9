"""The baselines in PyTorch take the reference's weights as they are, compute what it computes, and read in two ways."""

import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from maerec_jax.interop import pytorch_baselines, pytorch_twin
from maerec_jax.interop.pytorch_baselines import KINDS
from maerec_jax.interop.pytorch_text import flat
from tests.conftest import REPOSITORY
from tests.interop.baseline_models import CHARACTERS, config_of, images_of, model_of, outputs_of
from tests.interop.imports import FULL_SIZE

# By the reference's README: of the largest value of an array.
TOLERANCE = {"nrtr": 2.5e-5, "satrn": 2.5e-5, "sar": 2.5e-5, "abinet": 5e-5, "aster": 5e-4}
WIDTHS = {"nrtr": (64, 39), "sar": (48, 29)}


@pytest.fixture(scope="module", params=list(KINDS))
def case(request):
    """Kind, model, reference outputs, pixels and widths."""
    arrays = outputs_of(request.param)
    model = model_of(request.param, arrays)
    widths = torch.tensor(WIDTHS[request.param]) if request.param in WIDTHS else None
    return SimpleNamespace(
        kind=request.param, model=model, arrays=arrays, pixels=model.pixels(images_of(arrays)), widths=widths
    )


def assert_close(actual, expected, tolerance, what=""):
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, what
    error = np.abs(actual - expected).max() / np.abs(expected).max()
    assert error < tolerance, f"{what}: relative error {error:.2e}"


def assert_reads(reading, argmax, probs, tolerance, end):
    """What the reference found at all places, but for those after the end."""
    read = np.cumsum(argmax == end, axis=1) - (argmax == end) == 0
    np.testing.assert_array_equal(reading.tokens_BT, np.where(read, argmax, end + 1))
    assert_close(reading.probability_BT, np.where(read, probs.max(-1), 0), tolerance, "probabilities")


def test_pixels(case):
    assert "".join(" " if len(c) > 1 else c for c in case.arrays["dictionary"][:12]) == CHARACTERS
    assert_close(case.pixels[:, :, ::4, ::4], case.arrays["images_normalised_slice"], 1e-6)


@torch.no_grad()
def test_logits_of_the_reference(case):
    if case.kind == "abinet":
        return
    tokens = torch.from_numpy(case.arrays["padded_indexes"]).long()
    logits = case.model(case.pixels, tokens, case.widths)
    assert_close(logits, case.arrays["tf_logits"], TOLERANCE[case.kind])


def test_both_ways_read_what_the_reference_reads(case):
    model, arrays, tolerance = case.model, case.arrays, TOLERANCE[case.kind]
    both = [way(case.pixels, case.widths) for way in (model.read, model.read_as_original)]
    for reading in both:
        assert_reads(reading, arrays["test_argmax"], arrays["test_probs"], tolerance, 12)
    with torch.no_grad():
        logits = model.recomputed(*model.encode(case.pixels, case.widths))
    assert_close(logits.softmax(-1), arrays["test_probs"], tolerance)


def test_ends_padding_and_unknown_characters_are_read_as_by_the_reference(case):
    model, arrays = case.model, case.arrays
    if case.kind == "abinet":
        return
    encoded = [torch.from_numpy(arrays["dec_only_enc"])]
    if case.kind == "sar":
        encoded.insert(0, torch.from_numpy(arrays["dec_only_feat"]))
    encoded += [None] * (case.kind != "aster")
    with torch.no_grad():
        logits, memory = model.recomputed(*encoded), model.remember(*encoded)
    assert_close(logits.softmax(-1), arrays["dec_only_probs"], TOLERANCE[case.kind])
    for reading in (model.read_from(memory), model.read_off(logits)):
        assert_reads(reading, arrays["dec_only_argmax"], arrays["dec_only_probs"], TOLERANCE[case.kind], 12)
    # What stops early computes no more than the longest text has.
    short = [row for row, found in enumerate(arrays["dec_only_argmax"]) if 12 in found[:4]]
    reading = model.read_from(tuple(x[short] for x in memory))
    assert reading.steps == 1 + max(found.tolist().index(12) for found in arrays["dec_only_argmax"][short])


@torch.no_grad()
def test_places_of_the_filling_are_masked_by_columns():
    """The encoder of SATRN does so; that of NRTR on request: then the filling does not matter but for convolutions."""
    arrays = outputs_of("satrn")
    model = model_of("satrn", arrays)
    pixels, widths = model.pixels(images_of(arrays)), torch.tensor([40, 24])
    tokens = torch.from_numpy(arrays["padded_indexes"]).long()
    assert_close(model.encode(pixels, widths)[0], arrays["enc_valid_ratio2"], TOLERANCE["satrn"])
    assert_close(model(pixels, tokens, widths), arrays["tf_logits_valid_ratio2"], TOLERANCE["satrn"])
    columns = model_of("nrtr", mask="columns")
    mask = columns.encode(torch.zeros(2, 3, 32, 64), torch.tensor([64, 39]))[1].unflatten(1, (4, 16))
    assert mask[0].all()
    assert mask[1].tolist() == [[True] * 10 + [False] * 6] * 4


@torch.no_grad()
def test_pictures_are_made_straight():
    arrays = outputs_of("aster")
    model = model_of("aster", arrays)
    rectifier, pixels = model.preprocessor, model.pixels(images_of(arrays))
    points = rectifier.points(pixels)
    assert_close(points, arrays["control_points"], 1e-5)
    assert_close(rectifier.tps.grid(points), arrays["tps_grid"], 2e-5)
    assert_close(rectifier(pixels), arrays["rectified"], 2e-4)
    image, points = (torch.from_numpy(arrays[f"tps_only_{name}"]) for name in ("image", "control_points"))
    assert_close(rectifier.tps(image, points)[:, :1], arrays["tps_only_out"], 3e-5)
    fresh = KINDS["aster"](config_of("aster"))
    for name, value in fresh.preprocessor.tps.named_buffers():
        if f"sd/preprocessor.tps.{name}" in arrays:
            np.testing.assert_allclose(value, arrays[f"sd/preprocessor.tps.{name}"], atol=2e-3)
    rows = arrays["tps_target_coordinate_repr_slice"]
    np.testing.assert_allclose(fresh.preprocessor.tps.target_coordinate_repr[::97], rows, atol=1e-6)


@torch.no_grad()
def test_vision_and_language():
    arrays = outputs_of("abinet")
    model = model_of("abinet", arrays)
    found = model.logits(model.pixels(images_of(arrays)))
    assert_close(found.vision, arrays["vis_logits"], 5e-5)
    for number in range(3):
        assert_close(found.language[number], arrays[f"lm{number}_logits"], 5e-5)
        assert_close(found.fusion[number], arrays[f"fuse{number}_logits"], 5e-5)
    language, made_up = model.decoder.language_decoder, torch.from_numpy(arrays["lm_only_in_logits"])
    np.testing.assert_array_equal(language.lengths(made_up), np.maximum(arrays["lm_only_lengths_raw"], 2))
    for part, name in zip(language(made_up), ("feature", "logits"), strict=True):
        assert_close(part, arrays[f"lm_only_{name}"], 5e-5)


def test_vision_alone():
    arrays = outputs_of("abinet")
    keys = set(arrays["vision_only_keys"])
    kept = {k: v for k, v in arrays.items() if k.removeprefix("sd/") in keys or k == "formula_keys"}
    model = model_of("abinet", kept, language=None)
    assert set(model.state_dict()) == keys
    reading = model.read(model.pixels(images_of(arrays)))
    assert_reads(reading, arrays["test_vision_only_argmax"], arrays["test_vision_only_probs"], 5e-5, 12)


def test_without_padding_there_are_two_classes_less():
    model = KINDS["abinet"](config_of("abinet", end_only=True))
    assert model.decoder.cls.out_features == model.decoder.vision_decoder.cls.out_features == 13


def test_dropout_is_drawn_in_training_only(case):
    tokens = torch.from_numpy(case.arrays["padded_indexes"]).long()
    state = {name: value.clone() for name, value in case.model.state_dict().items()}
    once, again = (case.model.train()(case.pixels, tokens, case.widths) for _ in range(2))
    case.model.eval().load_state_dict(state)
    assert ((once != again).any()) == (case.kind != "aster")  # which has none


def test_files_say_what_they_hold(case, tmp_path):
    def plain(value):
        return {k: plain(v) for k, v in vars(value).items()} if isinstance(value, SimpleNamespace) else value

    model = {k: v for k, v in plain(case.model.config).items() if k != "color"}
    about = json.dumps({"model": model, "color": "bgr"})
    file = {"state_dict": case.model.state_dict(), "meta": {"maerec_jax": about}}
    torch.save(file, tmp_path / "tiny.pth")
    model = pytorch_baselines.load(str(tmp_path / "tiny.pth"))
    assert model.config.kind == case.kind
    ours, theirs = (m.texts(images_of(case.arrays), case.widths) for m in (model, case.model))
    assert ours == theirs
    assert ours[0] == case.arrays["test_texts"].tolist()
    with pytest.raises(ValueError, match=f"holds a model of the kind {case.kind}"):
        pytorch_twin.load(str(tmp_path / "tiny.pth"))


def test_cached_reading_of_the_transformers_keeps_keys_and_values():
    model = model_of("nrtr")
    memory = flat(model.decoder.keys_values(torch.zeros(2, 5, 20)))
    past = model.start(memory, 0)
    _, past = model.step(torch.tensor(0), torch.full((2, 8), 12), past, memory)
    assert [x.shape[2] for x in past] == [1] * 4


WIDE = {"widths": (32, 64, 128, 256, 512), "blocks": (3, 4, 6, 6, 3), "stem": 32}
RESNET31 = {"blocks": (1, 2, 5, 3), "channels": (32, 64, 128, 256, 512, 512)}
ENCODER = {"encoder_layers": 6, "encoder_heads": 8, "encoder_inner_dim": 256}
ABINET = {**WIDE, "dim": 512, "heads": 8, "inner_dim": 2048, "encoder_layers": 3, "key_channels": 64}
ABINET |= {"max_length": 26, "image_size": (32, 128)}


def text_decoder(inner_dim):
    return SimpleNamespace(dim=512, layers=6, heads=8, inner_dim=inner_dim, dropout=0.1, max_length=30)


FULL = {
    "nrtr_resnet31-1by8-1by4_union14m": ("nrtr", 91, {**RESNET31, **ENCODER, "decoder": text_decoder(256)}),
    "satrn_shallow_5e_union14m": (
        "satrn",
        90,
        {**ENCODER, "channels": (256, 512), "encoder_layers": 12, "encoder_inner_dim": 2048}
        | {"decoder": text_decoder(2048)},
    ),
    "sar_resnet31_sequential-decoder_5e_union14m": (
        "sar",
        91,
        {**RESNET31, "channels": (64, 128, 256, 256, 512, 512)}
        | {"encoder_dim": 512, "decoder_dim": 512, "attention_dim": 512},
    ),
    "aster_resnet45_6e_union14m": (
        "aster",
        90,
        {**WIDE, "encoder_dim": 256, "attention_dim": 512, "decoder_dim": 512},
    ),
    "abinet_10e_union14m": ("abinet", 91, {**ABINET, "language": None}),
    "abinet_base_with_lm": (
        "abinet",
        36,
        {**ABINET, "language": SimpleNamespace(layers=4, iterations=3), "end_only": True},
    ),
}


@pytest.mark.skipif(not FULL_SIZE.exists(), reason="the reference's full-size state dicts are not at ../shared")
@pytest.mark.parametrize("name", FULL)
def test_names_and_shapes_at_full_size(name):
    kind, characters, sizes = FULL[name]
    with torch.device("meta"):
        model = KINDS[kind](config_of(kind, **sizes, charset=SimpleNamespace(characters="x" * characters)))
    published = json.loads(FULL_SIZE.read_text())[name]
    assert {k: list(v.shape) for k, v in model.state_dict().items()} == published["keys"]
    assert sum(x.numel() for x in model.parameters()) == published["n_params"]


def test_torch_alone_is_needed():
    seen = "import sys, maerec_jax.interop.pytorch_baselines; print(*{'jax', 'flax', 'cv2', 'onnx'} & set(sys.modules))"
    made = subprocess.run([sys.executable, "-c", seen], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert made.stdout == "\n"
