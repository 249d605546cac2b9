"""Whole runs: what they write, resuming, starting from another run, and stopping for numbers that are not finite."""

import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest

from data_pipelines.charset import Charset
from data_pipelines.errors import DataError, UserError
from data_pipelines.sources.files import Annotations, Folder, LmdbWords
from maerec_jax.config import OptimizerConfig, read_json
from maerec_jax.models.other_images import fit_encoder
from maerec_jax.training.loop import NotFiniteError, train
from maerec_jax.training.recognition import Recognition
from maerec_jax.weights.checkpoint import CONFIG_FILE, load_params, saved_steps
from tests.training.conftest import (
    ENCODER,
    autoencoder_config,
    cross_autoencoder_config,
    interrupt_after,
    logged,
    recogniser_config,
)


def assert_same_run(workdir, unbroken):
    """Same losses at every step, same validation, same parameters: to the last bit."""
    assert logged(workdir) == logged(unbroken)
    assert logged(workdir, "word_accuracy", "validation") == logged(unbroken, "word_accuracy", "validation")
    last = saved_steps(unbroken)[-1]
    ours, theirs = (load_params(w / "checkpoints" / str(last))[1] for w in (workdir, unbroken))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_run_writes_what_it_promises(unbroken, pretrained):
    assert sorted(logged(unbroken)) == list(range(1, 13))
    assert sorted(logged(unbroken, "word_accuracy", "validation")) == [6, 12]
    for name in ("learning_rate", "gradient_norm", "epoch", "character_accuracy"):
        assert len(logged(unbroken, name)) == 12
    samples = logged(unbroken, "samples", "samples")[12]
    assert {"name", "text", "reading", "confidence"} == set(samples[0])
    for workdir, config in ((unbroken, recogniser_config), (pretrained, autoencoder_config)):
        assert read_json(workdir / CONFIG_FILE) == config(workdir)
        assert list((workdir / "tensorboard").glob("events*"))
        picture = cv2.imread(str(sorted((workdir / "pictures").glob("validation_*.png"))[-1]))
        assert picture.std() > 10
    assert len(saved_steps(unbroken)) in (2, 3)  # the last two, and the best if it is neither


@pytest.mark.parametrize(("make_config", "steps"), [(autoencoder_config, 40), (cross_autoencoder_config, 120)])
def test_losses_fall(make_config, steps, tmp_path):
    config = make_config(tmp_path, steps=steps, optimizer=OptimizerConfig(learning_rate=3e-3, warmup_epochs=0.5))
    train(config)
    losses = list(logged(tmp_path).values())
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])


def test_pretraining_without_validation_data_shows_training_images(tmp_path):
    config = autoencoder_config(tmp_path, steps=1)
    train(replace(config, data=replace(config.data, validation=())))
    assert len(list((tmp_path / "pictures").glob("validation_*.png"))) == 1


def test_resumed_run_equals_unbroken_run(unbroken, tmp_path, monkeypatch):
    config = recogniser_config(tmp_path / "run")
    for batches in (7, 3):
        with monkeypatch.context() as patch:
            interrupt_after(patch, batches)
            with pytest.raises(KeyboardInterrupt):
                train(config)
    train(config)
    assert_same_run(tmp_path / "run", unbroken)


def test_finished_run_is_left_as_it_is(unbroken, tmp_path, capsys):
    shutil.copytree(unbroken, tmp_path / "run")
    train(recogniser_config(tmp_path / "run"))
    assert logged(tmp_path / "run") == logged(unbroken)
    assert "resumed" in capsys.readouterr().err


def test_workdir_of_another_config_is_refused(unbroken):
    config = recogniser_config(unbroken)
    with pytest.raises(UserError, match=r"another config.*optimizer\.learning_rate 0\.0001 -> 0\.5.*--workdir"):
        train(replace(config, optimizer=OptimizerConfig(learning_rate=0.5)))
    with pytest.raises(UserError, match=r"model\.encoder\.dim"):
        train(replace(config, model=replace(config.model, encoder=replace(config.model.encoder, dim=64))))


def started_config(workdir, **changes):
    """A run of one step, which changes nothing, without validation."""
    config = recogniser_config(workdir, **{"steps": 1, **changes})
    return replace(config, data=replace(config.data, validation=()))


def test_fine_tuning_starts_from_a_pretrained_encoder(pretrained, tmp_path, capsys):
    config = started_config(tmp_path, init_from=str(pretrained))
    train(config)
    _, before, _ = load_params(pretrained)
    _, after, _ = load_params(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, after["encoder"], before["encoder"])
    told = capsys.readouterr().err
    assert "fresh: decoder (23 parameters" in told
    assert "fresh: encoder" not in told


def test_a_recogniser_goes_on_with_an_encoder_that_was_pretrained_further(unbroken, pretrained, tmp_path, capsys):
    config = started_config(tmp_path, init_from=str(unbroken), init_encoder_from=str(pretrained))
    train(config)
    (_, recogniser, _), (_, mae, _), (_, after, _) = map(load_params, (unbroken, pretrained, tmp_path))
    assert np.any(recogniser["encoder"]["pos_embed"] != mae["encoder"]["pos_embed"])
    jax.tree.map(np.testing.assert_array_equal, after, {**recogniser, "encoder": mae["encoder"]})
    told = capsys.readouterr().err
    assert f"with the encoder of {pretrained}: " in told
    assert "fresh:" not in told
    train(config)
    assert f"; --init-encoder-from {pretrained} is ignored" in capsys.readouterr().err


def test_an_encoder_that_cannot_take_the_place_of_another_is_refused(unbroken, pretrained, tmp_path):
    with pytest.raises(UserError, match=r"dim 192 instead of .*, depth 10 instead of .*, patch_size \(32, 4\) inst"):
        train(recogniser_config(tmp_path, init_from=str(unbroken), init_encoder_from="maerec_tiny"))
    with pytest.raises(UserError, match=r"--init-from, which is missing; .* give it as --init-from"):
        train(recogniser_config(tmp_path, init_encoder_from=str(pretrained)))
    assert not list(tmp_path.iterdir())


def test_fine_tuning_starts_from_a_cross_attending_autoencoder(tmp_path, capsys):
    """All of its encoder is taken; its pictures show all hidden patches, though few are predicted in training."""
    train(cross_autoencoder_config(tmp_path / "cross", steps=2, accumulation=2))
    assert cv2.imread(str(tmp_path / "cross" / "pictures" / "validation_0000002.png")).std() > 10
    config = started_config(tmp_path / "rec", init_from=str(tmp_path / "cross"))
    train(config)
    before, after = (load_params(tmp_path / name)[1] for name in ("cross", "rec"))
    jax.tree.map(np.testing.assert_array_equal, after["encoder"], before["encoder"])
    told = capsys.readouterr().err
    assert "(cross_mae, step 2)" in told
    assert "fresh: encoder" not in told


def test_parameters_that_do_not_fit_are_named(unbroken, tmp_path, capsys):
    config = started_config(tmp_path, init_from=str(unbroken))
    decoder = replace(config.model.decoder, inner_dim=2 * config.model.decoder.inner_dim)
    train(replace(config, model=replace(config.model, decoder=decoder)))
    fresh = [line for line in capsys.readouterr().err.splitlines() if "fresh:" in line]
    assert len(fresh) == 3 * decoder.layers  # two kernels and a bias of each layer
    assert all("has shape (" in line and "needs (" in line for line in fresh)


def test_an_encoder_for_other_images_is_brought_to_those_of_the_run(unbroken, tmp_path, capsys):
    """Patches, position table and pixel scale; a run with other ones in all else goes on from what was learnt."""
    config = started_config(tmp_path, init_from=str(unbroken))
    encoder = replace(ENCODER, patch_size=(16, 8), pixel_mean=(0.0, 0.0, 0.0), pixel_std=(255.0, 255.0, 255.0))
    train(replace(config, model=replace(config.model, encoder=encoder)))
    told = capsys.readouterr().err
    for change in ("from 16 x 16 to 16 x 8 pixels", "mean 0 0 0, std 255", "from 2 x 8 to 2 x 16 patches"):
        assert change in told
    assert "fresh:" not in told
    before, after = (load_params(workdir)[1] for workdir in (unbroken, tmp_path))
    expected, _ = fit_encoder(before["encoder"], ENCODER, encoder)
    jax.tree.map(np.testing.assert_array_equal, after, {**before, "encoder": expected})


def test_a_table_that_does_not_say_where_patches_lie_is_not_brought_to_others(unbroken, tmp_path, capsys):
    config = started_config(tmp_path, init_from=str(unbroken))
    encoder = replace(ENCODER, patch_size=(8, 8), position_table="square")
    train(replace(config, model=replace(config.model, encoder=encoder)))
    told = capsys.readouterr().err
    assert "fresh: encoder/pos_embed (" in told
    assert "fresh: encoder/patch_embed/kernel (" in told


def test_what_is_known_of_characters_goes_to_their_classes_in_another_charset(unbroken, tmp_path, capsys):
    config = started_config(tmp_path, init_from=str(unbroken))
    before = config.model.charset
    after = Charset("é!" + before.characters[::-1])
    train(replace(config, model=replace(config.model, charset=after)))
    told = capsys.readouterr().err
    assert "fresh:" not in told
    assert f"2 of {len(after.characters)} characters are new: 'é' (starts as 'e'), '!'\n" in told
    (_, old, _), (_, new, _) = load_params(unbroken), load_params(tmp_path)
    places = [before.characters.index("e"), *map(before.characters.index, after.characters[2:])]
    places += [before.start_end, before.padding, before.unknown]
    kept = [i for i in range(after.n_classes) if i != 1]
    tables = lambda params: (params["decoder"]["embedding"], params["decoder"]["classifier"]["kernel"].T)  # noqa: E731
    for of_old, of_new in zip(tables(old), tables(new), strict=True):
        np.testing.assert_array_equal(of_new[kept], of_old[places])
        np.testing.assert_allclose(of_new[1], of_old[: len(before.characters)].mean(0), atol=1e-6)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    optimizer = OptimizerConfig(learning_rate=1e30, schedule="constant")
    config = recogniser_config(tmp_path, optimizer=optimizer, checkpoint_every=100, validate_every=100)
    # Loss and gradient are finite: it is the update that is not.
    told = r"step \d+: loss \d.*, gradient norm \d.*, norm of the update (inf|nan); the state before it is saved"
    with pytest.raises(NotFiniteError, match=told):
        train(config)
    losses = logged(tmp_path)
    _, params, step = load_params(tmp_path)
    assert step == len(losses)  # steps 0 to step - 1 were good, and the state after them is on disk
    assert np.isfinite(list(losses.values())).all()
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(params))


def write_words(folder, n, broken):
    """n labelled images, of which the given ones are no images."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    lines = []
    for i in range(n):
        name = f"{i}.png"
        cv2.imwrite(str(folder / name), rng.integers(0, 256, (20, 60, 3), np.uint8))
        if i in broken:
            (folder / name).write_bytes(b"this is no image")
        lines.append(f'{{"filename": "{name}", "text": "word"}}')
    (folder / "labels.jsonl").write_text("\n".join(lines) + "\n")
    return Annotations("labels.jsonl")


def test_corrupt_images_are_masked_out_and_shown(tmp_path, capsys):
    source = write_words(tmp_path / "data", 32, broken={3, 4})
    config = recogniser_config(tmp_path / "run", steps=4)
    train(replace(config, data=replace(config.data, root=str(tmp_path / "data"), train=(source,))))
    told = capsys.readouterr().err
    assert "masked out: 3.png: it is text, not an image" in told
    lines = logged(tmp_path / "run", "invalid_images")
    assert max(lines.values()) == 4  # two epochs of 32 images


def test_too_many_corrupt_images_stop_the_run(tmp_path):
    source = write_words(tmp_path / "data", 64, broken=set(range(20)))
    config = recogniser_config(tmp_path / "run", steps=100)
    config = replace(config, data=replace(config.data, root=str(tmp_path / "data"), train=(source,)))
    with pytest.raises(DataError, match=r"train\.0 \(labels\.jsonl\): .*, more than data\.max_invalid 10%"):
        train(config)


def test_validation_data_is_checked_at_the_start(tmp_path):
    write_words(tmp_path / "data", 4, broken=set())
    config = recogniser_config(tmp_path / "run")
    data = replace(config.data, root=str(tmp_path), validation=(Folder("data"),))
    with pytest.raises(DataError, match=r"0\.png has no label"):
        train(replace(config, data=data))


def test_corrupt_validation_images_are_counted_as_wrong_and_shown(tmp_path, capsys):
    source = write_words(tmp_path / "data", 4, broken={1})
    (tmp_path / "data" / "3.png").unlink()
    config = recogniser_config(tmp_path / "run", steps=1)
    train(replace(config, data=replace(config.data, root=str(tmp_path / "data"), validation=(source,))))
    told = capsys.readouterr().err
    assert "masked out: 1.png" in told
    assert "3.png: image not found" in told
    assert logged(tmp_path / "run", "invalid_images", "validation") == {1: 2}
    assert logged(tmp_path / "run", "words", "validation") == {1: 4}


def test_a_failing_validation_does_not_lose_the_training_before_it(tmp_path, monkeypatch):
    def fail(*_):
        raise DataError("the disk has gone")

    monkeypatch.setattr(Recognition, "validate", fail)
    with pytest.raises(DataError, match="the disk has gone"):
        train(recogniser_config(tmp_path / "run", steps=3))
    assert saved_steps(tmp_path / "run") == [3]


def test_labels_that_are_cut_are_counted(tmp_path, capsys):
    source = write_words(tmp_path / "data", 4, broken=set())
    file = tmp_path / "data" / "labels.jsonl"
    file.write_text(file.read_text().replace("word", "wordwordword", 1))
    config = recogniser_config(tmp_path / "run", steps=1)
    train(replace(config, data=replace(config.data, root=str(tmp_path / "data"), train=(source,))))
    assert "1 labels are longer than 6 characters and cut" in capsys.readouterr().err


def test_real_words_train(real_data, tmp_path):
    """Both stages on real words in Union14M's layout, the recogniser from the encoder."""
    sources = tuple(LmdbWords(f"Union14M-U/{name}") for name in ("book32_lmdb", "cc_lmdb", "openvino_lmdb"))
    config = autoencoder_config(tmp_path / "mae", steps=3)
    train(replace(config, data=replace(config.data, root=str(real_data), train=sources, validation=())))
    folder = "Union14M-L/train_annos"
    config = recogniser_config(tmp_path / "rec", steps=3, init_from=str(tmp_path / "mae"))
    config = replace(config, model=replace(config.model, charset=Charset()))
    data = replace(
        config.data,
        root=str(real_data),
        train=(Annotations(f"{folder}/mmocr1.0/train_hard.json"), Annotations(f"{folder}/mmocr-0.x/train_easy.jsonl")),
        validation=(Annotations("Union14M-L/Union14M-Benchmarks/curve/annotation.json"),),
    )
    train(replace(config, data=data))
    for name in ("mae", "rec"):
        assert np.isfinite(list(logged(tmp_path / name).values())).all()
    assert logged(tmp_path / "rec", "words", "validation") == {3: 60}


def test_best_checkpoint_is_kept_and_read(tmp_path, monkeypatch):
    scores = iter([0.1, 0.9, 0.3, 0.2])
    validate = Recognition.validate
    monkeypatch.setattr(Recognition, "validate", lambda self, *a: validate(self, *a)._replace(score=next(scores)))
    train(recogniser_config(tmp_path, validate_every=3, checkpoint_every=100))
    assert saved_steps(tmp_path) == [6, 9, 12]
    assert load_params(tmp_path)[2] == 6
    assert load_params(tmp_path / "checkpoints" / "9")[2] == 9


def test_bfloat16_is_float32_on_cpus_and_told(unbroken, tmp_path, capsys):
    train(recogniser_config(tmp_path, dtype="bfloat16", steps=2))
    assert "bfloat16: CPUs cannot train in it, so this computes in float32" in capsys.readouterr().err
    assert list(logged(tmp_path).values()) == list(logged(unbroken).values())[:2]


def test_own_and_drawn_images_are_told_apart(tmp_path, capsys):
    source = write_words(tmp_path / "data", 8, broken=set())
    config = recogniser_config(tmp_path / "run", steps=1)
    train_sources = (source, replace(config.data.train[0], weight=0.75))
    data = replace(config.data, root=str(tmp_path / "data"), train=train_sources, validation=())
    train(replace(config, data=data))
    told = capsys.readouterr().err
    assert "8 own and 160 drawn training images, 2.0 steps an epoch of own ones, 1 steps" in told
    assert logged(tmp_path / "run", "epoch") == {1: 0.5}


def test_moving_average_is_what_is_read(tmp_path):
    train(recogniser_config(tmp_path, ema_decay=0.9, steps=3))
    _, params, _ = load_params(tmp_path)
    train(recogniser_config(tmp_path, ema_decay=0.9, steps=3))  # resumes with it, too
    assert Path(tmp_path).is_dir()
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(params))
