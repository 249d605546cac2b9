"""Configs and their overrides: typed, complete, and helpful where they are wrong."""

import json
import string
from dataclasses import replace
from pathlib import Path

import pytest

from data_pipelines.errors import UserError
from maerec_jax.config import TrainConfig, config_from_flags, differences, read_json, to_json
from maerec_jax.models.cross_mae import CrossMAEConfig
from maerec_jax.models.mae import MAEConfig
from maerec_jax.models.maerec import MAERecConfig

REPOSITORY = Path(__file__).parent.parent
CONFIGS = sorted((REPOSITORY / "configs").glob("[!_]*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_loads_and_survives_json(path, tmp_path):
    config = config_from_flags(str(path), [])
    assert config.workdir == f"runs/{path.stem}"
    (tmp_path / "config.json").write_text(to_json(config))
    assert read_json(tmp_path / "config.json") == config


def test_full_size_recipes_are_the_published_ones():
    mae, rec = (config_from_flags(str(REPOSITORY / f"configs/{n}.py"), []) for n in ("mae_vit_s", "maerec_s"))
    assert mae.model == MAEConfig.small()
    assert (mae.batch_size, mae.epochs, mae.optimizer.warmup_epochs) == (1024, 20, 2)
    assert (mae.optimizer.learning_rate, mae.optimizer.reference_batch) == (1.5e-4, 256)
    assert (mae.optimizer.betas, mae.optimizer.weight_decay, mae.optimizer.decay_vectors) == ((0.9, 0.95), 0.05, False)
    assert mae.data.interpolation == "bicubic"
    assert rec.model == MAERecConfig.small()
    assert (rec.epochs, rec.optimizer.learning_rate, rec.optimizer.final_learning_rate) == (10, 1e-4, 1e-8)
    assert (rec.optimizer.betas, rec.optimizer.weight_decay, rec.optimizer.decay_vectors) == ((0.9, 0.999), 0.01, True)
    assert rec.data.interpolation == "bilinear"
    base = config_from_flags(str(REPOSITORY / "configs/maerec_b.py"), [])
    assert base.model == MAERecConfig.base()


def test_recipes_with_adapters_are_the_published_ones():
    """That of MAERec-B is its recipe without; that of MAERec-S has an optimizer and a length of its own."""
    small, base, lora_s, lora_b = (
        config_from_flags(str(REPOSITORY / f"configs/{n}.py"), [])
        for n in ("maerec_s", "maerec_b", "maerec_s_lora", "maerec_b_lora")
    )
    for plain, lora in ((small, lora_s), (base, lora_b)):
        assert lora.model.encoder.lora_rank == 4
        assert replace(lora.model, encoder=replace(lora.model.encoder, lora_rank=0)) == plain.model
        assert (lora.data, lora.batch_size) == (plain.data, plain.batch_size)
    assert replace(lora_b, model=base.model, workdir=base.workdir) == base
    optimizer = replace(lora_s.optimizer, learning_rate=1e-4, final_learning_rate=1e-8, weight_decay=0.01)
    assert optimizer == small.optimizer
    found = (lora_s.optimizer.learning_rate, lora_s.optimizer.final_learning_rate, lora_s.optimizer.weight_decay)
    assert (*found, lora_s.epochs) == (4e-4, 4e-6, 0.05, 6)


def test_cross_attending_recipes_differ_in_the_model_only():
    for name, model in (("vit_s", CrossMAEConfig.small()), ("vit_b", CrossMAEConfig.base())):
        mae, cross = (
            config_from_flags(str(REPOSITORY / f"configs/{kind}_{name}.py"), []) for kind in ("mae", "cross_mae")
        )
        assert cross.model == model
        assert (model.encoder, model.decoder_dim, model.mask_ratio) == (mae.model.encoder, 512, 0.75)
        assert replace(cross, model=mae.model, workdir=mae.workdir) == mae


def test_own_words_have_the_characters_of_their_data_root(tmp_path):
    """Without a charset.txt those of ASCII. Drawn words show them, and new ones more often."""
    path = str(REPOSITORY / "configs/own_words.py")
    config = config_from_flags(path, ["--data.root", str(tmp_path)])
    assert config.model.charset.characters == string.digits + string.ascii_letters + string.punctuation
    assert len(config.data.train) == 2
    (tmp_path / "charset.txt").write_text("AÄ£-\n")
    for flags in (["--data.root", str(tmp_path)], [f"--data.root={tmp_path}"]):
        config = config_from_flags(path, flags)
        assert config.data.root == str(tmp_path)
        assert config.model.charset.characters == "AÄ£-"
        assert [words.characters for words in config.data.train[1:]] == ["AÄ£-", "Ä£"]
    (tmp_path / "charset.txt").write_text("AÄA\n")
    with pytest.raises(UserError, match=r"own_words.py:\d+: ValueError: .*:1, character 3: 'A' is there already"):
        config_from_flags(path, ["--data.root", str(tmp_path)])


def test_overrides_are_typed():
    flags = ["--batch-size", "64", "--model.encoder.dim", "192", "--optimizer.betas", "0.8", "0.9"]
    flags += [
        "--data.train.0.path",
        "other.jsonl",
        "--data.augmentation.geometry_probability",
        "0.25",
        "--workdir",
        "x",
    ]
    config = config_from_flags(str(REPOSITORY / "configs/maerec_s.py"), flags)
    assert (config.batch_size, config.model.encoder.dim, config.optimizer.betas) == (64, 192, (0.8, 0.9))
    assert config.data.train[0].path == "other.jsonl"
    assert config.data.augmentation.geometry_probability == 0.25
    assert config.workdir == "x"


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--optimizer.learning-rat", "1"], "--optimizer.learning-rate"),
        (["--batchsize", "1"], "--batch-size"),
        (["--batch-size", "many"], "many"),
        (["--dtype", "float8"], "float8"),
    ],
)
def test_wrong_flags_are_refused_with_the_right_one(flags, told, capsys):
    with pytest.raises(SystemExit) as stop:
        config_from_flags(str(REPOSITORY / "configs/maerec_s.py"), flags)
    assert stop.value.code != 0
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "told"), [(["--model.encoder.heads", "7"], "heads 7"), (["--accumulation", "3"], "3")]
)
def test_values_that_do_not_fit_together_are_refused(flags, told, capsys):
    with pytest.raises(SystemExit) as stop:
        config_from_flags(str(REPOSITORY / "configs/maerec_s.py"), flags)
    assert stop.value.code != 0
    assert f"{told}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--data.buckets", "32", "64", "32", "128"], "one size only"),
        (["--batch-size", "4", "--accumulation", "4"], "at least 2 images"),
        (["--model.encoder.lora-rank", "4"], "no Vision Transformer"),
    ],
)
def test_what_a_model_without_vision_transformer_cannot_do_is_refused(flags, told, capsys):
    with pytest.raises((SystemExit, UserError)) as stop:
        config_from_flags(str(REPOSITORY / "configs/sar.py"), flags)
    assert told in " ".join(f"{stop.value} {capsys.readouterr().err}".split())


def test_missing_config_names_those_there():
    with pytest.raises(UserError, match=r"no such config file: .*maerec_x.py; available: .*maerec_s.py"):
        config_from_flags(str(REPOSITORY / "configs/maerec_x.py"), [])


def test_broken_workdir_config_is_reported_with_its_field(tmp_path):
    with pytest.raises(UserError, match="is not the workdir of a run"):
        read_json(tmp_path / "config.json")
    config = json.loads(to_json(TrainConfig(model=MAERecConfig.tiny())))
    config["model"]["encoder"]["dim"] = "wide"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"model\.maerec\.encoder\.dim"):
        read_json(tmp_path / "config.json")


def test_differences_name_what_matters_only():
    one = TrainConfig(model=MAERecConfig.tiny())
    assert differences(one, replace(one, workdir="x", log_every=3, keep_last=9)) == []
    assert differences(one, replace(one, seed=1)) == ["seed 0 -> 1"]
    assert differences(one, replace(one, model=MAEConfig.tiny()))
