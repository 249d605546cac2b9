"""ASTER computes what the Union14M repository's computes, learns, and goes to files and comes back."""

import zlib
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax.traverse_util import flatten_dict

from data_pipelines.charset import Charset
from maerec_jax.config import OptimizerConfig, TrainConfig
from maerec_jax.models.aster import ASTER, ASTERConfig
from maerec_jax.models.batch_norm import STATISTICS
from maerec_jax.models.beam import beam_read
from maerec_jax.models.greedy import greedy_read
from maerec_jax.models.interface import normalize, token_loss
from maerec_jax.models.rectifier import sample, spline_points, spline_tables
from maerec_jax.training.optimizer import make_optimizer
from maerec_jax.training.recognition import Recognition
from maerec_jax.training.run import make_task
from maerec_jax.training.step import StepSettings, initial_state, make_train_step
from maerec_jax.weights.state_dicts import params_from_state_dict, state_dict_from_params
from tests.conftest import FIXTURES

CONFIG = ASTERConfig.tiny(charset=Charset("012abcdAB!# "))
BUFFERS = ("tps", "running_mean", "running_var", "num_batches_tracked")
REPR = "preprocessor.tps.target_coordinate_repr"


def load():
    with np.load(FIXTURES / "baselines" / "aster_tiny.npz") as npz:
        return dict(npz)


def reference_state(fixture):
    """The state dict, whose large tensors are not in the file but made by a formula."""
    state = {key[3:]: np.float32(value) for key, value in fixture.items() if key.startswith("sd/")}
    shapes = {key: value.shape for key, value in state_dict_from_params(zeros(), CONFIG).items()}
    for key, total in zip(fixture["formula_keys"].tolist(), fixture["formula_abs_sums"], strict=True):
        if key == REPR:
            state[key] = reference_rows(state["preprocessor.tps.target_control_points"])
        else:
            inputs = {"preprocessor.stn_fc1.0.weight": 512**-0.5, "preprocessor.stn_fc2.weight": 0.05}
            deviation = inputs.get(key) or (9 * shapes[key][1]) ** -0.5
            rng = np.random.Generator(np.random.PCG64(zlib.crc32(f"tiny/{key}".encode())))
            state[key] = (deviation * rng.standard_normal(shapes[key])).astype(np.float32)
        np.testing.assert_allclose(np.abs(state[key].astype(float)).sum(), total, rtol=1e-8)
    return state


def reference_rows(targets):
    """The spline's table as the reference rounds it."""
    y, x = torch.meshgrid(torch.arange(32) / 31, torch.arange(100) / 99, indexing="ij")
    pixels = torch.stack([x.ravel(), y.ravel()], 1)
    square = (pixels[:, None] - torch.tensor(targets)).square().sum(-1)
    bending = torch.where(square > 0, 0.5 * square * square.log(), 0.0)
    return torch.cat([bending, torch.ones(len(pixels), 1), pixels], 1).numpy()


def zeros():
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(CONFIG.init, jax.random.key(0)))


def assert_close(actual, expected, tolerance, what=""):
    """The error relative to the largest value of the array is below the tolerance."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, what
    error = np.abs(actual - expected).max() / np.abs(expected).max()
    assert error < tolerance, f"{what}: relative error {error:.2e}"


def apply(params, *inputs, **options):
    return ASTER(CONFIG).apply({"params": params}, *inputs, **options)


READ = jax.jit(CONFIG.read)


@pytest.fixture(scope="module")
def fixture():
    return load()


@pytest.fixture(scope="module")
def state(fixture):
    return reference_state(fixture)


@pytest.fixture(scope="module")
def params(state):
    """Weights of the reference, for BGR pixels."""
    return params_from_state_dict(state, CONFIG)


@pytest.fixture(scope="module")
def image(fixture):
    """BGR pixels, normalised."""
    found = normalize(fixture["images_uint8_bgr_nchw"].transpose(0, 2, 3, 1), CONFIG)
    np.testing.assert_allclose(found.transpose(0, 3, 1, 2)[:, :, ::4, ::4], fixture["images_normalised_slice"])
    return found


def picture(fixture):
    """The reference's straight words as ours lie in memory."""
    return fixture["rectified"].transpose(0, 2, 3, 1)


def pictures(x):
    """As PyTorch's lie."""
    return np.asarray(x).transpose(0, 3, 1, 2)


@pytest.fixture(scope="module")
def seen(params, image, fixture):
    """What the rectifier makes of images, what the rest makes of the reference's straight words, and all on the way."""
    options = {"capture_intermediates": lambda module, _: module.name in ("rectifier", "encoder")}
    options["mutable"] = ["intermediates"]

    @jax.jit
    def run(params, image, straight, tokens):
        _, found = apply(params, image, method=lambda m, x: m.rectifier(x), **options)
        logits, more = apply(params, straight, tokens, method=lambda m, x, t: m.decoder(t, m.encode(x)), **options)
        return logits, found["intermediates"] | more["intermediates"]

    return run(params, image, picture(fixture), fixture["padded_indexes"])


def test_rectifier(seen, fixture, state):
    found = seen[1]["rectifier"]
    assert_close(pictures(found["resized"][0])[:, :1, ::4, ::4], fixture["stn_resized_slice"], 1e-5)
    for i, layer in enumerate(found["layers"]):
        np.testing.assert_allclose(np.abs(layer).mean(), fixture["stn_conv_meanabs"][i], rtol=1e-5)
    assert_close(pictures(found["layers"][-1]), fixture["stn_conv_last"], 1e-5)
    assert_close(found["hidden"][0], fixture["stn_fc1"], 1e-5)
    assert_close(found["points"][0], fixture["control_points"], 1e-5)
    source = np.asarray(found["source"][0])
    assert_close(source.reshape(2, 32, 100, 2)[:, ::4, ::5], fixture["tps_source_coords_slice"], 1e-5)
    # Large numbers cancel here: the reference's grid is off by 0.9e-5 itself, ours by less than that.
    shares = state[REPR].astype(float) @ state["preprocessor.tps.inverse_kernel"].astype(float)[:, :20]
    exact = shares @ np.asarray(found["points"][0], float)
    assert_close((2 * exact.clip(0, 1) - 1).reshape(2, 32, 100, 2), fixture["tps_grid"], 1e-5)
    assert_close(2 * source, 2 * exact, 1e-5)
    assert_close(pictures(found["__call__"][0]), fixture["rectified"], 2e-4)


def test_sampling(fixture, image):
    """The reference's grid; and gradients, which are those of PyTorch."""
    points = (fixture["tps_grid"].reshape(2, -1, 2) + 1) / 2
    assert_close(pictures(sample(image, points).reshape(2, 32, 100, 3)), fixture["rectified"], 1e-5)
    leaf = torch.tensor(points[:, None].clip(1e-3, 1 - 1e-3), requires_grad=True)
    torch_image = torch.tensor(pictures(image))
    made = torch.nn.functional.grid_sample(torch_image, 2 * leaf - 1, align_corners=True)
    made.square().sum().backward()
    found = jax.grad(lambda points: jnp.square(sample(image, points)).sum())(leaf.detach().numpy()[:, 0])
    assert_close(found, leaf.grad[:, 0].numpy(), 1e-4)


def test_spline_alone(fixture, state):
    """A stronger warp. The tables are the reference's; it has inverted in float32, which is seen."""
    inverse, rows = spline_tables((32, 100))
    theirs = state["preprocessor.tps.inverse_kernel"]
    np.testing.assert_array_equal(state[REPR][::97], fixture["tps_target_coordinate_repr_slice"])
    np.testing.assert_allclose(rows, state[REPR], atol=2e-7)
    np.testing.assert_allclose(inverse, theirs, atol=2e-3)
    image, points = fixture["tps_only_image"].transpose(0, 2, 3, 1), fixture["tps_only_control_points"]
    warp = jax.jit(lambda *tables: sample(image, spline_points(points, *tables).clip(0, 1)).reshape(2, 32, 100, 3))
    assert_close(warp(theirs, state[REPR])[..., 0], fixture["tps_only_out"][:, 0], 2e-4)
    assert_close(warp(inverse, rows)[..., 0], fixture["tps_only_out"][:, 0], 1e-3)


def test_backbone_encoder_and_decoder(seen, fixture):
    logits, found = seen
    stages = [pictures(x) for x in found["backbone"]["stages"]]
    assert_close(stages[0][:, :, ::4, ::4], fixture["bb_stem_layers_slice"], 1e-5)
    assert_close(stages[1][:, :, ::2, ::2], fixture["bb_layer1_slice"], 1e-5)
    for number in (2, 3, 4, 5):
        assert_close(stages[number], fixture[f"bb_layer{number}"], 1e-5, number)
    assert_close(stages[-1], fixture["feat"], 1e-5)
    assert_close(found["encoder"]["__call__"][0], fixture["enc"], 1e-5)
    assert_close(found["decoder"]["attention"][0], fixture["tf_attn"], 1e-5)
    assert_close(found["decoder"]["hidden"][0], fixture["tf_hidden"], 1e-5)
    assert_close(logits, fixture["tf_logits"], 1e-5)


def test_targets(fixture):
    charset = CONFIG.charset
    special = [charset.start_end, charset.start_end, charset.padding, charset.unknown]
    assert special == fixture["start_end_pad_unk"].tolist()
    for texts, expected in (("target_texts", "target_padded_indexes"), ("gt_texts", "padded_indexes")):
        tokens = [charset.encode(str(text), CONFIG.max_length) for text in fixture[texts]]
        np.testing.assert_array_equal(tokens, fixture[expected])


@cache
def gradients(straight, training):
    """Of the loss that the trainer averages, from images or from straight words, with either normalisation."""

    def total(params, image, tokens):
        counted = jnp.ones(len(image)) if training else None
        method = (lambda m, x, t, c: m.decoder(t, m.encode(x, c))) if straight else None
        logits, found = apply(params, image, tokens, counted, method=method, mutable=[STATISTICS])
        losses, _ = token_loss(logits[:, :-1], tokens[:, 1:], CONFIG.charset.padding)
        return losses.mean(), (losses.ravel(), found.get(STATISTICS))

    return jax.jit(jax.value_and_grad(total, has_aux=True))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("straight", [False, True])
def test_losses_and_gradients(straight, training, fixture, params, image):
    kind = ("train" if training else "eval") + ("_from_rectified" if straight else "")
    (loss, (losses, statistics)), grads = gradients(straight, training)(
        params, picture(fixture) if straight else image, fixture["padded_indexes"]
    )
    # An error of 1e-5 in the grid is 1e-3 of a pixel, and takes some to between others, where gradients are others:
    # those of the reference are off by 3e-2 themselves, and ours by up to 6e-2, each version of XLA by another amount.
    tolerance = 1e-5 if straight else 5e-4
    assert_close(losses, fixture[f"{kind}_loss_ce"], tolerance)
    assert_close(loss, fixture[f"grad_{kind}/total_loss"], tolerance)
    made = state_dict_from_params(grads, CONFIG)
    keys = [key for key in fixture if key.startswith(f"grad_{kind}/") and "." in key]
    assert len(keys) == (9 if straight else 1)
    for key in keys:
        assert_close(made[key.split("/")[1]], fixture[key], 1e-5 if straight else 8e-2, key)
    square = sum(np.square(made[key], dtype=float).sum() for key in made if not any(b in key for b in BUFFERS))
    assert_close(square, fixture[f"grad_{kind}/sqsum_all"], 1e-5 if straight else 8e-2)
    after = [key for key in fixture if key.startswith(f"{kind.replace('train', 'train_after')}/")]
    assert len(after) == (0 if not training else 6 if straight else 3)
    buffers = state_dict_from_params(statistics or {}, CONFIG)
    for key in after:
        assert_close(buffers[key.split("/")[1]], fixture[key], tolerance, key)


def test_the_rectifier_learns_from_what_it_shows(fixture, params, image):
    def mean_square(params):
        return jnp.square(apply(params, image, method=lambda m, x: m.rectifier(x))).mean()

    made = state_dict_from_params(jax.jit(jax.grad(mean_square))(params), CONFIG)
    for key in (key for key in fixture if key.startswith("grad_mean_rectified_sq/")):
        assert_close(made[key.split("/")[1]], fixture[key], 3e-4, key)  # the reference's: 1e-4


class FromFeatures(ASTER):
    """Reads encoded columns instead of images."""

    def start(self, features, hypotheses=1):
        return self.decoder.prepare(features), self.decoder.start(features.shape[0], hypotheses)


def assert_same_reading(reading, probs, fixture, prefix):
    """Texts, classes up to the end and scores of a greedy reading; ``probs`` those of all places, wherever it ends."""
    assert_close(probs, fixture[f"{prefix}_probs"], 5e-4 if prefix == "test" else 1e-5)
    for i, expected in enumerate(fixture[f"{prefix}_texts"]):
        text, places = CONFIG.charset.decode(reading.tokens_BT[i])
        assert text == str(expected)
        scores = fixture[f"{prefix}_scores_nanpadded"][i]
        np.testing.assert_allclose(reading.probability_BT[i, places], scores[~np.isnan(scores)], rtol=1e-3)
        classes = fixture[f"{prefix}_argmax"][i]
        end = np.flatnonzero(classes == CONFIG.charset.start_end)
        upto = end[0] + 1 if len(end) else len(classes)
        np.testing.assert_array_equal(reading.tokens_BT[i, :upto], classes[:upto])
        assert (reading.tokens_BT[i, upto:] == CONFIG.charset.padding).all()


def written(classes):
    """What the reference has written before each place."""
    return np.concatenate([np.full((len(classes), 1), CONFIG.charset.start_end), classes[:, :-1]], axis=1)


def test_greedy_reading(fixture, params, image):
    reading = READ(params, image)
    logits = jax.jit(apply)(params, image, written(fixture["test_argmax"]))
    assert_same_reading(reading, jax.nn.softmax(logits), fixture, "test")


def test_reading_that_ends_everywhere_or_nowhere(fixture, params):
    features = fixture["dec_only_enc"]
    reading = jax.jit(lambda p, x: greedy_read(FromFeatures(CONFIG), p, x))(params, features)
    teacher = partial(apply, method=lambda m, t, f: m.decoder(t, f))
    logits = jax.jit(teacher)(params, written(fixture["dec_only_argmax"]), features)
    assert_same_reading(reading, jax.nn.softmax(logits), fixture, "dec_only")


def test_attention_over_the_columns_of_the_straight_word(fixture, params, image):
    tokens = fixture["padded_indexes"]
    maps = jax.jit(CONFIG.attention)(params, image, np.roll(tokens, -1, axis=1))
    assert maps.shape == (2, 8, 1, 25)
    assert maps.dtype == jnp.float32
    assert_close(maps[:, :, 0], fixture["tf_attn"], 5e-4)
    with pytest.raises(ValueError, match="9 tokens, but the model reads at most 8"):
        CONFIG.attention(params, image, np.zeros((2, 9), int))


def test_beams(fixture, params):
    features = fixture["dec_only_enc"]
    greedy = jax.jit(lambda p, x: greedy_read(FromFeatures(CONFIG), p, x))(params, features)
    one, three = (jax.jit(lambda p, x, n=n: beam_read(FromFeatures(CONFIG), p, x, n))(params, features) for n in (1, 3))
    np.testing.assert_array_equal(one.tokens_BKT[:, 0], greedy.tokens_BT)
    np.testing.assert_allclose(one.probability_BKT[:, 0], greedy.probability_BT, atol=1e-6)
    assert (np.diff(three.score_BK) <= 0).all()
    assert (three.score_BK[:, 0] >= one.score_BK[:, 0] - 1e-6).all()
    # Each hypothesis has the probabilities of its own past.
    start = np.full((8, 1), CONFIG.charset.start_end)
    teacher = jax.jit(partial(apply, method=lambda m, t, f: m.decoder(t, f)))
    for k in range(3):
        tokens = np.asarray(three.tokens_BKT[:, k])
        logits = teacher(params, np.concatenate([start, tokens[:, :-1]], axis=1), features)
        expected = np.take_along_axis(np.asarray(jax.nn.softmax(logits)), tokens[..., None], axis=2)[..., 0]
        found = np.asarray(three.probability_BKT[:, k])
        np.testing.assert_allclose(found, np.where(found > 0, expected, 0), atol=1e-5)


def batch_of(image, texts, valid):
    tokens = np.stack([CONFIG.charset.encode(text, CONFIG.max_length) for text in texts])
    return {"image": image, "tokens": tokens, "valid": np.array(valid, bool)}


def test_the_loss_of_a_batch_with_images_that_do_not_count(fixture, params):
    """It is the reference's, and so is what becomes of the running statistics."""
    noise = np.random.default_rng(0).integers(0, 256, (2, 40, 120, 3), np.uint8)
    image = np.concatenate([fixture["images_uint8_bgr_nchw"].transpose(0, 2, 3, 1), noise])
    batch = batch_of(image, (*fixture["gt_texts"].tolist(), "a", "b"), (1, 1, 0, 0))
    loss = jax.jit(Recognition(CONFIG, jnp.float32).loss)(params, batch, jax.random.key(0))
    assert loss.weight == 14
    assert_close(loss.total / loss.weight, fixture["grad_train/total_loss"], 5e-4)
    assert 0 <= loss.metrics["character_accuracy"] / loss.weight <= 1
    made = state_dict_from_params(loss.statistics, CONFIG)
    for key in (key for key in fixture if key.startswith("train_after/")):
        assert_close(made[key.split("/")[1]], fixture[key], 5e-4, key)


SMALL = ASTERConfig.tiny(
    charset=CONFIG.charset, stem=8, widths=(8, 8, 16, 16, 32), blocks=(1, 1, 1, 1, 1), encoder_dim=16,
    attention_dim=16, decoder_dim=32, localisation_size=(32, 32),
)  # fmt: skip
RUN = TrainConfig(model=SMALL, batch_size=4, optimizer=OptimizerConfig(schedule="constant", weight_decay=0.0))
TEXTS = ("ab1", "Ad", "", "c2 B")


def test_a_batch_is_learnt_by_heart():
    """From a rectifier that straightens nothing yet; and then it is read, by the running statistics."""
    task = make_task(RUN)
    optimizer = make_optimizer(RUN.optimizer, lambda step: 2e-2 * 0.985**step, 0, SMALL.frozen)
    learn = jax.jit(make_train_step(task, optimizer, StepSettings.of(RUN)))
    first = jax.jit(SMALL.init)(jax.random.key(0))
    assert not first["rectifier"]["fc2"]["kernel"].any()
    image = np.random.default_rng(1).integers(0, 256, (4, 4, 8, 3), np.uint8).repeat(10, axis=1).repeat(15, axis=2)
    state, batch, losses = initial_state(first, optimizer, averages=False), batch_of(image, TEXTS, (1, 1, 1, 1)), []
    for number in range(80):
        state, values = learn(state, batch, number)
        losses.append(float(values["loss"]))
    assert losses[-1] < 0.02 < 1 < losses[0]
    assert values["character_accuracy"] == 1
    before, after = (flatten_dict(params["rectifier"], sep="/") for params in (first, state.params))
    for name in ("fc2", "fc1", "layer0/conv"):
        assert np.abs(after[f"{name}/kernel"] - before[f"{name}/kernel"]).max() > 1e-3, name
    for name in ("spline_inverse", "spline_rows"):
        np.testing.assert_array_equal(after[name], before[name])
    reading = jax.jit(SMALL.read)(state.params, normalize(image, SMALL))
    assert tuple(SMALL.charset.decode(tokens)[0] for tokens in reading.tokens_BT) == TEXTS
