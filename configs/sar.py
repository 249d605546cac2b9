"""SAR on Union14M-L, as published: 5 epochs of 3.2 million labelled words, from scratch.

Paper: Li et al., AAAI 2019, arXiv 1811.00751; trained on Union14M-L by Jiang et al., ICCV 2023, arXiv 2307.08723,
table 6, whose code this follows: Adam, learning rate 1e-3, a tenth of it after epoch 3 and again after epoch 4, 128
images a GPU (of how many is not said, so the rate does not follow the batch size), no augmentation, characters outside
the charset as the unknown class.
Its LSTM cells hand on their hidden state in the place of their own: --model.cell-state hidden does the same.
Expected: 91.3 % WAICS on the mean of the common six (released weights); 90.9 % there and 67.2 % on Union14M-Benchmark,
with 2.1 % on its incomplete words, where lower is better (paper, table 6).
Data: Union14M-L under data.root.
Run: python -m maerec_jax.train --config configs/sar.py --data.root /path/to/Union14M
"""

from dataclasses import replace

from data_pipelines.images.augmentation import NO_AUGMENTATION
from maerec_jax.config import OptimizerConfig, TrainConfig, config_beside
from maerec_jax.models.sar import SARConfig


def get_config() -> TrainConfig:
    """The run."""
    data = config_beside(__file__, "maerec_s").data
    return TrainConfig(
        model=SARConfig(),
        data=replace(data, mixing="by_size", augmentation=NO_AUGMENTATION, unknown_characters="keep"),
        optimizer=OptimizerConfig(learning_rate=1e-3, schedule="steps", step_epochs=(3.0, 4.0), weight_decay=0.0),
        batch_size=128,
        epochs=5.0,
        checkpoint_every=2000,
    )
