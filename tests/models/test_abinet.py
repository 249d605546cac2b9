"""ABINet computes what the reference's PyTorch code computes, learns, and goes through files and meshes unchanged."""

import string
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from data_pipelines.charset import Charset
from maerec_jax.interop.encoder_weights import flip_channels
from maerec_jax.models.abinet import ABINetConfig, LanguageConfig, Predictions
from maerec_jax.models.abinet_parts import LanguageModel, text_lengths
from maerec_jax.models.interface import normalize, token_loss
from maerec_jax.weights.state_dicts import (
    params_from_state_dict,
    state_dict_from_params,
)

FILE = Path(__file__).parents[1] / "fixtures" / "baselines" / "abinet_tiny.npz"
CONFIG = ABINetConfig(
    stem=4,
    widths=(1, 2, 4, 8, 16),
    blocks=(2, 1, 1, 1, 1),
    dim=16,
    heads=4,
    inner_dim=28,
    encoder_layers=2,
    key_channels=6,
    dropout=0.0,
    max_length=8,
    language=LanguageConfig(layers=2),
    image_size=(32, 64),
    charset=Charset("012abcdAB!# "),
)
MODELS = {"language": CONFIG, "vision": replace(CONFIG, language=None)}
OPTIONS = {"encoder_heads": 4, "image_size": (32, 64), "characters": CONFIG.charset.characters}
LETTERS = Charset(string.digits + string.ascii_lowercase, lower_case=True)
PUBLISHED = {
    "abinet_10e_union14m": ABINetConfig(),
    "abinet_base_with_lm": ABINetConfig(language=LanguageConfig(), end_only=True, charset=LETTERS),
}


def close(found, expected, what="", tolerance=1e-4):
    """A relative error below the tolerance, measured against the largest value of the array.

    The reference's own float32 is up to 5e-5 off float64, and so is ours.
    """
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape, what
    error = np.abs(found - expected).max() / np.abs(expected).max()
    assert error < tolerance, f"{what}: relative error {error:.2e}"


@pytest.fixture(scope="module")
def reference():
    with np.load(FILE) as npz:
        return dict(npz)


def state_of(reference, model=CONFIG):
    """The reference's tensors for a model, as its files have them, but for the encoder's position table."""
    found = {key[3:]: value for key, value in reference.items() if key.startswith("sd/")}
    return found if model.language else {key: found[key] for key in reference["vision_only_keys"] if key in found}


def params_of(reference, model=CONFIG):
    params = flip_channels(params_from_state_dict(state_of(reference, model), model), model)
    return jax.tree.map(np.float32, params)  # numbers of batches, too


def images_of(reference):
    """uint8 RGB."""
    return np.ascontiguousarray(reference["images_uint8_bgr_nchw"].transpose(0, 2, 3, 1)[..., ::-1])


@pytest.fixture(scope="module")
def seen(reference):
    """What the model with its language model says of the pictures, and all that comes on the way."""
    apply = jax.jit(partial(CONFIG.module().apply, capture_intermediates=True))
    logits, found = apply({"params": params_of(reference)}, normalize(images_of(reference), CONFIG))
    return logits, found["intermediates"]


def channels_first(x):
    return np.moveaxis(np.asarray(x), -1, 1)


def test_pictures_and_targets(reference):
    pixels = normalize(images_of(reference), CONFIG)[..., ::-1]
    close(channels_first(pixels)[:, :, ::4, ::4], reference["images_normalised_slice"])
    charset = CONFIG.charset
    special = [charset.start_end, charset.start_end, charset.padding, charset.unknown]
    assert special == reference["start_end_pad_unk"].tolist()
    assert "".join(reference["dictionary"][:12]) == charset.characters
    assert (reference["max_seq_len"], CONFIG.n_classes) == (CONFIG.max_length, len(reference["dictionary"]))
    assert (reference["valid_ratio"] == 1).all()
    for texts, tokens in (("target_texts", "target_padded_indexes"), ("gt_texts", "padded_indexes")):
        found = [charset.encode(str(text), 8) for text in reference[texts]]
        np.testing.assert_array_equal(found, reference[tokens])


def test_backbone_and_encoder(reference, seen):
    _, found = seen
    stem, *stages = found["backbone"]["stages"]
    close(channels_first(stem)[:, :, ::4, ::4], reference["bb_relu1_slice"])
    for number, stage in enumerate(stages, 1):
        close(channels_first(stage), reference[f"bb_layer{number}"], f"stage {number}")
    close(channels_first(found["backbone"]["__call__"][0]), reference["feat"])
    for number, tokens in enumerate(found["encoder"]["blocks"]):
        close(tokens.swapaxes(0, 1)[::4], reference[f"enc_layer{number}_out_sNC_slice"], f"block {number}")
    close(channels_first(found["encoder"]["__call__"][0]), reference["enc"])


def test_position_attention(reference, seen):
    logits, found = seen
    vision = found["vision"]
    for number, down in enumerate(vision["down"]):
        close(channels_first(down), reference[f"vis_k_encoder{number}"], f"down {number}")
    *before, last = vision["up"]
    for number, up in enumerate(before):
        close(channels_first(up), reference[f"vis_k_decoder{number}_before_skip"], f"up {number}")
    close(channels_first(last)[:, ::2], reference["vis_k_decoder3_slice"])
    close(vision["query"]["__call__"][0], reference["vis_query"])
    close(vision["weights"][0], reference["vis_attn_scores"])
    close(vision["__call__"][0][0], reference["vis_feature"])
    close(logits.vision_BTC, reference["vis_logits"])
    tokens = np.zeros((2, 5), np.int32)
    maps = jax.jit(CONFIG.attention)(params_of(reference), normalize(images_of(reference), CONFIG), tokens)
    close(maps, reference["vis_attn_scores"][:, :5])
    with pytest.raises(ValueError, match="9 tokens, but the model reads at most 8"):
        CONFIG.attention({}, np.zeros((1, 32, 64, 3)), np.zeros((1, 9)))


def test_language_model_and_fusion(reference, seen):
    logits, found = seen
    vision_BTD, _ = found["vision"]["__call__"][0]

    def correct(model, logits):
        return model.fusion(vision_BTD, model.language(logits)[0])

    apply = jax.jit(partial(CONFIG.module().apply, method=correct, capture_intermediates=True))
    np.testing.assert_array_equal(np.isneginf(reference["lm_location_mask"]), np.eye(8, dtype=bool))
    before = logits.vision_BTC
    for i in range(3):
        lengths = text_lengths(before, CONFIG.charset.start_end)
        np.testing.assert_array_equal(lengths, reference[f"lm{i}_lengths"])
        np.testing.assert_array_equal(lengths, reference[f"lm{i}_lengths_raw"].clip(2))
        np.testing.assert_array_equal(np.arange(8) >= lengths[:, None], reference[f"lm{i}_padding_mask"])
        fused, found = apply({"params": params_of(reference)}, before)
        language, fusion = (found["intermediates"][part] for part in ("language", "fusion"))
        close(language["embedding"]["__call__"][0], reference[f"lm{i}_proj_out"])
        close(language["embedded"][0], reference[f"lm{i}_embed_plus_pos"])
        for number, tokens in enumerate(language["blocks"]):
            close(tokens.swapaxes(0, 1), reference[f"lm{i}_layer{number}_out_TNC"])
        close(language["__call__"][0][0], reference[f"lm{i}_feature"])
        close(logits.language_IBTC[i], reference[f"lm{i}_logits"])
        close(fusion["gates"][0], reference[f"fuse{i}_gate"])
        for made in (fused, logits.fused_IBTC[i]):
            close(made, reference[f"fuse{i}_logits"])
        before = logits.fused_IBTC[i]


def test_language_model_of_texts_with_ends_anywhere(reference):
    model = LanguageModel(CONFIG.n_classes, CONFIG.charset.start_end, 16, 2, 4, 28, 0.0, jnp.float32)
    given = reference["lm_only_in_logits"]
    np.testing.assert_array_equal(text_lengths(given, 12), reference["lm_only_lengths_raw"].clip(2))
    feature, logits = jax.jit(model.apply)({"params": params_of(reference)["language"]}, given)
    close(feature, reference["lm_only_feature"])
    close(logits, reference["lm_only_logits"])


@pytest.mark.parametrize("part", MODELS)
def test_reading(reference, part):
    model, name = MODELS[part], {"language": "test", "vision": "test_vision_only"}[part]
    params, images = params_of(reference, model), normalize(images_of(reference), model)
    reading, seen = jax.jit(lambda p, x: (model.read(p, x), model.module().apply({"params": p}, x)))(params, images)
    close(jax.nn.softmax(seen.final), reference[f"{name}_probs"])
    for i, expected in enumerate(reference[f"{name}_argmax"]):
        end = np.append(np.flatnonzero(expected == 12), 7)[0] + 1
        np.testing.assert_array_equal(reading.tokens_BT[i, :end], expected[:end])
        assert (reading.tokens_BT[i, end:] == model.charset.padding).all()
        assert (reading.probability_BT[i, end:] == 0).all()
        text, places = model.charset.decode(reading.tokens_BT[i])
        assert text == reference[f"{name}_texts"][i]
        scores = reference[f"{name}_scores_nanpadded"][i]
        np.testing.assert_allclose(reading.probability_BT[i, places], scores[~np.isnan(scores)], rtol=1e-4)


def terms(seen, target_BT, ignored):
    """The means of the three losses."""

    def mean(logits):
        losses, weights = token_loss(logits[:, :-1], target_BT, ignored)
        return losses.sum() / weights.sum()

    found = {"visual": mean(seen.vision_BTC)}
    for name, stacked in (("lang", seen.language_IBTC), ("fusion", seen.fused_IBTC)):
        found |= {} if stacked is None else {name: np.mean([mean(logits) for logits in stacked])}
    return found


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("part", MODELS)
def test_losses_and_gradients(reference, part, mode):
    model, prefix = MODELS[part], "" if part == "language" else "vision_only/"
    params, images = params_of(reference, model), normalize(images_of(reference), model)
    tokens = reference["padded_indexes"]

    def mean_loss(params):
        if mode == "train":
            loss = model.loss(params, images, tokens, jnp.ones(2), jax.random.key(0))
            return loss.total / loss.weight, loss.statistics
        seen = model.module().apply({"params": params}, images)
        losses, weights = model.prediction_loss(seen, *model.targets(tokens))
        return losses.sum() / weights.sum(), seen

    (loss, aside), grads = jax.jit(jax.value_and_grad(mean_loss, has_aux=True))(params)
    close(loss, reference[f"{prefix}grad_{mode}/total_loss"])
    expected = {key.rsplit("_", 1)[1]: reference[key] for key in reference if key.startswith(f"{prefix}{mode}_loss_")}
    assert len(expected) == (3 if model.language else 1)
    np.testing.assert_allclose(sum(expected.values()), loss, rtol=5e-5)
    if mode == "eval":
        for name, value in terms(aside, *model.targets(tokens)).items():
            close(value, expected[name], name)
    else:
        after = unflatten_dict(flatten_dict(params) | flatten_dict(aside))
        after = state_dict_from_params(after, model)
        for key in reference:
            if key.startswith("train_after/"):
                close(after[key.removeprefix("train_after/")], reference[key], key)
    trained = {path: g for path, g in flatten_dict(grads, sep="/").items() if not model.frozen(path)}
    total = sum(float(np.square(g).sum()) for g in trained.values())
    close(total, reference[f"{prefix}grad_{mode}/sqsum_all"], "all", 4e-4)  # squares have twice the error
    state = state_dict_from_params(flip_channels(jax.device_get(grads), model), model)
    names = [key for key in reference if key.startswith(f"{prefix}grad_{mode}/") and key.rsplit("/", 1)[1] in state]
    assert len(names) == (14 if model.language else 2)
    for key in names:
        close(state[key.rsplit("/", 1)[1]], reference[key], key, 2e-4)


def test_targets_with_the_end_alone(reference):
    """Padding becomes ends, which are trained; capitals are learnt as small letters."""
    charset = Charset("".join(reference["nopad_dictionary"][:8]), lower_case=True)
    model = replace(CONFIG, charset=charset, end_only=True)
    tokens = np.stack([charset.encode(str(text), 8) for text in reference["nopad_texts"]])
    targets, ignored = model.targets(tokens)
    np.testing.assert_array_equal(targets, reference["nopad_padded_indexes"][:, 1:])
    assert (ignored, model.n_classes) == (reference["nopad_ignore_index"], 9)
    vision, *others = reference["nopad_logits_vis_l0_l1_f0_f1"]
    seen = Predictions(vision, np.stack(others[:2]), np.stack(others[2:]))
    found = terms(seen, targets, ignored)
    for name, value in found.items():
        close(value, reference[f"nopad_loss_{name}"], name)
    losses, weights = model.prediction_loss(seen, targets, ignored)
    close(losses.sum() / weights.sum(), sum(found.values()))
    assert weights.sum() == 4 * 7
