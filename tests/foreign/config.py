"""Train the foreign recogniser on rendered digits."""

from ctc_words import CTCConfig

from data_pipelines.charset import Charset
from data_pipelines.rendering import RenderedWords
from maerec_jax.config import DataConfig, OptimizerConfig, TrainConfig


def get_config() -> TrainConfig:
    """The run."""
    words = RenderedWords(size=512, characters="0123456789", min_length=1, max_length=4, difficulty=0.1)
    return TrainConfig(
        model=CTCConfig(width=16, charset=Charset("0123456789"), max_length=8),
        data=DataConfig(train=(words,), validation=(RenderedWords(size=16, characters="0123456789", max_length=4),)),
        optimizer=OptimizerConfig(learning_rate=3e-3, schedule="constant"),
        batch_size=32,
        steps=24,
        log_every=1,
        checkpoint_every=8,
    )
