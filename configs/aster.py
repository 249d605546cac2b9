"""Training of ASTER on Union14M-L, as published for the paper's comparison: 6 epochs, from random weights.

Paper: the model is Shi et al., IEEE TPAMI 2018; the training that of Jiang et al., ICCV 2023, arXiv 2307.08723, section
5.1, as their repository has it (aster_resnet45_6e_union14m): AdamW, learning rate 4e-4 for 512 images a step, cosine to
4e-6, weight decay 0.05 on everything, no augmentation. Differences: theirs leaves the space out of the characters, and
computes in float32 (--dtype float32). The learning rate follows the batch size.
Expected (WAICS): 88.07 % on the common six benchmarks (released weights), or 86.7 % and 42.1 % on Union14M-Benchmark
(paper, table 6).
Data: Union14M-L under data.root.
Run: python -m maerec_jax.train --config configs/aster.py --data.root /path/to/Union14M
"""

from dataclasses import replace

from data_pipelines.images.augmentation import NO_AUGMENTATION
from maerec_jax.config import OptimizerConfig, TrainConfig, config_beside
from maerec_jax.models.aster import ASTERConfig


def get_config() -> TrainConfig:
    """The run."""
    data = config_beside(__file__, "maerec_s").data
    return TrainConfig(
        model=ASTERConfig(),
        data=replace(data, mixing="by_size", augmentation=NO_AUGMENTATION, unknown_characters="keep"),
        optimizer=OptimizerConfig(
            learning_rate=4e-4, reference_batch=512, final_learning_rate=4e-6, weight_decay=0.05, decay_vectors=True
        ),
        batch_size=512,
        epochs=6.0,
        checkpoint_every=2000,
    )
