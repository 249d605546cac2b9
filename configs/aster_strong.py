"""A stronger recipe for ASTER on Union14M-L: augmentation, one-cycle, 20 epochs, no decay of biases and norms.

Source: OpenOCR's training of its models on Union14M-L-Filter: RandAugment-style distortion before the resize,
one-cycle, 1.5 epochs of warm-up, weight decay 0.05. Published by OpenOCR for its ASTER (WAICS): 91.68 % on the common
six benchmarks and 68.75 % on Union14M-Benchmark. What differs: its training set is without images that are in the
benchmarks, its images have other sizes, and it scores 36 characters; the learning rate, the epochs and the ranges of
the distortions are here those of configs/maerec_s_strong.py.
Run: python -m maerec_jax.train --config configs/aster_strong.py --data.root /path/to/Union14M
"""

from dataclasses import replace

from data_pipelines.images.augmentation import RandAugment
from maerec_jax.config import OptimizerConfig, TrainConfig, config_beside


def get_config() -> TrainConfig:
    """The run."""
    published = config_beside(__file__, "aster")
    return replace(
        published,
        data=replace(published.data, augmentation=RandAugment()),
        optimizer=OptimizerConfig(
            learning_rate=6.5e-4, reference_batch=1024, schedule="one_cycle", warmup_epochs=1.5, weight_decay=0.05
        ),
        batch_size=1024,
        epochs=20.0,
    )
