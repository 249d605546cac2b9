"""Your own words: fine-tunes the built-in maerec_tiny on a few hundred labelled crops, on two CPU cores.

Data: train.jsonl and validation.jsonl under data.root (docs/own_words.md); charset.txt there, if the model is to read
other characters than the 94 of printable ASCII.
Measured: 84.1 % WA on 157 photographed number plates after 600 steps with 500 others, 13.4 % before; five minutes of
two cores of an AMD EPYC.
Run: python -m maerec_jax.train --config configs/own_words.py --data.root own
"""

import string
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_pipelines.charset import Charset
from data_pipelines.images.augmentation import Augmentation
from data_pipelines.rendering import RenderedWords
from data_pipelines.sources import Annotations
from maerec_jax.config import DataConfig, OptimizerConfig, TrainConfig
from maerec_jax.weights.finding import load_recognizer

START = "maerec_tiny"  # or another recogniser: the workdir of a run, or an exported .safetensors file
ASCII = string.digits + string.ascii_letters + string.punctuation


def get_config(root: str = "own") -> TrainConfig:
    """The run on the words in ``root``."""
    start: Any = load_recognizer(START)[0]
    own = Path(root) / "charset.txt"
    charset = Charset.from_file(own) if own.exists() else Charset(ASCII)
    drawn = [RenderedWords(weight=0.5, characters=charset.characters)]
    if new := "".join(c for c in charset.characters if c not in start.model.charset.characters):
        drawn.append(RenderedWords(weight=0.1, characters=new))  # they are rare in the other drawn words
    return TrainConfig(
        model=replace(start.model, charset=charset),
        data=DataConfig(
            root=root,
            train=(Annotations("train.jsonl"), *drawn),
            validation=(Annotations("validation.jsonl"),),
            interpolation=start.data.interpolation,
            augmentation=Augmentation(),
            turn_vertical=start.data.turn_vertical,
            unknown_characters="error",
        ),
        optimizer=OptimizerConfig(learning_rate=3e-4, warmup_steps=50, weight_decay=0.05, clip_norm=1.0),
        batch_size=32,
        steps=600,
        validate_every=200,
        init_from=START,
    )
