"""MAERec-Tiny: goes on where configs/tiny_rendered.py ends, with more blocks, and real words among the rendered ones.

A quarter of all images are real: with a few thousand real words more would teach the model these words, not reading.
Data: Union14M-L under data.root (any sample of it); fonts and words beside it, as for tiny_rendered.py.
Run: python -m maerec_jax.train --config configs/tiny.py --data.root ROOT --init-from runs/tiny_rendered
"""

import string

from data_pipelines.charset import Charset
from data_pipelines.images.augmentation import Augmentation
from data_pipelines.rendering import RenderedWords
from data_pipelines.sources import Annotations
from maerec_jax.config import DataConfig, OptimizerConfig, TrainConfig
from maerec_jax.models.maerec import MAERecConfig
from maerec_jax.models.text_decoder import TextDecoderConfig
from maerec_jax.models.vit import ViTConfig


def get_config() -> TrainConfig:
    """The run."""
    characters = string.digits + string.ascii_letters + string.punctuation + " "
    annotations = "Union14M-L/train_annos/mmocr-0.x"
    levels = ("easy", "medium", "hard", "normal", "challenging")
    rendered = RenderedWords(
        weight=0.75, characters=characters, difficulty=0.7, fonts="fonts/chosen", words="words.txt", size=10_000_000
    )
    return TrainConfig(
        model=MAERecConfig(
            encoder=ViTConfig(dim=192, depth=10, heads=6, patch_size=(32, 4), position_table="grid"),
            decoder=TextDecoderConfig(dim=192, layers=1, heads=6, inner_dim=768, dropout=0.0, max_length=26),
            charset=Charset(characters),
        ),
        data=DataConfig(
            root="data",
            train=(*(Annotations(f"{annotations}/train_{level}.jsonl") for level in levels), rendered),
            validation=(Annotations(f"{annotations}/val_annos.jsonl"),),
            augmentation=Augmentation(scale=(0.8, 1.2), shear=20.0, translation=0.1, distortion=0.3),
            turn_vertical=True,
        ),
        optimizer=OptimizerConfig(
            algorithm="muon", learning_rate=1.2e-3, warmup_steps=100, weight_decay=0.05, clip_norm=1.0
        ),
        batch_size=128,
        steps=3200,
        validate_every=250,
        checkpoint_every=250,
        ema_decay=0.999,
    )
