"""Beam search finds what trying everything finds, and greedy reading is a beam of one."""

from functools import cache
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.charset import Charset
from maerec_jax.models.beam import beam_read
from maerec_jax.models.greedy import greedy_read
from maerec_jax.models.maerec import MAERec, MAERecConfig
from maerec_jax.models.text_decoder import TextDecoderConfig
from maerec_jax.models.vit import ViTConfig
from maerec_jax.reading.lexicon import Lexicon
from tests.models.test_parity import MAEREC_CONFIG, load, tiny_recogniser

PLACES = 4


def small_model(characters, places=PLACES, sharpness=6.0):
    """A recogniser of few characters with random weights that is sure enough of them to rank texts apart."""
    config = MAERecConfig.tiny(
        encoder=ViTConfig.tiny(depth=1, image_size=(8, 32)),
        decoder=TextDecoderConfig.tiny(layers=1, max_length=places),
        charset=Charset(characters),
    )
    model = MAERec(config)
    image = jax.random.normal(jax.random.key(1), (2, 8, 32, 3))
    params = jax.jit(model.init)(jax.random.key(3), image, jnp.zeros((2, places), int))["params"]
    params["decoder"]["classifier"]["kernel"] *= sharpness
    return model, params, image


@cache
def compiled(config, size):
    return jax.jit(lambda p, x, n, t, r: beam_read(MAERec(config), p, x, size, n, t, r))


def read(model, params, image, size, normalisation=0.0, trie=None, roots=None):
    return jax.device_get(compiled(model.config, size)(params, image, normalisation, trie, roots))


def everything(model, params, image):
    """For each image, all that can be written, by computing it without a cache: tokens to their probabilities."""
    charset, apply = model.config.charset, jax.jit(model.apply)
    inner = [c for c in range(charset.n_classes) if c != charset.start_end]
    rows = np.array([[charset.start_end, *some] for some in product(inner, repeat=PLACES - 1)])
    found = []
    for pixels in image:
        logits = apply({"params": params}, jnp.broadcast_to(pixels, (len(rows), *pixels.shape)), rows)
        texts = {}
        for row, probability in zip(rows[:, 1:], np.asarray(jax.nn.softmax(logits)), strict=True):
            for length in range(1, PLACES + 1):
                before = tuple(row[: length - 1].tolist())
                past = [float(probability[i, c]) for i, c in enumerate(before)]
                lasts = [charset.start_end] if length < PLACES else range(charset.n_classes)
                texts |= {(*before, last): [*past, float(probability[length - 1, last])] for last in lasts}
        found.append(texts)
    return found


def score(probabilities, normalisation):
    return np.log(probabilities).sum() / len(probabilities) ** normalisation


def written(tokens, probability):
    """The places that a hypothesis wrote: those with a probability, which are never exactly 0 here."""
    count = int((probability > 0).sum())
    assert (probability[count:] == 0).all()
    return tuple(tokens[:count].tolist())


@pytest.fixture(scope="module")
def two_letters():
    setting = small_model("ab")
    return setting, everything(*setting)


@pytest.mark.parametrize("normalisation", [0.0, 0.7])
def test_a_beam_as_wide_as_everything_finds_everything_in_order(two_letters, normalisation):
    """All 341 that can be written: padding and unknown characters in the middle and missing ends included."""
    setting, truth = two_letters
    beam = read(*setting, 350, normalisation)
    for i, texts in enumerate(truth):
        exists = beam.score_BK[i] > -np.inf
        assert exists.sum() == len(texts) == 341
        found = [written(*pair) for pair in zip(beam.tokens_BKT[i, :341], beam.probability_BKT[i, :341], strict=True)]
        assert set(found) == set(texts)
        assert (np.diff(beam.score_BK[i, :341]) <= 0).all()
        for text, probability, found_score in zip(found, beam.probability_BKT[i], beam.score_BK[i], strict=False):
            np.testing.assert_allclose(probability[: len(text)], texts[text], rtol=1e-4)
            np.testing.assert_allclose(found_score, score(texts[text], normalisation), rtol=1e-4)
        assert (beam.tokens_BKT[i, 341:] == setting[0].config.charset.padding).all()
        assert not beam.probability_BKT[i, 341:].any()


def plain_search(texts, charset, size, normalisation):
    """Beam search over known probabilities: tokens, best first."""
    beginnings = {text[:n]: probability[:n] for text, probability in texts.items() for n in range(1, PLACES + 1)}
    beam = [()]
    for _ in range(PLACES):
        following = []
        for text in beam:
            ended = text and text[-1] == charset.start_end
            following += [text] if ended else [(*text, c) for c in range(charset.n_classes)]
        beam = sorted(following, key=lambda text: -score(beginnings[text], normalisation))[:size]
    return beam


@pytest.mark.parametrize(("size", "normalisation"), [(1, 0.0), (2, 0.0), (3, 1.0), (7, 0.5)])
def test_narrow_beams_are_those_of_a_plain_search(two_letters, size, normalisation):
    setting, truth = two_letters
    beam = read(*setting, size, normalisation)
    for i, texts in enumerate(truth):
        expected = plain_search(texts, setting[0].config.charset, size, normalisation)
        assert [written(*pair) for pair in zip(beam.tokens_BKT[i], beam.probability_BKT[i], strict=True)] == expected


def assert_reads_as_greedy(model, params, image):
    greedy = jax.device_get(jax.jit(lambda p, x: greedy_read(model, p, x))(params, image))
    for normalisation in (0.0, 1.0):
        beam = read(model, params, image, 1, normalisation)
        np.testing.assert_array_equal(beam.tokens_BKT[:, 0], greedy.tokens_BT)
        np.testing.assert_allclose(beam.probability_BKT[:, 0], greedy.probability_BT, rtol=1e-5)
    return greedy


def test_a_beam_of_one_reads_the_references_words_as_greedy_reading_does():
    """Padding in the middle, unknown characters and missing ends included."""
    model, charset = MAERec(MAEREC_CONFIG), MAEREC_CONFIG.charset
    greedy = assert_reads_as_greedy(model, *tiny_recogniser(load("maerec_tiny")))
    ended = np.cumsum(greedy.tokens_BT == charset.start_end, axis=1) > 0
    assert ((greedy.tokens_BT == charset.padding) & ~ended).any()
    assert (greedy.tokens_BT == charset.unknown).any()
    assert (~ended[:, -1]).any()
    assert ended[:, -1].any()


def test_hypotheses_are_different_and_have_the_probabilities_of_decoding_without_cache():
    model, (params, image) = MAERec(MAEREC_CONFIG), tiny_recogniser(load("maerec_tiny"))
    charset = MAEREC_CONFIG.charset
    image = image[:4]
    beam = read(model, params, image, 6, 0.5)
    inputs = np.concatenate([np.full((*beam.score_BK.shape, 1), charset.start_end), beam.tokens_BKT[..., :-1]], axis=2)
    apply = jax.jit(model.apply)
    for k in range(6):
        probability = jax.nn.softmax(apply({"params": params}, image, inputs[:, k]))
        expected = np.take_along_axis(np.asarray(probability), beam.tokens_BKT[:, k, :, None], axis=2)[..., 0]
        ended = np.cumsum(inputs[:, k, 1:] == charset.start_end, axis=1) > 0
        expected[:, 1:][ended] = 0.0
        np.testing.assert_allclose(beam.probability_BKT[:, k], expected, rtol=1e-3, atol=1e-7)
    for tokens in beam.tokens_BKT:
        assert len({tuple(row.tolist()) for row in tokens}) == 6


def test_a_beam_needs_a_hypothesis(two_letters):
    with pytest.raises(ValueError, match="at least 1"):
        beam_read(*two_letters[0], 0)


def test_a_lexicon_of_all_words_changes_nothing_but_what_is_no_word(two_letters):
    setting, truth = two_letters
    charset = setting[0].config.charset
    words = ["".join(some) for length in (1, 2, 3) for some in product("ab", repeat=length)]
    lexicon = Lexicon.of(words, charset, PLACES - 1)
    beam = read(*setting, 20, trie=lexicon.trie)
    for i, texts in enumerate(truth):
        expected = sorted(
            (text for text in texts if len(text) > 1 and text[-1] == charset.start_end and max(text[:-1]) < 2),
            key=lambda text: -score(texts[text], 0),
        )
        assert len(expected) == len(words) == (beam.score_BK[i] > -np.inf).sum()
        for k, text in enumerate(expected):
            assert written(beam.tokens_BKT[i, k], beam.probability_BKT[i, k]) == text
            np.testing.assert_allclose(beam.probability_BKT[i, k, : len(text)], texts[text], rtol=1e-4)
            assert lexicon.word(beam.node_BK[i, k]) == charset.decode(text)[0]
        assert not beam.node_BK[i, len(words) :].any()


def test_the_best_word_of_a_lexicon_is_found_in_any_case():
    setting = small_model("aAb")
    charset, truth = setting[0].config.charset, everything(*setting)
    words = {"ABa": "aba", "b": "b", "Bb": "bb", "aa": "aa"}  # as it is spelt, and folded
    lexicon = Lexicon.of(list(words), charset, PLACES - 1)
    exact = Lexicon.of(["Aba", "b", "bb", "aa"], charset, PLACES - 1, ignore_case=False)
    beam, exact_beam = read(*setting, 16, trie=lexicon.trie), read(*setting, 16, trie=exact.trie)
    for i, texts in enumerate(truth):
        plain = [text for text in texts if text[-1] == charset.start_end and max(text[:-1], default=0) < 3]
        ended = {charset.decode(text)[0]: score(texts[text], 0) for text in plain}
        any_case = {text: s for text, s in ended.items() if text.lower() in words.values()}
        assert (beam.score_BK[i] > -np.inf).sum() == len(any_case) == 4 + 1 + 1 + 4
        found = [charset.decode(tokens)[0] for tokens in beam.tokens_BKT[i, :10]]
        assert found == sorted(any_case, key=lambda text: -any_case[text])
        for k, text in enumerate(found):
            assert words[lexicon.word(beam.node_BK[i, k])] == text.lower()
        found = [charset.decode(tokens)[0] for tokens in exact_beam.tokens_BKT[i, :4]]
        assert found == sorted(exact.words, key=lambda text: -ended[text])
        assert (exact_beam.score_BK[i, 4:] == -np.inf).all()


@pytest.mark.parametrize("size", [1, 5])
def test_only_words_of_the_images_own_list_are_read(size):
    """Whatever the model would like to write, with words up to the greatest length that fits."""
    model, params, image = small_model("abcdeABCDE.", places=8, sharpness=40.0)
    rng = np.random.default_rng(0)
    lists = {
        f"{i}.png": ["".join(rng.choice(list("abcdeAB."), rng.integers(1, 8))) for _ in range(40)] for i in range(5)
    }
    lists["one.png"] = ["e"]
    lexicon = Lexicon.of(lists, model.config.charset, 7)
    roots = np.array([lexicon.root_of(name) for name in lists])
    image = jax.random.normal(jax.random.key(5), (len(lists), 8, 32, 3))
    beam = read(model, params, image, size, 1.0, lexicon.trie, roots)
    for i, words in enumerate(lists.values()):
        assert beam.score_BK[i, 0] > -np.inf
        for k in np.flatnonzero(beam.score_BK[i] > -np.inf):
            word = lexicon.word(beam.node_BK[i, k])
            assert model.config.charset.decode(beam.tokens_BKT[i, k])[0].lower() == word.lower()
            assert model.config.charset.start_end in beam.tokens_BKT[i, k]
            assert word in words
    assert (beam.score_BK[-1, 2:] == -np.inf).all()  # "e" can be written as "E", and that is all


def test_what_is_not_allowed_is_never_read_and_the_rest_shares_its_probability():
    """As by a classifier that never thinks of it; each image has a list of its own."""
    model, params, image = small_model("abcd")
    allowed_BC = jnp.array([[c in some for c in range(7)] for some in ((0, 2, 4), (1, 3, 4))])
    greedy = jax.jit(lambda p, x, a=None: greedy_read(model, p, x, a))
    beams = jax.jit(lambda p, x, a=None: beam_read(model, p, x, 3, allowed_BC=a))
    limited, several = greedy(params, image, allowed_BC), beams(params, image, allowed_BC)
    for row in range(2):
        classifier = params["decoder"]["classifier"]
        bias = jnp.where(allowed_BC[row], classifier["bias"], -jnp.inf)
        blind = params | {"decoder": params["decoder"] | {"classifier": classifier | {"bias": bias}}}
        found, wanted = (*limited, *several), (*greedy(blind, image), *beams(blind, image))
        for one, same in zip(found, wanted, strict=True):
            np.testing.assert_allclose(one[row], same[row], rtol=1e-5)
    assert not np.array_equal(limited.tokens_BT, greedy(params, image).tokens_BT)
