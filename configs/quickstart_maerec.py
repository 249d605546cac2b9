"""Quickstart, stage 2: fine-tune a small recogniser on rendered words, on two CPU cores.

Measured: 83.8 % WA on 512 held-out words (docs/results.md).
Run: python -m maerec_jax.train --config configs/quickstart_maerec.py --workdir runs/quickstart/recogniser \
       --init-from runs/quickstart/pretraining
"""

from dataclasses import replace
from typing import Any

from data_pipelines.charset import Charset
from maerec_jax.config import DataConfig, OptimizerConfig, TrainConfig, config_beside
from maerec_jax.models.maerec import MAERecConfig
from maerec_jax.models.text_decoder import TextDecoderConfig


def get_config() -> TrainConfig:
    """The run."""
    pretraining: Any = config_beside(__file__, "quickstart_mae")
    (words,) = pretraining.data.train
    decoder = TextDecoderConfig(dim=128, layers=2, heads=4, inner_dim=512, dropout=0.0, max_length=10)
    return TrainConfig(
        model=MAERecConfig(encoder=pretraining.model.encoder, decoder=decoder, charset=Charset(words.characters)),
        data=DataConfig(train=(words,), validation=(replace(words, size=512, split="validation"),)),
        optimizer=OptimizerConfig(
            algorithm="muon", learning_rate=1e-3, warmup_steps=150, weight_decay=0.01, clip_norm=1.0
        ),
        batch_size=64,
        steps=3600,
        validate_every=600,
    )
