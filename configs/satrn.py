"""SATRN on Union14M-L as the paper's authors train it: 5 epochs of 3.2 million labelled words, without augmentation.

Paper: Jiang et al., ICCV 2023, arXiv 2307.08723, table 6, and the config of their repository: Adam, learning rate
3e-4, a tenth of it after 3 and a hundredth after 4 epochs, 64 images a GPU. The number of GPUs is not told: here it is
one; the batch normalisation in each layer of the encoder sees that many images. The model is Lee et al., CVPR
workshops 2020, arXiv 1910.04396. Its charset has the space, which the published config forgot.
Expected: WAICS 93.9 % on the common six and 72.1 % on Union14M-Benchmark (paper); 93.89 % on the common six
(the released weights).
Data: Union14M-L under data.root.
Run: python -m maerec_jax.train --config configs/satrn.py --data.root /path/to/Union14M
"""

from dataclasses import replace

from data_pipelines.images.augmentation import NO_AUGMENTATION
from maerec_jax.config import OptimizerConfig, TrainConfig, config_beside
from maerec_jax.models.satrn import SATRNConfig


def get_config() -> TrainConfig:
    """The run."""
    data = config_beside(__file__, "maerec_s").data
    return TrainConfig(
        model=SATRNConfig(),
        data=replace(data, mixing="by_size", augmentation=NO_AUGMENTATION, unknown_characters="keep"),
        optimizer=OptimizerConfig(learning_rate=3e-4, schedule="steps", step_epochs=(3.0, 4.0), weight_decay=0.0),
        batch_size=64,
        epochs=5.0,
        checkpoint_every=2000,
    )
