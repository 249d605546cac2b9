"""MAERec-Tiny's encoder goes on as a masked autoencoder: real words without their labels, and as many rendered ones.

Paper: arXiv 2307.08723, section 5.1; all sizes but the encoder's are for two CPU cores.
Data: Union14M-U's LMDBs under data.root (any sample of them); fonts and words beside them, as for tiny_rendered.py.
Run: python -m maerec_jax.train --config configs/tiny_mae.py --data.root ROOT --init-from maerec_tiny
"""

from dataclasses import replace
from typing import Any

from data_pipelines.rendering import RenderedWords
from data_pipelines.sources import LmdbWords
from maerec_jax.config import DataConfig, OptimizerConfig, TrainConfig, config_beside
from maerec_jax.models.mae import MAEConfig


def get_config() -> TrainConfig:
    """The run."""
    tiny: Any = config_beside(__file__, "tiny")
    real = (LmdbWords(f"Union14M-U/{name}", labelled=False) for name in ("book32_lmdb", "cc_lmdb", "openvino_lmdb"))
    return TrainConfig(
        model=MAEConfig(encoder=tiny.model.encoder, decoder_dim=128, decoder_depth=2, decoder_heads=4),
        data=DataConfig(
            root="data",
            train=(*real, replace(tiny.data.train[-1], weight=0.5)),
            validation=(RenderedWords(size=256, split="validation"),),
            interpolation="bicubic",
        ),
        optimizer=OptimizerConfig(algorithm="muon", learning_rate=1e-3, warmup_steps=100, weight_decay=0.05),
        batch_size=128,
        steps=1000,
        validate_every=500,
    )
