"""ABINet with its language model by the stronger recipe that MAERec-S has in maerec_s_strong: one-cycle, RandAugment.

Expected: OpenOCR's ABINet with its language model has 95.83 % on the common six and 75.72 % on Union14M-Benchmark. That
number is of another training: on Union14M-L-Filter, with images of another size, and scored on 36 characters. Learning
rate and ranges of the distortions are those of maerec_s_strong, not OpenOCR's for this model.
Run: python -m maerec_jax.train --config configs/abinet_strong.py --data.root /path/to/Union14M
"""

from dataclasses import replace

from maerec_jax.config import TrainConfig, config_beside
from maerec_jax.models.abinet import ABINetConfig, LanguageConfig


def get_config() -> TrainConfig:
    """The run."""
    strong = config_beside(__file__, "maerec_s_strong")
    data = replace(strong.data, unknown_characters="keep")
    return replace(strong, model=ABINetConfig(language=LanguageConfig()), data=data)
