"""MAE pre-training of ViT-S on Union14M-U, as published: 20 epochs of 10.6 million unlabelled words.

Paper: Jiang et al., ICCV 2023, arXiv 2307.08723, section 5.1. The encoder is what configs/maerec_s.py starts from.
Expected after fine-tuning: 78.6 % WAICS on Union14M-Benchmark (paper).
Data: Union14M-U's three LMDBs under data.root.
Run: python -m maerec_jax.train --config configs/mae_vit_s.py --data.root /path/to/Union14M --data.workers 16
"""

from data_pipelines.sources import LmdbWords
from maerec_jax.config import DataConfig, OptimizerConfig, TrainConfig
from maerec_jax.models.mae import MAEConfig


def get_config() -> TrainConfig:
    """The run."""
    names = ("book32_lmdb", "cc_lmdb", "openvino_lmdb")
    return TrainConfig(
        model=MAEConfig.small(),
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
