"""A stronger recipe for NRTR on Union14M-L: that of maerec_s_strong.py, with its augmentation and one-cycle schedule.

Source: OpenOCR's trainings on Union14M-L-Filter, which leaves out training images that are in benchmarks. It reports
94.89 % on the common six and 67.46 % on Union14M-Benchmark for NRTR, scored on 36 characters and trained at another
image size: a number to compare with, not one that this run was seen to reach. Model and data are those of nrtr.py.
Data: Union14M-L under data.root.
Run: python -m maerec_jax.train --config configs/nrtr_strong.py --data.root /path/to/Union14M
"""

from dataclasses import replace

from maerec_jax.config import TrainConfig, config_beside


def get_config() -> TrainConfig:
    """The run."""
    published, strong = config_beside(__file__, "nrtr"), config_beside(__file__, "maerec_s_strong")
    return replace(
        published,
        data=replace(published.data, augmentation=strong.data.augmentation),
        optimizer=strong.optimizer,
        batch_size=strong.batch_size,
        epochs=strong.epochs,
    )
