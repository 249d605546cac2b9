"""Fine-tuning on a sample of Union14M-L on two CPU cores: a small recogniser of all 91 characters.

Real words are drawn as often as rendered ones, so that a few thousand labels go a long way.
Data: Union14M-L under data.root; any sample of it will do.
Measured: 42.7 % WA and 45.3 % WAICS on 300 real validation words, 54.5 % WA on 400 words of "general", after 23 minutes
on two busy cores of an AMD EPYC, with 7,093 real training words. An earlier run of the same config had 47.0 % WA on the
former: 300 words tell no more.
Run: python -m maerec_jax.train --config configs/two_cores_maerec.py --data.root /path/to/Union14M \
       --init-from runs/two_cores_mae
"""

from data_pipelines.images.augmentation import Augmentation
from data_pipelines.rendering import RenderedWords
from data_pipelines.sources import Annotations
from maerec_jax.config import DataConfig, OptimizerConfig, TrainConfig
from maerec_jax.models.maerec import MAERecConfig
from maerec_jax.models.text_decoder import TextDecoderConfig
from maerec_jax.models.vit import ViTConfig


def get_config() -> TrainConfig:
    """The run."""
    annotations = "Union14M-L/train_annos/mmocr-0.x"
    levels = ("easy", "medium", "hard", "normal", "challenging")
    encoder = ViTConfig(dim=128, depth=6, heads=4, patch_size=(32, 8), position_table="grid")
    decoder = TextDecoderConfig(dim=128, layers=2, heads=4, inner_dim=512, dropout=0.0, max_length=26)
    return TrainConfig(
        model=MAERecConfig(encoder=encoder, decoder=decoder),
        data=DataConfig(
            root="data",
            train=(
                *(Annotations(f"{annotations}/train_{level}.jsonl") for level in levels),
                RenderedWords(weight=0.5, difficulty=0.6),
            ),
            validation=(Annotations(f"{annotations}/val_annos.jsonl"),),
            augmentation=Augmentation(scale=(0.8, 1.2), shear=20.0, translation=0.1, distortion=0.3),
        ),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=300, weight_decay=0.05, clip_norm=1.0),
        batch_size=64,
        steps=9000,
        validate_every=1000,
        ema_decay=0.999,
    )
