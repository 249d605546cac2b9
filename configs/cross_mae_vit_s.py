"""Cheaper pre-training of ViT-S on Union14M-U: a decoder that cross-attends, and predicts a third of what is hidden.

Paper: CrossMAE, Fu et al., arXiv 2401.14391, with the data and optimizer of configs/mae_vit_s.py and a decoder as deep
as that one's: 18.0 GFLOP an image instead of 50.7. The encoder is what configs/maerec_s.py starts from.
Measured: 3.0 times the images a second of configs/mae_vit_s.py on two cores of an AMD EPYC.
Data: Union14M-U's three LMDBs under data.root.
Run: python -m maerec_jax.train --config configs/cross_mae_vit_s.py --data.root /path/to/Union14M --data.workers 16
"""

from data_pipelines.sources import LmdbWords
from maerec_jax.config import DataConfig, OptimizerConfig, TrainConfig
from maerec_jax.models.cross_mae import CrossMAEConfig


def get_config() -> TrainConfig:
    """The run."""
    names = ("book32_lmdb", "cc_lmdb", "openvino_lmdb")
    return TrainConfig(
        model=CrossMAEConfig.small(),
        data=DataConfig(
            root="data",
            train=tuple(LmdbWords(f"Union14M-U/{name}", labelled=False) for name in names),
            interpolation="bicubic",
            workers=8,
        ),
        optimizer=OptimizerConfig(
            learning_rate=1.5e-4, reference_batch=256, warmup_epochs=2.0, weight_decay=0.05, betas=(0.9, 0.95)
        ),
        batch_size=1024,
        epochs=20.0,
        checkpoint_every=2000,
    )
