"""Fine-tuning of MAERec-B on Union14M-L with LoRA, as published: 10 epochs beside an encoder that stays as it is.

Adapters of rank 4 on queries and values of every block, and the text decoder: 56,967,262 of 142,259,038 parameters
are trained. Paper: Jiang et al., ICCV 2023, arXiv 2307.08723; LoRA: arXiv 2106.09685. Published settings: those of
MAERec-B without LoRA, AdamW, learning rate 1e-4 for 512 images a step (64 a GPU), weight decay 0.01, cosine to 1e-8;
augmentation after the resize. (MAERec-S has others with LoRA: learning rate 4e-4, decay 0.05, 6 epochs, to 4e-6.)
The paper draws the five levels as large as they are: --data.mixing by_size.
Expected: no published accuracy is known to us.
Data: Union14M-L under data.root.
Run: python -m maerec_jax.train --config configs/maerec_b_lora.py --data.root /path/to/Union14M \
       --init-from runs/mae_vit_b
"""

from dataclasses import replace

from maerec_jax.config import TrainConfig, config_beside
from maerec_jax.models.maerec import MAERecConfig
from maerec_jax.models.vit import ViTConfig


def get_config() -> TrainConfig:
    """The run."""
    model = MAERecConfig.base(encoder=ViTConfig.base(lora_rank=4))
    return replace(config_beside(__file__, "maerec_s"), model=model)
