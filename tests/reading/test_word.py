"""What a step returns becomes words, with their marks."""

import numpy as np
import pytest

from data_pipelines.charset import Charset
from data_pipelines.errors import UserError
from maerec_jax.reading.lexicon import Lexicon
from maerec_jax.reading.settings import ReadingConfig
from maerec_jax.reading.word import Word, word_of

CHARSET = Charset("abe\u0301")
END, PADDING = CHARSET.start_end, CHARSET.padding


def read(tokens, lexicon=None, **others):
    made = {"tokens_BKT": np.array([[tokens]]), "turns": np.zeros(1, int)}
    made["probability_BKT"] = np.linspace(1, 0.5, len(tokens), dtype=np.float32)[None, None]
    return word_of(made | others, 0, CHARSET, lexicon)


@pytest.mark.parametrize(
    ("tokens", "text", "cut"),
    [
        ([0, 1, END, PADDING], "ab", False),
        ([0, 1, 0, END], "aba", False),
        ([0, 1, 0, 1], "abab", True),
        ([0, 1, 0, CHARSET.unknown], "aba<UKN>", True),
        ([PADDING, 0, PADDING, PADDING], "a", False),  # of models that leave places empty
        ([END, PADDING, PADDING, PADDING], "", False),
    ],
)
def test_readings_without_an_end_are_marked(tokens, text, cut):
    word = read(tokens)
    assert (word.text, word.cut) == (text, cut)
    assert word.described().get("cut", False) == cut
    assert word.remark == (" (cut)" if cut else "")


def test_words_of_a_lexicon_are_whole():
    lexicon = Lexicon.of(["ab"], CHARSET, 2)
    node = int(np.flatnonzero(lexicon.trie.word >= 0)[0])
    assert not read([0, 1], lexicon, node_BK=np.array([[node]]), score_BK=np.zeros((1, 1))).cut


def test_a_letter_in_parts_is_one_character_with_the_confidence_of_its_last_part():
    word = read([0, 2, 3, 1, END])
    assert word.text == "aéb"
    assert word.character_confidences == pytest.approx((1, 0.75, 0.625))
    assert word.confidence == pytest.approx(np.mean(word.character_confidences))
    assert word.tokens == (0, 2, 3, 1)


def test_the_probability_is_the_product_and_the_confidence_the_mean():
    word = read([0, 1, 0, END])
    assert word.character_confidences == pytest.approx((1, 5 / 6, 4 / 6))
    assert (word.probability, word.confidence) == pytest.approx((5 / 9, 5 / 6))
    assert word.described()["probability"] == word.probability
    assert read([END, PADDING, PADDING, PADDING]).probability == 0


def test_marks_are_told_to_people_and_programs():
    word = Word("a", 0.5, (0.5,), doubtful=True, cut=True)
    assert word.remark == " (doubtful, cut)"
    assert word.described()["doubtful"] is word.described()["cut"] is True
    assert Word("a", 0.5, (0.5,)).described().keys() == {
        *("text", "confidence", "probability", "character_confidences")
    }
    with pytest.raises(UserError, match="doubtful_below must be from 0 to 1, not 2"):
        ReadingConfig(doubtful_below=2)
