"""A small SAR on two CPU cores, from fresh weights: a look at how it learns, in a quarter of an hour.

Three of four words are rendered, upright and clean; the rest is real.
Data: Union14M-L under data.root; any sample of it will do.
Measured: 25.7 % WA and 28.3 % WAICS on 300 real validation words, 28.8 % and 33.8 % on 400 words of "general", after 28
minutes of processor time, which is a quarter of an hour on two free cores of an AMD EPYC, with 6,483 real words.
Run: python -m maerec_jax.train --config configs/two_cores_sar.py --data.root /path/to/Union14M \
       --data.exclude exclude_common_benchmarks.jsonl
"""

from dataclasses import replace

from data_pipelines.images.augmentation import Augmentation
from data_pipelines.rendering import RenderedWords
from maerec_jax.config import OptimizerConfig, TrainConfig, config_beside
from maerec_jax.models.sar import SARConfig


def get_config() -> TrainConfig:
    """The run."""
    maerec = config_beside(__file__, "two_cores_maerec")
    rendered = RenderedWords(weight=0.75, difficulty=0.3)
    augmentation = Augmentation(scale=(0.9, 1.1), shear=8.0, translation=0.05)
    return replace(
        maerec,
        model=SARConfig(
            channels=(8, 16, 32, 32, 64, 96),
            blocks=(1, 1, 1, 1),
            encoder_dim=128,
            decoder_dim=128,
            attention_dim=64,
            dropout=0.0,
            max_length=26,
            image_size=(32, 100),
        ),
        data=replace(maerec.data, train=(*maerec.data.train[:-1], rendered), augmentation=augmentation),
        optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=100, weight_decay=0.05, clip_norm=1.0),
        steps=2000,
        validate_every=250,
        checkpoint_every=200,
        ema_decay=0.995,
    )
