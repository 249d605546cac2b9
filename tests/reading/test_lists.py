"""Lists of characters: only those are read, by recognisers of every kind, and no list compiles anything again."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from data_pipelines.charset import Charset
from data_pipelines.errors import UserError
from maerec_jax import ReadingConfig, Recognizer
from maerec_jax.models.abinet import ABINetConfig
from maerec_jax.reading.reader import jitted
from tests.foreign.ctc_words import CTCConfig
from tests.serving.conftest import random_recognizer
from tests.training.conftest import random_params, recogniser_config, words


@pytest.fixture(scope="module")
def recognizer():
    return random_recognizer(batch_size=4)


@pytest.fixture(scope="module")
def images():
    source = words(4).open(None)
    return [source[i].image for i in range(4)]


def letters_of(read):
    return set("".join(word.text for word in read))


def test_only_listed_characters_are_read_and_nothing_is_compiled_again(recognizer, images):
    free = recognizer.read(images)
    compiled = jitted(recognizer.reader.step)._cache_size()
    some = "".join(sorted(letters_of(free)))[::2]
    assert letters_of(recognizer.read(images, characters=some)) <= set(some)
    without = recognizer.read(images, blocklist=some)
    assert "<" not in "".join(letters_of(without))  # no unknown characters either
    assert letters_of(without)
    assert not letters_of(without) & set(some)
    assert letters_of(recognizer.read(images, some, blocklist=some[0])) <= set(some[1:])
    assert recognizer.read(images, characters="") == free
    mixed = [
        recognizer.prepare(image, recognizer.handling.allowed(some, None) if i % 2 else None)
        for i, image in enumerate(images)
    ]
    expected = zip(free, recognizer.read(images, some), strict=True)
    assert [w.text for w in recognizer.read_prepared(mixed)] == [pair[i % 2].text for i, pair in enumerate(expected)]
    assert jitted(recognizer.reader.step)._cache_size() == compiled


def test_the_settings_hold_where_a_call_says_nothing(recognizer, images):
    digits = Recognizer(recognizer._run, recognizer._params, ReadingConfig(characters="0123456789", blocklist="7"), 4)
    assert digits.read(images) == recognizer.read(images, "0123456789", "7")
    assert digits.read(images, "", "") == recognizer.read(images)


@pytest.mark.parametrize(
    ("lists", "told"),
    [
        (("0ä€0",), "characters: the model cannot write 'ä', '€'"),
        ((None, "é"), "blocklist: the model cannot write 'é'"),
        (("01", "10"), "blocklist: no character is left to be read"),
    ],
)
def test_lists_that_cannot_be_are_told_in_a_line(recognizer, images, lists, told):
    with pytest.raises(UserError, match=f"^{told}$"):
        recognizer.read(images, *lists)


def test_a_lexicon_is_a_list_already(recognizer, images):
    run = recognizer._run, recognizer._params
    with pytest.raises(UserError, match="either a lexicon or lists of characters"):
        Recognizer(*run, words=["abc"]).read(images, "abc")
    with pytest.raises(UserError, match="either a lexicon or lists of characters"):
        Recognizer(*run, ReadingConfig(blocklist="a"), words=["abc"])


def test_capitals_and_letters_in_parts_are_what_the_charset_writes(recognizer):
    for charset, listed, classes in ((Charset("abc", True), "AC", {0, 2, 3}), (Charset("abe\u0301"), "é", {2, 3, 4})):
        handling = Recognizer(recogniser_config("", model=recogniser_model(charset)), recognizer._params).handling
        assert set(np.flatnonzero(handling.allowed(listed, None))) == classes


def recogniser_model(charset):
    return replace(recogniser_config("").model, charset=charset)


@pytest.mark.parametrize(
    "model", [ABINetConfig.tiny(charset=Charset("abcd")), CTCConfig(charset=Charset("abcd"))], ids=["abinet", "ctc"]
)
def test_models_that_read_all_places_at_once(model):
    image = jax.random.normal(jax.random.key(0), (2, *model.image_size, 3))
    allowed_BC = np.array([[c in some for c in range(7)] for some in ((0, 2, 4), (1, 4))])
    params = jax.tree.map(abs, random_params(model))  # variances are among them
    reading = jax.jit(model.read)(params, image, allowed_BC=allowed_BC)
    for tokens_T, classes in zip(np.asarray(reading.tokens_BT), ({0, 2, 4}, {1, 4}), strict=True):
        assert set(tokens_T.tolist()) <= classes | {model.charset.padding}
