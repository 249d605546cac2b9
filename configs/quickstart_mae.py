"""Quickstart, stage 1: pre-train a small encoder on rendered words, on two CPU cores.

Paper: arXiv 2307.08723, section 5.1, at a hundredth of its size.
Measured: a minute on two cores of an AMD EPYC.
Run: python -m maerec_jax.train --config configs/quickstart_mae.py --workdir runs/quickstart/pretraining
"""

from dataclasses import replace

from data_pipelines.rendering import RenderedWords
from maerec_jax.config import DataConfig, OptimizerConfig, TrainConfig
from maerec_jax.models.mae import MAEConfig
from maerec_jax.models.vit import ViTConfig


def get_config() -> TrainConfig:
    """The run."""
    characters = "0123456789abcdefghijklmnopqrstuvwxyz"
    words = RenderedWords(characters=characters, min_length=2, max_length=8, difficulty=0.4)
    encoder = ViTConfig(dim=128, depth=4, heads=4, patch_size=(32, 8), position_table="grid")
    return TrainConfig(
        model=MAEConfig(
            encoder=encoder, decoder_dim=64, decoder_depth=2, decoder_heads=4, mask_ratio=0.5, norm_pix=False
        ),
        data=DataConfig(
            train=(words,), validation=(replace(words, size=256, split="validation"),), interpolation="bicubic"
        ),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=40, weight_decay=0.05, betas=(0.9, 0.95)),
        batch_size=128,
        steps=400,
        validate_every=200,
    )
