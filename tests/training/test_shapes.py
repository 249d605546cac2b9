"""Training and reading with aspect-ratio buckets and with vertical words turned."""

import re
from dataclasses import replace

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.rendering import RenderedWords
from data_pipelines.sources.files import Annotations
from maerec_jax import ReadingConfig, Recognizer
from maerec_jax.config import DataConfig
from maerec_jax.distributed.sharding import make_mesh
from maerec_jax.models.mae import MaskedAutoencoder
from maerec_jax.models.maerec import MAERecConfig
from maerec_jax.models.position import resize_table, sincos_2d
from maerec_jax.models.vit import ViTConfig, ViTEncoder
from maerec_jax.training.evaluation import Evaluator
from maerec_jax.training.loop import train
from maerec_jax.training.run import make_task
from maerec_jax.weights.checkpoint import load_params
from tests.data_pipelines.planting import write_lines
from tests.training.conftest import CHARACTERS, autoencoder_config, interrupt_after, logged, recogniser_config

SHAPES = ((64, 32), (16, 64))


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A data root with 96 rendered words in files, every fourth of them turned to the right."""
    root = tmp_path_factory.mktemp("words")
    source = RenderedWords(size=96, characters=CHARACTERS, min_length=3, max_length=6, difficulty=0.2).open(root)
    (root / "imgs").mkdir()
    records = []
    for index in range(96):
        image, text = source[index]
        image = np.rot90(image, -1) if index % 4 == 0 else image
        cv2.imwrite(str(root / f"imgs/{index:02d}.png"), np.ascontiguousarray(image[..., ::-1]))
        records.append((f"imgs/{index:02d}.png", text))
    write_lines(root / "words.jsonl", records)
    return root


def config(make, workdir, words, **changes):
    default = make(workdir)
    data = DataConfig(
        root=str(words), train=(Annotations("words.jsonl"),), validation=(Annotations("words.jsonl"),), **changes
    )
    return replace(default, data=data, steps=6, validate_every=3)


@pytest.mark.parametrize("make", [recogniser_config, autoencoder_config])
def test_a_run_with_buckets_trains_on_every_shape_and_resumes_exactly(make, tmp_path, words, monkeypatch, capsys):
    whole = config(make, tmp_path / "whole", words, buckets=SHAPES)
    train(whole)
    losses = logged(tmp_path / "whole")
    assert len(losses) == 6
    assert np.isfinite(list(losses.values())).all()
    assert re.search(r"buckets: 64x32 2\d\.\d%, 16x64 7", capsys.readouterr().err)  # every fourth is turned
    resumed = replace(whole, workdir=str(tmp_path / "resumed"))
    with monkeypatch.context() as patch:
        interrupt_after(patch, 4)
        with pytest.raises(KeyboardInterrupt):
            train(resumed)
    train(resumed)
    assert logged(tmp_path / "resumed") == losses


def test_buckets_need_a_table_that_can_be_resized_and_shapes_that_fit(tmp_path, words):
    good = config(recogniser_config, tmp_path, words, buckets=SHAPES)
    square = MAERecConfig.tiny(encoder=ViTConfig.tiny(position_table="square"))
    with pytest.raises(ValueError, match="position table"):
        replace(good, model=square)
    with pytest.raises(ValueError, match="bucket 24 x 24"):
        replace(good, data=replace(good.data, buckets=((24, 24),)))


def test_a_resized_table_keeps_the_class_token_and_the_order_of_places():
    table = jnp.asarray(sincos_2d((8, 32), 64, "grid")).at[:, 0].set(7.0)
    assert resize_table(table, (8, 32), (8, 32)) is table
    ramp = jnp.arange(8 * 32, dtype=jnp.float32).reshape(1, -1, 1)
    ramp = jnp.concatenate([jnp.full((1, 1, 1), -5.0), ramp], axis=1)
    wide = np.asarray(resize_table(ramp, (8, 32), (4, 64)))
    assert wide.shape == (1, 257, 1)
    assert wide[0, 0, 0] == -5
    rows = wide[0, 1:, 0].reshape(4, 64)
    assert (np.diff(rows, axis=0) > 0).all()
    assert (np.diff(rows, axis=1) >= 0).all()
    np.testing.assert_array_equal(resize_table(table, (8, 32), (16, 16))[0, 0], 7.0)


@pytest.mark.parametrize("size", [(16, 256), (48, 96)])
def test_models_take_images_of_other_sizes_with_the_same_parameters(size):
    encoder = ViTConfig.tiny(position_table="grid")
    image = jax.random.normal(jax.random.key(0), (2, *size, 3))
    model = ViTEncoder(encoder)
    params = jax.jit(model.init)(jax.random.key(1), jnp.zeros((1, 32, 128, 3)))
    patches = size[0] * size[1] // 16
    assert jax.eval_shape(model.apply, params, image).shape == (2, 1 + patches, 64)
    autoencoder = MaskedAutoencoder(autoencoder_config("run").model)
    grid = autoencoder.config.encoder.grid_of(size)
    params = jax.jit(autoencoder.init)(jax.random.key(1), jnp.zeros((1, 32, 128, 3)), jnp.zeros((1, 16)))
    noise = jax.random.uniform(jax.random.key(2), (2, grid[0] * grid[1]))
    out = jax.jit(autoencoder.apply)(params, image, noise)
    assert out["pred"].shape == (2, grid[0] * grid[1], 16 * 16 * 3)
    assert np.isfinite(out["pred"]).all()


def test_the_likeliest_of_three_ways_to_read_a_portrait_image_wins(tmp_path, words):
    run = config(recogniser_config, tmp_path / "run", words, buckets=SHAPES, turn_vertical=True)
    train(run)
    recognizer = Recognizer.load(tmp_path / "run")
    assert recognizer.handling.turn
    upright = Recognizer.load(tmp_path / "run", ReadingConfig(turn=False))
    paths = sorted((words / "imgs").iterdir())
    read = recognizer.read(paths)
    pixels = [cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path in paths]
    ways = [upright.read([np.rot90(image, turns).copy() for image in pixels]) for turns in (0, 1, 3)]
    for image, word, *three in zip(pixels, read, *ways, strict=True):
        portrait = image.shape[0] > image.shape[1]
        best = max(three, key=lambda way: way.probability) if portrait else three[0]
        assert word.text == best.text
        np.testing.assert_allclose(word.confidence, best.confidence, atol=1e-5)

    saved, params, _ = load_params(tmp_path / "run")
    source = Annotations("words.jsonl").open(words)
    evaluator = Evaluator(replace(saved, batch_size=32), make_task(saved), source, make_mesh())
    found = evaluator(params, print)
    assert found.metrics["words"] == 96
    right = sum(word.text == source.text(index) for index, word in enumerate(read))
    np.testing.assert_allclose(found.metrics["word_accuracy"], right / 96)
    readings = {sample["name"]: sample["reading"] for sample in found.samples}
    expected = {source.name(index): word.text for index, word in enumerate(read)}
    assert readings == {name: expected[name] for name in readings}
