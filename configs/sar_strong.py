"""A stronger recipe for SAR on Union14M-L: distorted images, one-cycle, weight decay, four times as many epochs.

Source: that of configs/maerec_s_strong.py, which is OpenOCR's for MAERec-S; ranges of the distortions are ours.
Expected: 93.0 % WAICS on the common six and 68.4 % on Union14M-Benchmark (OpenOCR, whose SAR was trained on
Union14M-L-Filter with images of another size, and scored on 36 characters).
Run: python -m maerec_jax.train --config configs/sar_strong.py --data.root /path/to/Union14M
"""

from dataclasses import replace

from maerec_jax.config import TrainConfig, config_beside


def get_config() -> TrainConfig:
    """The run."""
    published, strong = config_beside(__file__, "sar"), config_beside(__file__, "maerec_s_strong")
    return replace(
        published,
        data=replace(published.data, augmentation=strong.data.augmentation, mixing="balanced"),
        optimizer=strong.optimizer,
        batch_size=strong.batch_size,
        epochs=strong.epochs,
    )
