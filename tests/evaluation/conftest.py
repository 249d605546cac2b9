"""A small recogniser that has been trained on real words."""

import pytest

from data_pipelines.sources.files import Annotations
from maerec_jax.config import DataConfig, OptimizerConfig, TrainConfig
from maerec_jax.models.maerec import MAERecConfig
from maerec_jax.models.text_decoder import TextDecoderConfig
from maerec_jax.models.vit import ViTConfig

ANNOTATIONS = "Union14M-L/train_annos/mmocr-0.x"


def real_words_config(root, workdir, steps, **changes):
    """A recogniser of all 91 characters that reads portrait images in three ways."""
    encoder = ViTConfig(dim=64, depth=2, heads=2, patch_size=(32, 8), position_table="grid")
    decoder = TextDecoderConfig.tiny(dim=64, layers=1, inner_dim=128, max_length=26, dropout=0.0)
    data = DataConfig(
        root=str(root),
        train=(Annotations(f"{ANNOTATIONS}/val_annos.jsonl"),),  # few enough to be learnt by heart
        validation=(Annotations(f"{ANNOTATIONS}/val_annos.jsonl"),),
        turn_vertical=True,
    )
    optimizer = OptimizerConfig(learning_rate=3e-3, warmup_steps=20, clip_norm=1.0)
    defaults = {"batch_size": 32, "steps": steps, "validate_every": steps, "log_every": 200}
    model = MAERecConfig(encoder=encoder, decoder=decoder)
    parts = {"model": model, "data": data, "optimizer": optimizer, "workdir": workdir}
    return TrainConfig(**{**parts, **defaults, **changes})


@pytest.fixture(scope="session")
def trained(real_data, tmp_path_factory):
    """The workdir of a run that has learnt 300 real words. Not to be changed."""
    from maerec_jax.training.loop import train

    workdir = tmp_path_factory.mktemp("trained") / "run"
    train(real_words_config(real_data, str(workdir), 250))
    return workdir
