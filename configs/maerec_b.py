"""Fine-tuning of MAERec-B on Union14M-L, as published: 10 epochs of 3.2 million labelled words.

Paper: Jiang et al., ICCV 2023, arXiv 2307.08723, section 5.2: AdamW, learning rate 1e-4, cosine to 1e-8, augmentation
after the resize. The published learning rate is for 512 images a step (64 a GPU); here it follows the batch size. The
paper draws the five levels as large as they are: --data.mixing by_size.
Expected: 85.2 % WAICS on Union14M-Benchmark when it starts from Union14M-U (paper).
Data: Union14M-L under data.root.
Run: python -m maerec_jax.train --config configs/maerec_b.py --data.root /path/to/Union14M \
       --init-from runs/mae_vit_b
"""

from dataclasses import replace

from maerec_jax.config import TrainConfig, config_beside
from maerec_jax.models.maerec import MAERecConfig


def get_config() -> TrainConfig:
    """The run."""
    return replace(config_beside(__file__, "maerec_s"), model=MAERecConfig.base())
