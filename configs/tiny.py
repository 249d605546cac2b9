"""MAERec-Tiny: goes on where configs/tiny_rendered.py ends, with more blocks, and real words among the rendered ones.

A quarter of all images are real: with a few thousand real words more would teach the model these words, not reading.
Data: Union14M-L under data.root (any sample of it); fonts and words beside it, as for tiny_rendered.py.
Run: python -m maerec_jax.train --config configs/tiny.py --data.root ROOT --init-from runs/tiny_rendered
"""

from dataclasses import replace
from typing import Any

from data_pipelines.sources import Annotations
from maerec_jax.config import TrainConfig, config_beside


def get_config() -> TrainConfig:
    """The run."""
    before: Any = config_beside(__file__, "tiny_rendered")
    annotations = "Union14M-L/train_annos/mmocr-0.x"
    levels = ("easy", "medium", "hard", "normal", "challenging")
    real = tuple(Annotations(f"{annotations}/train_{level}.jsonl") for level in levels)
    rendered = replace(before.data.train[0], weight=0.75)
    validation = (Annotations(f"{annotations}/val_annos.jsonl"),)
    return replace(
        before,
        model=replace(before.model, encoder=replace(before.model.encoder, depth=10)),
        data=replace(before.data, train=(*real, rendered), validation=validation),
        optimizer=replace(before.optimizer, learning_rate=1.2e-3),
        steps=3200,
        validate_every=250,
    )
