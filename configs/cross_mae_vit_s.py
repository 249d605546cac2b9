"""Cheaper pre-training of ViT-S on Union14M-U: a decoder that cross-attends, and predicts a third of what is hidden.

Paper: CrossMAE, Fu et al., arXiv 2401.14391, with the data and optimizer of configs/mae_vit_s.py and a decoder as deep
as that one's: 18.0 GFLOP an image instead of 50.7. The encoder is what configs/maerec_s.py starts from.
Measured: 3.0 times the images a second of configs/mae_vit_s.py on two cores of an AMD EPYC.
Data: Union14M-U's three LMDBs under data.root.
Run: python -m maerec_jax.train --config configs/cross_mae_vit_s.py --data.root /path/to/Union14M --data.workers 16
"""

from dataclasses import replace

from maerec_jax.config import TrainConfig, config_beside
from maerec_jax.models.cross_mae import CrossMAEConfig


def get_config() -> TrainConfig:
    """The run."""
    return replace(config_beside(__file__, "mae_vit_s"), model=CrossMAEConfig.small())
