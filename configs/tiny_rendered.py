"""MAERec-Tiny on rendered words alone: what is read without any photograph.

In three steps, each from the weights of the one before: a few easy words show where characters are, a million are in
patches of 32 x 8 pixels, which are half the work, and then come more in patches of 32 x 4.
Data: fonts and words under data.root:
  bash scripts/weights/get_fonts.sh ROOT/fonts --large
  python scripts/weights/get_words.py ROOT/words.txt
Run: python -m maerec_jax.train --config configs/tiny_rendered.py --data.root ROOT --model.encoder.patch-size 32 8 \\
       --data.train.0.difficulty 0.3 --optimizer.schedule constant --optimizer.learning-rate 1e-3 \\
       --optimizer.warmup-steps 150 --steps 600 --workdir runs/tiny_easy
     python -m maerec_jax.train --config configs/tiny_rendered.py --data.root ROOT --model.encoder.patch-size 32 8 \\
       --optimizer.learning-rate 2e-3 --steps 10000 --init-from runs/tiny_easy --workdir runs/tiny_coarse
     python -m maerec_jax.train --config configs/tiny_rendered.py --data.root ROOT --init-from runs/tiny_coarse
"""

import string
from dataclasses import replace

from data_pipelines.charset import Charset
from data_pipelines.images.augmentation import Augmentation
from data_pipelines.rendering import RenderedWords
from maerec_jax.config import DataConfig, OptimizerConfig, TrainConfig
from maerec_jax.models.maerec import MAERecConfig
from maerec_jax.models.text_decoder import TextDecoderConfig
from maerec_jax.models.vit import ViTConfig


def get_config() -> TrainConfig:
    """The run."""
    characters = string.digits + string.ascii_letters + string.punctuation + " "
    rendered = RenderedWords(
        characters=characters, difficulty=0.7, fonts="fonts/chosen", words="words.txt", size=10_000_000
    )
    return TrainConfig(
        model=MAERecConfig(
            encoder=ViTConfig(dim=192, depth=6, heads=6, patch_size=(32, 4), position_table="grid"),
            decoder=TextDecoderConfig(dim=192, layers=1, heads=6, inner_dim=768, dropout=0.0, max_length=26),
            charset=Charset(characters),
        ),
        data=DataConfig(
            root="data",
            train=(rendered,),
            validation=(replace(rendered, size=512, split="validation"),),
            interpolation="area",
            augmentation=Augmentation(scale=(0.8, 1.2), shear=20.0, translation=0.1, distortion=0.3),
            turn_vertical=True,
        ),
        optimizer=OptimizerConfig(
            algorithm="muon", learning_rate=1.5e-3, warmup_steps=100, weight_decay=0.05, clip_norm=1.0
        ),
        batch_size=128,
        steps=5000,
        validate_every=1000,
        checkpoint_every=250,
        ema_decay=0.999,
    )
