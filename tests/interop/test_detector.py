"""The published DBNet++ is imported from its file tensor by tensor, and exported again; others are told by name."""

import json
import re

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from data_pipelines.command import run_command
from data_pipelines.errors import UserError
from maerec_jax import export
from maerec_jax.reading.recognizer import Recognizer
from maerec_jax.weights.detector_files import load_detector_params, read_detector
from maerec_jax.weights.files import ABOUT
from tests.interop.imports import run, state_of
from tests.interop.pth_files import named, save_pth
from tests.scenes.dbnetpp_weights import formula_weights


@pytest.fixture(scope="module")
def state():
    return formula_weights()


@pytest.fixture(scope="module")
def file(state, tmp_path_factory):
    """What becomes of a checkpoint as mmengine writes it."""
    folder = tmp_path_factory.mktemp("detector")
    history = {"loss": named("mmengine.logging.history_buffer", "HistoryBuffer")}
    content = {"meta": {"epoch": 1200, "experiment_name": "x"}, "state_dict": state, "message_hub": history}
    save_pth(folder / "published.pth", content)
    assert run(folder / "published.pth", folder / "dbnetpp.safetensors") == 0
    return folder / "dbnetpp.safetensors"


def without(state, *parts):
    return {key: value for key, value in state.items() if not any(part in key for part in parts)}


def small(state):
    """The same names and shapes in a small file: it is only the shapes that are looked at first."""
    return {key: np.broadcast_to(np.zeros((), value.dtype), value.shape) for key, value in state.items()}


def write(path, state):
    save_file({key: np.asarray(value, order="C") for key, value in state.items()}, path)
    return path


def test_every_tensor_is_kept_bit_for_bit(file, state):
    found = load_file(file)
    assert found.keys() == state.keys()
    assert len(found) == 375
    for key, value in state.items():
        assert found[key].dtype == value.dtype
        np.testing.assert_array_equal(found[key], value, key)


def test_the_command_tells_what_was_found(file, tmp_path, capsys):
    assert run(file.parent / "published.pth", tmp_path / "again.safetensors") == 0
    told = capsys.readouterr().out
    for part in ("DBNet++", "26,052,844", "RGB", "meta, message_hub", "--detection.detector", "'state_dict'"):
        assert part in told


def test_bare_and_half_precision_state_dicts_are_taken(state, tmp_path, capsys):
    half = {key: value.astype(np.float16) if value.dtype == np.float32 else value for key, value in state.items()}
    write(tmp_path / "bare.safetensors", half)
    assert run(tmp_path / "bare.safetensors", tmp_path / "out.safetensors") == 0
    assert "numbers were float16" in capsys.readouterr().out
    found = read_detector(tmp_path / "out.safetensors")
    key = "neck.asf_conv.conv.bias"
    np.testing.assert_array_equal(found[key], half[key].astype(np.float32))


def test_pytorch_files_come_back(file, state, tmp_path, capsys):
    arguments = ["--format", "pytorch", "--checkpoint", str(file), "--output", str(tmp_path / "out.pth")]
    assert run_command(export.ExportArguments, export.export, "export", arguments) == 0
    assert "text detector" in capsys.readouterr().out
    found = torch.load(tmp_path / "out.pth", weights_only=True)["state_dict"]
    assert found.keys() == state.keys()
    assert all(np.array_equal(found[key].numpy(), value) for key, value in state.items())


def test_onnx_files_are_written_by_the_command(file, tmp_path):
    arguments = ["--format", "onnx", "--checkpoint", str(file), "--output", str(tmp_path / "out.onnx")]
    assert run_command(export.ExportArguments, export.export, "export", arguments) == 0
    assert (tmp_path / "out.onnx").stat().st_size > 100e6


WRONG = {
    "a DBNet": (lambda s: without(s, "asf_"), "without adaptive scale fusion"),
    "another backbone": (
        lambda s: without(s, "backbone.stem") | {"backbone.conv1.weight": np.zeros((64, 3, 7, 7), np.float32)},
        "another backbone",
    ),
    "deformable": (
        lambda s: s | {"backbone.layer2.0.conv2.conv_offset.weight": np.zeros((27, 128, 3, 3), np.float32)},
        "deformable convolutions",
    ),
    "another family": (
        lambda s: {"det_head.out_conv.weight": s["det_head.binarize.0.weight"]},
        "without differentiable binarisation",
    ),
    "missing": (lambda s: without(s, "layer3.2.conv2"), r"missing: backbone\.layer3\.2\.conv2\.weight"),
    "left over": (lambda s: s | {"neck.more": np.zeros(3, np.float32)}, r"left over: neck\.more"),
    "another shape": (
        lambda s: s | {"neck.asf_conv.conv.bias": np.zeros(255, np.float32)},
        r"neck\.asf_conv\.conv\.bias \(255,\) instead of \(256,\)",
    ),
    "whole numbers": (
        lambda s: s | {"neck.asf_conv.conv.bias": np.zeros(256, np.int64)},
        r"no floating-point numbers: neck\.asf_conv\.conv\.bias",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_not_that_detector_is_told_in_one_line(name, state, tmp_path, capsys):
    change, reason = WRONG[name]
    path = write(tmp_path / "file.safetensors", change(small(state)))
    assert run(path, tmp_path / "out.safetensors") == 1
    told = capsys.readouterr().err
    assert told.startswith(f"error: {path}: ")
    assert told.count("\n") == 1
    assert re.search(reason, told), told
    assert not (tmp_path / "out.safetensors").exists()


def test_names_and_options_that_do_not_fit_are_told(file, state, tmp_path, capsys):
    path = write(tmp_path / "file.safetensors", small(state))
    recogniser = write(tmp_path / "recogniser.safetensors", state_of("maerec_tiny"))
    taken = tmp_path / "taken.safetensors"
    taken.touch()
    for arguments, reason in (
        ((path, tmp_path / "folder"), "end OUT in .safetensors"),
        ((path, taken), "choose another"),
        ((path, tmp_path / "o.safetensors", "--encoder-only"), "leave out --encoder-only"),
        ((path, tmp_path / "o.safetensors", "--color", "bgr"), "leave out --color"),
        ((recogniser, tmp_path / "o.safetensors", "--encoder-heads=2", "--decoder-heads=4"), "OUT is a folder"),
        ((file, tmp_path / "o.safetensors"), "give it as --detection.detector"),
    ):
        assert run(*arguments) == 1
        told = capsys.readouterr().err
        assert reason in told
        assert told.count("\n") == 1
    for more in (["--format", "stablehlo"], ["--format", "onnx", "--int8"], ["--format", "onnx", "--average", "x"]):
        output = str(tmp_path / f"o.{more[1]}")
        command = ["--checkpoint", str(file), "--output", output, *more]
        assert run_command(export.ExportArguments, export.export, "export", command) == 1
        assert "holds a text detector" in capsys.readouterr().err


def test_detectors_and_recognisers_are_told_apart(file, tmp_path):
    with pytest.raises(UserError, match=r"holds a text detector.*--detection.detector"):
        Recognizer.load(file)
    Recognizer.load().save(tmp_path / "recogniser.safetensors")
    with pytest.raises(UserError, match="holds no text detector"):
        load_detector_params(tmp_path / "recogniser.safetensors")


def test_damaged_files_are_told(state, tmp_path):
    about = {ABOUT: json.dumps({"detector": "dbnetpp"})}
    path = tmp_path / "file.safetensors"
    key = "neck.asf_conv.conv.bias"
    for part, reason in (
        ({key: state[key]}, "do not fit"),
        ({key: np.full(256, np.nan, np.float32)}, "NaN"),
    ):
        save_file(part, path, about)
        with pytest.raises(UserError, match=reason) as refusal:
            load_detector_params(path)
        assert "\n" not in str(refusal.value)
    save_file({key: state[key]}, path, {ABOUT: json.dumps({"detector": "east"})})
    with pytest.raises(UserError, match="unknown kind 'east'"):
        load_detector_params(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="truncated"):
        load_detector_params(path)
