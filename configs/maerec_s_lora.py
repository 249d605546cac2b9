"""Fine-tuning of MAERec-S on Union14M-L with LoRA, as published: 6 epochs beside an encoder that stays as it is.

Adapters of rank 4 on queries and values of every block, and the text decoder: 14,327,902 of 35,740,126 parameters
are trained. Paper: Jiang et al., ICCV 2023, arXiv 2307.08723; LoRA: arXiv 2106.09685. Published settings: AdamW,
learning rate 4e-4 for 512 images a step (128 a GPU), weight decay 0.05, cosine to 4e-6; augmentation after the resize.
The paper draws the five levels as large as they are: --data.mixing by_size.
Expected: no published accuracy is known to us.
Data: Union14M-L under data.root.
Run: python -m maerec_jax.train --config configs/maerec_s_lora.py --data.root /path/to/Union14M \
       --init-from runs/mae_vit_s
"""

from dataclasses import replace

from maerec_jax.config import TrainConfig, config_beside
from maerec_jax.models.maerec import MAERecConfig
from maerec_jax.models.vit import ViTConfig


def get_config() -> TrainConfig:
    """The run."""
    plain = config_beside(__file__, "maerec_s")
    model = MAERecConfig.small(encoder=ViTConfig.small(lora_rank=4))
    optimizer = replace(plain.optimizer, learning_rate=4e-4, final_learning_rate=4e-6, weight_decay=0.05)
    return replace(plain, model=model, optimizer=optimizer, epochs=6.0)
