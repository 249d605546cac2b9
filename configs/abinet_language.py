"""ABINet with its language model, by the recipe of Union14M's base config: 36 characters in lower case, 20 epochs.

Paper: Fang et al., CVPR 2021, arXiv 2103.06495. Adam without decay, learning rate 1e-4, warm-up over 2 epochs, a tenth
after 16 and 18 epochs, 8 batches of 192. The end is the only class beside the characters, and what comes after it is
trained to be ends, too. Labels are learnt in lower case; those with other characters are dropped. The words are those
of abinet.py.
Expected: unknown, as no number was published for this training. The paper of Union14M (arXiv 2307.08723, table 6) has
94.0 % WAICS on the common six and 69.2 % on Union14M-Benchmark for its ABINet; the released one, without a language
model, 93.20 % on the common six.
Data: Union14M-L under data.root.
Run: python -m maerec_jax.train --config configs/abinet_language.py --data.root /path/to/Union14M
"""

import string
from dataclasses import replace

from data_pipelines.charset import Charset
from maerec_jax.config import OptimizerConfig, TrainConfig, config_beside
from maerec_jax.models.abinet import ABINetConfig, LanguageConfig


def get_config() -> TrainConfig:
    """The run."""
    vision = config_beside(__file__, "abinet")
    charset = Charset(string.digits + string.ascii_lowercase, lower_case=True)
    return replace(
        vision,
        model=ABINetConfig(language=LanguageConfig(), end_only=True, charset=charset),
        data=replace(vision.data, unknown_characters="drop"),
        optimizer=OptimizerConfig(
            learning_rate=1e-4, schedule="steps", step_epochs=(16.0, 18.0), warmup_epochs=2.0, weight_decay=0.0
        ),
        batch_size=1536,
        epochs=20.0,
    )
