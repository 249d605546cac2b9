"""The best checkpoint is the one that reads best what its charset can write."""

import numpy as np
import pytest

from data_pipelines.charset import Charset
from data_pipelines.errors import DataError
from maerec_jax.models.maerec import MAERecConfig
from maerec_jax.training.recognition import Recognition


class Words:
    """Labels without images."""

    def __init__(self, texts):
        self.texts = texts

    def __getitem__(self, index):
        raise DataError("no image")

    def text(self, index):
        return self.texts[index]

    def name(self, index):
        return str(index)


@pytest.mark.parametrize(
    ("charset", "score"),
    [(Charset("abc", lower_case=True), 0.75), (Charset("abc"), 0.75), (Charset("abcABC"), 0.25)],
    ids=["lower case", "small letters", "both cases"],
)
def test_capitals_count_only_where_they_can_be_written(charset, score):
    task = Recognition(MAERecConfig.tiny(charset=charset), np.float32)
    tokens_BKT = np.stack([charset.encode(text, 6)[1:] for text in ("abc", "abc", "cab", "b")])[:, None]
    made = {"tokens_BKT": tokens_BKT, "probability_BKT": np.ones(tokens_BKT.shape), "turns": np.zeros(4, int)}
    batch = {"index": np.arange(4), "valid": np.ones(4, bool)}
    found = task.validate([(batch, made)], Words(["Abc", "ABC", "cab", "a"]))
    assert found.score == score
    assert found.metrics["word_accuracy"] == 0.25
