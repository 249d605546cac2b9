"""ABINet's vision model on Union14M-L, as published: 10 epochs of 3.2 million labelled words, no language model.

Paper: Jiang et al., ICCV 2023, arXiv 2307.08723, table 6, and its code; the model: Fang et al., CVPR 2021, arXiv
2103.06495, section 3.1. AdamW, learning rate 1e-4, decay 0.01 of everything, cosine to 1e-8, batches of 128 on each of
an unknown number of GPUs, augmentation after the resize. The original's pyramid rescaling switches itself off after a
few images: here there is none. Unknown characters are learnt as a class of their own. The original started from MMOCR's
ABINet of 36 characters, abinet_pretrain-45deac15.pth: import it and give it as --init-from (not tried here).
Expected: the released weights have 93.20 % WAICS on the common six (IIIT5K 97.30, SVT 96.45, IC13 95.52, IC15 85.36,
SVTP 89.77, CUTE 94.79). Those of the paper are of another training: 94.0 % on the common six, 69.2 % on
Union14M-Benchmark (curve 75.0, multi-oriented 61.5, artistic 65.3, contextless 71.1, salient 72.9, multi-words 59.1,
general 79.4).
Data: Union14M-L under data.root.
Run: python -m maerec_jax.train --config configs/abinet.py --data.root /path/to/Union14M
"""

from dataclasses import replace

from data_pipelines.images.augmentation import Augmentation
from maerec_jax.config import OptimizerConfig, TrainConfig, config_beside
from maerec_jax.models.abinet import ABINetConfig


def get_config() -> TrainConfig:
    """The run."""
    maerec = config_beside(__file__, "maerec_s")  # the same words
    return replace(
        maerec,
        model=ABINetConfig(),
        data=replace(
            maerec.data,
            mixing="by_size",
            augmentation=Augmentation(frame="resized", halvings=0),
            unknown_characters="keep",
        ),
        optimizer=OptimizerConfig(learning_rate=1e-4, final_learning_rate=1e-8, weight_decay=0.01, decay_vectors=True),
        batch_size=128,
    )
