"""Fine-tuning with adapters: what it starts from, that it goes on, and that its file belongs to one encoder."""

import json
from dataclasses import replace
from functools import cache

import cv2
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from data_pipelines.command import run_command
from data_pipelines.errors import UserError
from maerec_jax import evaluate, predict
from maerec_jax.config import OptimizerConfig
from maerec_jax.models.lora import merge_lora
from maerec_jax.models.maerec import MAERec
from maerec_jax.reading.recognizer import Recognizer
from maerec_jax.training.loop import train
from maerec_jax.weights.adapters import encoder_checksum, save_adapters
from maerec_jax.weights.checkpoint import load_params
from maerec_jax.weights.finding import load_recognizer, save_weights
from tests.training.conftest import (
    ENCODER,
    OPTIMIZER,
    adapted_config,
    interrupt_after,
    logged,
    recogniser_config,
    train_once,
    words,
)
from tests.training.test_train import assert_same_run

# Parameters stay as they are in such runs; a moving average of them would be rounded anew.
STILL = {"optimizer": OPTIMIZER, "ema_decay": 0.0, "accumulation": 1, "steps": 1}
STILL["data"] = replace(recogniser_config("").data, validation=())


@pytest.fixture(scope="module")
def adapted(pretrained, tmp_path_factory):
    """The workdir of a finished run with adapters, which are far from 0. Not to be changed."""
    return train_once(tmp_path_factory, "adapted", lambda workdir: lora_run(workdir, pretrained))


def lora_run(workdir, start, **changes):
    optimizer = OptimizerConfig(learning_rate=0.02, schedule="constant", weight_decay=0.5, decay_vectors=True)
    defaults = {"optimizer": optimizer, "ema_decay": 0.5, "accumulation": 2, "init_from": str(start)}
    return adapted_config(workdir, **{**defaults, **changes})


def with_rank(config, rank):
    return replace(config, model=replace(config.model, encoder=replace(config.model.encoder, lora_rank=rank)))


@cache
def compiled(model):
    return jax.jit(MAERec(model).apply)


def logits(workdir):
    """Of the recogniser in a workdir, for noise."""
    config, params, _ = load_params(workdir)
    image = np.random.default_rng(0).standard_normal((3, 32, 128, 3), np.float32)
    return compiled(config.model)({"params": params}, image, np.array([[36, 1, 2, 3]] * 3))


def same(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_only_adapters_and_decoder_are_trained(adapted, pretrained):
    _, before, _ = load_params(pretrained)
    _, after, _ = load_params(adapted)
    for name, layer in before["encoder"].items():
        found = after["encoder"][name]
        same({part: found[part] for part in layer} if isinstance(layer, dict) else found, layer)
    for name in ("lora_query", "lora_value"):
        assert np.abs(after["encoder"]["blocks_0"][name]["b"]["kernel"]).max() > 1e-3
    assert encoder_checksum(after) == encoder_checksum(before)
    assert logged(adapted)[12] < logged(adapted)[1]


def test_an_interrupted_run_ends_as_if_nothing_had_happened(adapted, pretrained, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patched:
        interrupt_after(patched, 7)
        with pytest.raises(KeyboardInterrupt):
            train(lora_run(tmp_path, pretrained))
    train(lora_run(tmp_path, pretrained))
    assert_same_run(tmp_path, adapted)
    told = capsys.readouterr().err
    total, trained = (f"{n:,}" for n in parameters(adapted))
    assert f"{total} parameters, {trained} of them trained" in told


def parameters(workdir):
    """How many there are, and how many are trained."""
    _, params, _ = load_params(workdir)
    whole = sum(x.size for x in jax.tree.leaves(params))
    encoder = sum(x.size for x in jax.tree.leaves(params["encoder"]))
    adapters = 2 * (32 * 3 + 3 * 32)
    return whole, whole - encoder + adapters


def test_it_starts_from_a_pretrained_encoder(pretrained, tmp_path, capsys):
    train(lora_run(tmp_path, pretrained, **STILL))
    told = capsys.readouterr().err
    assert "fresh: adapters (4 parameters: not there)" in told
    assert "fresh: decoder (23 parameters: not there)" in told
    assert "fresh: encoder" not in told


def test_it_starts_as_the_recogniser_that_it_comes_from(unbroken, tmp_path, capsys):
    train(lora_run(tmp_path, unbroken, **STILL))
    told = [line for line in capsys.readouterr().err.splitlines() if "fresh:" in line]
    assert len(told) == 1
    assert "adapters (4 parameters: not there)" in told[0]
    np.testing.assert_array_equal(logits(tmp_path), logits(unbroken))


@pytest.mark.parametrize("rank", [0, 2, 3])
def test_other_runs_start_from_it_as_it_is(adapted, tmp_path, capsys, rank):
    """With adapters of the same rank, which are taken, and otherwise with what they make merged into the weights."""
    train(with_rank(lora_run(tmp_path, adapted, **STILL), rank))
    told = capsys.readouterr().err
    assert ("its adapters are merged into its weights" in told) == (rank != 3)
    assert ("fresh: adapters (4" in told) == (rank == 2)
    assert "fresh: decoder" not in told
    _, before, _ = load_params(adapted)
    _, after, _ = load_params(tmp_path)
    if rank == 3:
        same(after, before)
    np.testing.assert_allclose(logits(tmp_path), logits(adapted), rtol=1e-4, atol=1e-5)


def test_an_encoder_of_random_numbers_is_not_kept(pretrained, tmp_path):
    config = adapted_config(tmp_path / "run")
    with pytest.raises(UserError, match=r"model\.encoder\.lora_rank .* name the run .* --init-from"):
        train(config)
    assert not (tmp_path / "run").exists()
    other = replace(config.model, encoder=replace(ENCODER, lora_rank=3, pixel_std=(1.0, 1.0, 1.0)))
    with pytest.raises(UserError, match=r"does not fit: encoder/patch_embed/\w+ \(another pixel scale\)"):
        train(replace(config, model=other, init_from=str(pretrained)))


@pytest.fixture(scope="module")
def adapters_file(adapted, tmp_path_factory):
    file = tmp_path_factory.mktemp("file") / "adapters.safetensors"
    save_adapters(file, *load_params(adapted))
    return file


def test_a_file_of_adapters_restores_the_recogniser(adapters_file, adapted, pretrained):
    """Beside the pre-training run that it started from: the same texts, by plain weights."""
    images = [words(6).open(None)[i].image for i in range(6)]
    found, expected = Recognizer.load(pretrained, adapters=adapters_file), Recognizer.load(adapted)
    assert found.step == expected.step == 12
    assert [word.text for word in found.read(images)] == [word.text for word in expected.read(images)]
    config, params, _ = load_recognizer(pretrained, adapters_file)
    saved, original, _ = load_params(adapted)
    model, merged = merge_lora(saved.model, original)
    assert config.model == model
    same(params, merged)


def test_commands_take_a_file_of_adapters(adapters_file, adapted, pretrained, tmp_path, capsys):
    """predict and evaluate: the same with the file, beside what it belongs to, as with the run that wrote it."""
    lines = []
    for i in range(6):
        record = words(6).open(None)[i]
        cv2.imwrite(str(tmp_path / f"{i}.png"), cv2.cvtColor(record.image, cv2.COLOR_RGB2BGR))
        lines.append(json.dumps({"filename": f"{i}.png", "text": record.text}))
    (tmp_path / "labels.jsonl").write_text("\n".join(lines))
    told = []
    for weights in (
        ["--checkpoint", str(pretrained), "--adapters", str(adapters_file)],
        ["--checkpoint", str(adapted)],
    ):
        read = [str(tmp_path), *weights, "--format", "csv"]
        assert run_command(predict.PredictArguments, predict.predict, "predict", read) == 0
        words_of_run = [line.rsplit(",", 1)[0] for line in capsys.readouterr().out.splitlines()]
        measure = ["--data", str(tmp_path), "--sets", "labels.jsonl", *weights, "--json", str(tmp_path / "table.json")]
        assert run_command(evaluate.EvaluateArguments, evaluate.evaluate, "evaluate", measure) == 0
        told.append((words_of_run, json.loads((tmp_path / "table.json").read_text())["sets"]))
        capsys.readouterr()
        for file in tmp_path.glob("table*"):
            file.unlink()
    assert told[0] == told[1]
    assert len(told[0][0]) == 7


def test_it_holds_what_was_trained_and_no_more(adapters_file, adapted):
    tensors = load_file(adapters_file)
    assert sum(x.size for x in tensors.values()) == parameters(adapted)[1]
    assert adapters_file.stat().st_size < 4 * parameters(adapted)[1] + 10_000
    assert {name.split(".")[1] for name in tensors if name.startswith("backbone.")} == {
        *("query_As", "query_Bs", "value_As", "value_Bs")
    }


def test_adapters_survive_a_merged_or_whole_file(adapters_file, adapted, pretrained, tmp_path):
    """A recogniser with adapters is written with them; one that adapters were merged into is a plain one."""
    Recognizer.load(adapted).save(tmp_path / "whole.safetensors")
    config, params, _ = load_recognizer(tmp_path / "whole.safetensors")
    assert config.model.encoder.lora_rank == 3
    same(params, load_params(adapted)[1])
    expected = load_recognizer(pretrained, adapters_file)[1]
    same(load_recognizer(tmp_path / "whole.safetensors", adapters_file)[1], expected)
    Recognizer.load(adapted).save_adapters(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == adapters_file.read_bytes()
    merged = Recognizer.load(pretrained, adapters=adapters_file)
    merged.save(tmp_path / "plain.safetensors")
    config, params, _ = load_recognizer(tmp_path / "plain.safetensors")
    assert config.model == recogniser_config("").model
    same(params, expected)
    with pytest.raises(UserError, match="no adapters to write"):
        merged.save_adapters(tmp_path / "none.safetensors")


def test_adapters_name_the_encoder_that_they_belong_to_wherever_it_came_from(adapted, unbroken, tmp_path):
    config, params, step = load_params(adapted)
    file = tmp_path / "adapters.safetensors"
    save_adapters(file, replace(config, init_encoder_from="runs/further"), params, step)
    with pytest.raises(UserError, match='belong to the encoder of "further"'):
        load_recognizer(unbroken, file)


def test_adapters_of_another_encoder_are_refused(adapters_file, unbroken, tmp_path):
    with pytest.raises(UserError, match=r'belong to the encoder of "run" with checksum \w{8}, .* has \w{8}'):
        load_recognizer(unbroken, adapters_file)
    with pytest.raises(UserError, match=r"adapters\.safetensors holds adapters: give it as --adapters"):
        load_recognizer(adapters_file)
    save_weights(tmp_path / "whole.safetensors", *load_params(unbroken))
    with pytest.raises(UserError, match=r"whole\.safetensors holds a whole model, not adapters"):
        load_recognizer(unbroken, tmp_path / "whole.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(adapters_file.read_bytes()[:-50])
    with pytest.raises(UserError, match=r"cut\.safetensors: cannot be read"):
        load_recognizer(unbroken, tmp_path / "cut.safetensors")
    with pytest.raises(UserError, match=r"no such file: .*gone\.safetensors"):
        load_recognizer(unbroken, tmp_path / "gone.safetensors")


def test_a_checksum_is_of_the_encoder_only(adapted):
    _, params, _ = load_params(adapted)
    checksum = encoder_checksum(params)
    assert encoder_checksum({"encoder": params["encoder"]}) == checksum
    block = params["encoder"]["blocks_0"]
    moved = {**block["proj"], "bias": np.nextafter(block["proj"]["bias"], np.float32(1))}
    changed = {**params["encoder"], "blocks_0": {**block, "proj": moved}}
    assert encoder_checksum({"encoder": changed}) != checksum
