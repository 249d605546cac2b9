"""MAE pre-training of ViT-B on Union14M-U, as published: 20 epochs of 10.6 million unlabelled words.

Paper: Jiang et al., ICCV 2023, arXiv 2307.08723, section 5.1. The encoder is what configs/maerec_b.py starts from.
Expected after fine-tuning: 85.2 % WAICS on Union14M-Benchmark (paper).
Data: Union14M-U's three LMDBs under data.root.
Run: python -m maerec_jax.train --config configs/mae_vit_b.py --data.root /path/to/Union14M --data.workers 16
"""

from dataclasses import replace

from maerec_jax.config import TrainConfig, config_beside
from maerec_jax.models.mae import MAEConfig


def get_config() -> TrainConfig:
    """The run."""
    return replace(config_beside(__file__, "mae_vit_s"), model=MAEConfig.base())
