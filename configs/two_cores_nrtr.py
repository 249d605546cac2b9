"""A small NRTR on two CPU cores, from fresh weights: a look at how it learns, in a quarter of an hour.

The data of two_cores_sar.py.
Measured: 36.3 % WA and 39.3 % WAICS on 300 real validation words, 41.5 % and 44.0 % on 400 words of "general", after 31
minutes of processor time, which is a quarter of an hour on two free cores of an AMD EPYC, with 6,483 real words.
Run: python -m maerec_jax.train --config configs/two_cores_nrtr.py --data.root /path/to/Union14M \
       --data.exclude exclude_common_benchmarks.jsonl
"""

from dataclasses import replace

from maerec_jax.config import TrainConfig, config_beside
from maerec_jax.models.nrtr import NRTRConfig
from maerec_jax.models.text_decoder import TextDecoderConfig


def get_config() -> TrainConfig:
    """The run."""
    sar = config_beside(__file__, "two_cores_sar")
    return replace(
        sar,
        model=NRTRConfig(
            channels=(8, 16, 32, 32, 64, 96),
            blocks=(1, 1, 1, 1),
            encoder_layers=2,
            encoder_heads=4,
            encoder_inner_dim=256,
            dropout=0.0,
            decoder=TextDecoderConfig(dim=96, layers=2, heads=4, inner_dim=384, dropout=0.0, max_length=26),
            image_size=(32, 100),
        ),
        optimizer=replace(sar.optimizer, algorithm="muon"),
        steps=1600,
        validate_every=200,
    )
