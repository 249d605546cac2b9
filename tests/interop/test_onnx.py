"""ONNX files read what the models read, whatever the batch, and stop when every text has ended."""

import json
import runpy
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import onnx
import onnxruntime
import PIL.ExifTags
import PIL.Image
import pytest

from maerec_jax import predict
from maerec_jax.config import DataConfig, TrainConfig
from maerec_jax.interop import onnx_file
from maerec_jax.interop.onnx_file import write_onnx
from maerec_jax.interop.pytorch_file import write_pytorch
from maerec_jax.interop.stablehlo_file import write_stablehlo
from maerec_jax.models.maerec import MAERecConfig
from maerec_jax.models.text_decoder import TextDecoderConfig
from maerec_jax.models.vit import ViTConfig
from maerec_jax.weights.finding import save_weights
from tests.conftest import FIXTURES, REPOSITORY
from tests.interop.test_export import (  # noqa: F401
    IMAGES,
    assert_same_reading,
    buckets,
    checkpoint,
    command,
    read_ours,
    recogniser,
    reference_pixels,
)
from tests.training.conftest import random_params

EVERYTHING = np.concatenate([IMAGES, reference_pixels()])


def session_of(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def file(checkpoint, tmp_path_factory):  # noqa: F811
    path = tmp_path_factory.mktemp("onnx") / "tiny.onnx"
    assert command(checkpoint, "onnx", path) == 0
    return path


@pytest.fixture(scope="module")
def session(file):
    return session_of(file)


def read(session, image_BHWC):
    return session.run(None, {"image": image_BHWC})


@pytest.fixture(scope="module")
def expected(recogniser):  # noqa: F811
    """What ours reads in everything."""
    return read_ours(recogniser, EVERYTHING)


@pytest.mark.parametrize("size", [1, 3, 17])
def test_batches_of_any_size_read_as_ours(session, expected, size):
    assert_same_reading(read(session, IMAGES[:size]), [part[:size] for part in expected])


def test_padding_unknown_characters_and_missing_ends_read_as_ours(session, recogniser, expected):  # noqa: F811
    images = reference_pixels()
    tokens, probabilities = (part[len(IMAGES) :] for part in expected)
    charset = recogniser[0].model.charset
    before_end = np.cumsum(tokens == charset.start_end, axis=1) == 0
    assert (tokens[before_end] == charset.padding).any()
    assert (tokens == charset.unknown).any()
    assert before_end.all(axis=1).any()
    with np.load(FIXTURES / "maerec_tiny" / "outputs.npz") as npz:
        assert [charset.decode(row)[0] for row in tokens] == npz["pred_texts"].tolist()
    assert_same_reading(read(session, images), (tokens, probabilities))
    for row in range(len(images)):
        one = read(session, images[row : row + 1])
        assert_same_reading(one, (tokens[row : row + 1], probabilities[row : row + 1]))


def test_no_more_places_are_computed_than_the_longest_text_has(session, recogniser):  # noqa: F811
    charset, length = recogniser[0].model.charset, recogniser[0].model.decoder.max_length
    counts = set()
    for image in EVERYTHING:
        tokens, _, steps = read(session, image[None])
        ends = np.flatnonzero(tokens[0] == charset.start_end)
        assert steps == (ends[0] + 1 if len(ends) else length)
        counts.add(int(steps))
    assert min(counts) < max(counts) == length
    assert read(session, EVERYTHING)[2] == max(counts)


def test_the_file_is_checked_and_describes_itself(file, recogniser):  # noqa: F811
    model = onnx.load(file)
    onnx.checker.check_model(model, full_check=True)
    assert {imported.domain for imported in model.opset_import} == {""}
    about = {prop.key: json.loads(prop.value) for prop in model.metadata_props}
    charset = recogniser[0].model.charset
    assert about["characters"] == charset.characters
    classes = about["start_end"], about["padding"], about["unknown"]
    assert classes == (charset.start_end, charset.padding, charset.unknown)
    assert (about["image_sizes"], about["interpolation"], about["channels"]) == ([[32, 128]], "bilinear", "RGB")
    assert (about["step"], about["weights"], about["turn_vertical"]) == (7, "float32", False)
    # Nothing of the machine that wrote it, such as the places of source files.
    assert str(REPOSITORY).encode() not in file.read_bytes()
    assert [entry.name for entry in file.parent.iterdir()] == [file.name]


def test_int8_reaches_every_matrix_and_reads_nearly_the_same(
    file,
    recogniser,  # noqa: F811
    expected,
    tmp_path,
    monkeypatch,
):
    config, params = recogniser
    monkeypatch.setattr(onnx_file, "_exported", lambda *_: onnx.load(file))  # which takes long
    write_onnx(tmp_path / "int8.onnx", config, params, 0, int8=True)

    def products(graph, kind, outside=()):
        """Those with a constant, inside of loops, too."""
        weights = {*outside, *(tensor.name for tensor in graph.initializer)}
        for node in graph.node:
            if node.op_type == kind and node.input[1] in weights:
                yield node.name
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    yield from products(attribute.g, kind, weights)

    before, after = onnx.load(file).graph, onnx.load(tmp_path / "int8.onnx").graph
    layers, blocks = config.model.decoder.layers, config.model.encoder.depth
    count = 1 + 4 * blocks + 2 * layers + 8 * layers + 1
    assert (len(list(products(before, "MatMul"))), len(list(products(before, "MatMulInteger")))) == (count, 0)
    assert (len(list(products(after, "MatMul"))), len(list(products(after, "MatMulInteger")))) == (0, count)
    assert (tmp_path / "int8.onnx").stat().st_size < 0.5 * file.stat().st_size
    session = session_of(tmp_path / "int8.onnx")
    tokens, probabilities, _ = read(session, IMAGES)
    wanted = [part[: len(IMAGES)] for part in expected]
    same = tokens[:, 0] == wanted[0][:, 0]
    assert same.mean() > 0.7
    assert np.abs(probabilities - wanted[1])[same, 0].mean() < 0.1


def test_a_file_for_buckets_reads_images_of_each_size_and_of_no_other(buckets, tmp_path):  # noqa: F811
    """With adapters, which are merged."""
    write_onnx(tmp_path / "two.onnx", *buckets, step=0)
    session = session_of(tmp_path / "two.onnx")
    about = session.get_modelmeta().custom_metadata_map
    assert (about["image_sizes"], about["turn_vertical"]) == ("[[32, 128], [64, 64]]", "true")
    for shape in ((32, 128), (64, 64)):
        images = IMAGES[:3].reshape(3, *shape, 3)
        assert_same_reading(read(session, images), read_ours(buckets, images))
    for shape in ((128, 32), (16, 256)):  # of as many patches
        with pytest.raises(Exception, match="out of data bounds"):
            read(session, IMAGES[:3].reshape(3, *shape, 3))


def test_a_convolutional_stem_reads_images_of_each_size_as_ours(tmp_path):
    encoder = ViTConfig.tiny(depth=1, patch_size=(8, 8), position_table="grid", stem="convolutions")
    model = MAERecConfig.tiny(encoder=encoder, decoder=TextDecoderConfig.tiny(layers=1))
    params = jax.tree.map(lambda x: 4 * x, random_params(model))  # so large that readings depend on the image
    run = TrainConfig(model=model, data=DataConfig(buckets=((32, 128), (64, 64)))), params
    write_onnx(tmp_path / "stem.onnx", *run, step=0)
    session = session_of(tmp_path / "stem.onnx")
    for shape in ((32, 128), (64, 64)):
        images = IMAGES[:3].reshape(3, *shape, 3)
        expected = read_ours(run, images)
        assert np.ptp(expected[1], axis=0).max() > 1e-3
        assert_same_reading(read(session, images), expected)


def test_an_image_of_another_size_is_refused(session):
    with pytest.raises(Exception, match="invalid dimensions for input: image"):
        read(session, np.zeros((1, 32, 64, 3), np.uint8))


EXAMPLE = runpy.run_path(str(REPOSITORY / "scripts" / "read_exported.py"))
SIZES = ((40, 90), (90, 40), (400, 25), (25, 400), (64, 64), (9, 1), (80, 41), (33, 34))


def test_all_forms_are_read_with_as_predict_reads(file, recogniser, tmp_path, capsys):  # noqa: F811
    """Portrait and wide images, some turned by their EXIF data; others are named, and the rest is read."""
    names = []
    for number, (image, size) in enumerate(zip(reference_pixels(), SIZES, strict=True)):
        names.append(str(tmp_path / f"{number}.{'jpg' if number % 3 else 'png'}"))
        exif = PIL.Image.Exif()
        exif[PIL.ExifTags.Base.Orientation] = 6 if number % 3 else 1
        PIL.Image.fromarray(image).resize(size).save(names[-1], exif=exif, quality=95)
    unreadable = [str(tmp_path / name) for name in ("broken.png", "empty.jpg")]
    for name, content in zip(unreadable, (b"no image", b""), strict=True):
        Path(name).write_bytes(content)
    given, (config, params) = [*names[:3], *unreadable, *names[3:]], recogniser
    turning = replace(config, data=replace(config.data, turn_vertical=True))
    turned = onnx.load(file)
    next(prop for prop in turned.metadata_props if prop.key == "turn_vertical").value = "true"
    onnx.save(turned, tmp_path / "turning.onnx")
    write_stablehlo(tmp_path / "turning.stablehlo", turning, params, 7)
    write_pytorch(tmp_path / "turning.pth", turning, params, 7)
    write_pytorch(tmp_path / "released.pth", turning, params, 7, released=True)
    names_of_turning = ("turning.onnx", "turning.stablehlo", "turning.pth", "released.pth")
    for run, files in ((config, [file]), (turning, [tmp_path / name for name in names_of_turning])):
        save_weights(tmp_path / "run.safetensors", run, params, 7)
        assert predict.main([*given, "--checkpoint", str(tmp_path / "run.safetensors")]) == 1
        expected = capsys.readouterr().out.replace(" (doubtful)", "")  # which only the package tells
        assert len(expected.splitlines()) == len(names)
        for path in files:
            assert EXAMPLE["main"](str(path), *given) == 1
            found = capsys.readouterr()
            assert found.out == expected, path
            assert found.err.splitlines() == [f"not read: {name}" for name in unreadable]
