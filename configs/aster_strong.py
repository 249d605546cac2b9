"""A stronger recipe for ASTER on Union14M-L: augmentation, one-cycle, 20 epochs, no decay of biases and norms.

Source: OpenOCR's training of its models on Union14M-L-Filter: RandAugment-style distortion before the resize,
one-cycle, 1.5 epochs of warm-up, weight decay 0.05. Published by OpenOCR for its ASTER (WAICS): 91.68 % on the common
six benchmarks and 68.75 % on Union14M-Benchmark. What differs: its training set is without images that are in the
benchmarks, its images have other sizes, and it scores 36 characters; the learning rate, the epochs and the ranges of
the distortions are here those of configs/maerec_s_strong.py.
Run: python -m maerec_jax.train --config configs/aster_strong.py --data.root /path/to/Union14M
"""

from dataclasses import replace

from maerec_jax.config import TrainConfig, config_beside


def get_config() -> TrainConfig:
    """The run."""
    published, strong = config_beside(__file__, "aster"), config_beside(__file__, "maerec_s_strong")
    return replace(
        published,
        data=replace(published.data, augmentation=strong.data.augmentation),
        optimizer=strong.optimizer,
        batch_size=strong.batch_size,
        epochs=strong.epochs,
    )
