"""scripts/show_reconstructions.py: what a masked autoencoder makes of any images."""

import re
import subprocess
import sys
from dataclasses import replace

import jax
import numpy as np
import pytest
from PIL import Image

from data_pipelines.errors import DataError, UserError
from maerec_jax.models.mae import MaskedAutoencoder, reconstruction_error, reconstruction_target
from maerec_jax.models.vit import normalize, patchify
from maerec_jax.training.loop import train
from maerec_jax.training.pretraining import Pretraining, masked_and_reconstructed
from maerec_jax.weights.checkpoint import load_params
from tests.conftest import REPOSITORY
from tests.training.conftest import autoencoder_config, cross_autoencoder_config, recogniser_config

SCRIPT = REPOSITORY / "scripts" / "show_reconstructions.py"


@pytest.fixture(scope="module")
def script(script_module):
    """The script as a module."""
    return script_module("show_reconstructions")


@pytest.fixture(scope="module")
def mae(tmp_path_factory):
    """The workdir of a run of pre-training."""
    config = autoencoder_config(tmp_path_factory.mktemp("mae"), steps=1)
    train(config)
    return config.workdir


@pytest.fixture(scope="module")
def cross_mae(tmp_path_factory):
    """Likewise, of CrossMAE, with images of several sizes."""
    config = cross_autoencoder_config(tmp_path_factory.mktemp("cross_mae"), steps=1)
    train(replace(config, data=replace(config.data, buckets=((32, 64), (32, 128)))))
    return config.workdir


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of images of two aspect ratios."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for name, size in (("long", (32, 128)), ("longer", (20, 100)), ("short", (30, 40))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(folder / f"{name}.png")
    return folder


def show(script, capsys, *names, **settings):
    """Exit status and lines that were printed."""
    status = script.show_reconstructions(script.ReconstructionArguments(tuple(map(str, names)), **settings))
    return status, capsys.readouterr().out.splitlines()


def test_errors_are_those_of_the_loss(script, mae, images, tmp_path, capsys):
    output = tmp_path / "new" / "all.png"
    ratios = (0.5, 0.75)
    file = images / "long.png"
    status, (line,) = show(script, capsys, file, checkpoint=mae, mask_ratio=ratios, output=str(output))
    assert status == 0
    config, params, _ = load_params(mae)
    image = normalize(np.asarray(Image.open(file))[None], config.model.encoder)
    noise = np.random.default_rng((0, 0)).random((1, 16), np.float32)
    expected = []
    for ratio in ratios:
        model = replace(config.model, mask_ratio=ratio)
        out = MaskedAutoencoder(model).apply({"params": params}, image, noise)
        error = reconstruction_error(out["pred"], reconstruction_target(image, model), out["mask"])
        expected.append(f"{ratio:.0%} hidden, error {float(error[0]):.4f}")
    assert line == f"{file}: {'; '.join(expected)}"
    assert np.asarray(Image.open(output)).std() > 10


@pytest.mark.parametrize("kind", ["mae", "cross_mae"])
def test_hidden_patches_are_predicted_and_visible_ones_kept(script, kind, request, images):
    """What a ratio hides larger ones hide, too; and of CrossMAE all that is hidden is predicted."""
    workdir = request.getfixturevalue(kind)
    config, params, _ = load_params(workdir)
    tasks = script.tasks_of(config, (0.25, 0.85), workdir)
    image = np.asarray(Image.open(images / "long.png"))[None]
    noise = [np.random.default_rng((0, 0)).random(16, np.float32)]
    hidden = []
    for task in tasks.values():
        made = script.reconstruct(task, params, list(image), noise)
        masked, result = masked_and_reconstructed(image, made["mask"], made["pixels"], task.encoder)
        hidden.append(made["mask"][0] > 0)
        for patches, grey in ((masked, True), (result, False)):
            patches = np.asarray(patchify(patches, (16, 16)))[0]
            original = np.asarray(patchify(image, (16, 16)))[0]
            np.testing.assert_array_equal(patches[~hidden[-1]], original[~hidden[-1]])
            assert ((patches[hidden[-1]] == 128).all(axis=1) == grey).all()
    assert [part.sum() for part in hidden] == [4, 14]
    assert (hidden[0] <= hidden[1]).all()


def test_what_is_hidden_depends_on_seed_and_place_alone(script, mae, images, capsys, tmp_path):
    """Not on the other images; batches are filled up without changing what is in them."""
    output = str(tmp_path / "a.png")
    _, lines = show(script, capsys, images, checkpoint=mae, output=output)
    _, again = show(script, capsys, images / "long.png", images, checkpoint=mae, output=output)
    _, other = show(script, capsys, images, checkpoint=mae, output=output, seed=1)
    assert len(lines) == 3
    assert len(again) == 4
    assert again[0] == lines[0]
    assert all(a != b for a, b in zip(lines, other, strict=True))


def test_the_loss_is_what_it_was(mae):
    """Validation and training compute the same error where all that is hidden is predicted."""
    config, params, _ = load_params(mae)
    task = Pretraining(config.model, np.float32)
    image = np.random.default_rng(0).integers(0, 256, (4, 32, 128, 3), np.uint8)
    batch = {"image": image, "valid": np.array([True, True, False, True])}
    found = jax.jit(task.evaluation_step)(params, batch)
    loss = task.loss(params, task.prepare(batch, jax.random.key(0)), jax.random.key(0))
    np.testing.assert_allclose(found["total"], loss.total, rtol=1e-5)
    assert found["weight"] == loss.weight == 3
    assert set(found) == {"total", "weight", "image", "mask", "pixels"}


def test_command_draws_a_file_for_each_image_in_its_nearest_size(cross_mae, images, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    output = tmp_path / "pictures"
    command = [sys.executable, str(SCRIPT), str(images), str(tmp_path / "broken.png"), "--checkpoint", cross_mae]
    done = subprocess.run(
        [*command, "--output", str(output)], capture_output=True, text=True, timeout=300, cwd=REPOSITORY
    )
    assert done.returncode == 1
    assert "not read: " in done.stderr
    assert "1 of 4 images could not be read" in done.stderr
    assert "Traceback" not in done.stderr
    shapes = {file.name: np.asarray(Image.open(file)).shape[1::-1] for file in output.iterdir()}
    assert set(shapes) == {"000000_long.png", "000001_longer.png", "000002_short.png"}
    # Three times 128 x 32 pixels, twice as large, and three times 64 x 32 pixels, three times as large.
    assert shapes["000000_long.png"] == shapes["000001_longer.png"] == (3 * 256 + 4 * 6, 18 + 18 + 64 + 3 * 6)
    assert shapes["000002_short.png"] == (3 * 192 + 4 * 6, 18 + 18 + 96 + 3 * 6)


def test_mistakes_are_named(script, mae, cross_mae, images, tmp_path, capsys):
    def fails(message, *names, **settings):
        with pytest.raises((UserError, DataError), match=re.escape(message)):
            show(script, capsys, *names, **{"checkpoint": mae, **settings})

    (tmp_path / "empty").mkdir()
    fails("empty: holds no images", tmp_path / "empty")
    fails("no such image or folder: nowhere", "nowhere")
    fails("no such checkpoint: nowhere", images, checkpoint="nowhere")
    fails("mask_ratio 0.99 leaves 0 of 16 patches", images, mask_ratio=(0.5, 0.99))
    fails(
        "mask_ratio 0.9 leaves 0 of 8 patches of an image of 32 x 64", images, mask_ratio=(0.9,), checkpoint=cross_mae
    )
    with pytest.raises(UserError, match="a/run holds a recogniser, which reconstructs nothing"):
        script.tasks_of(recogniser_config("x"), (), "a/run")
    with pytest.raises(ValueError, match=r"between 0 and 1, not 1\.5"):
        script.ReconstructionArguments(("a.png",), "x", mask_ratio=(0.5, 1.5))
