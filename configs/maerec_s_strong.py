"""The stronger published recipe for MAERec-S on Union14M-L: one-cycle, no decay of biases and norms.

Source: OpenOCR's training of MAERec-S on Union14M-L-Filter: learning rate 6.5e-4 at batch 1024, 1.5 epochs of warm-up,
weight decay 0.05, RandAugment-style distortion before the resize. Expected: 85.2 % WAICS on Union14M-Benchmark and
96.4 % on the common six (OpenOCR); ranges of the distortions are ours.
Run: python -m maerec_jax.train --config configs/maerec_s_strong.py --data.root /path/to/Union14M \
       --init-from runs/mae_vit_s
"""

from dataclasses import replace

from data_pipelines.images.augmentation import RandAugment
from maerec_jax.config import OptimizerConfig, TrainConfig, config_beside


def get_config() -> TrainConfig:
    """The run."""
    published = config_beside(__file__, "maerec_s")
    return replace(
        published,
        data=replace(published.data, augmentation=RandAugment()),
        optimizer=OptimizerConfig(
            learning_rate=6.5e-4, reference_batch=1024, schedule="one_cycle", warmup_epochs=1.5, weight_decay=0.05
        ),
        batch_size=1024,
        epochs=20.0,
    )
