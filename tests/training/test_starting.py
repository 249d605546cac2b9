"""Starting from models for other images: what is brought to those of a new run, and what is not."""

from dataclasses import replace

import jax
import numpy as np

from maerec_jax.config import TrainConfig
from maerec_jax.models.mae import MAEConfig
from maerec_jax.models.maerec import MAERecConfig
from maerec_jax.models.vit import ViTConfig
from maerec_jax.training.pretraining import Pretraining
from maerec_jax.training.recognition import Recognition
from maerec_jax.training.starting import loaded_params


def start(source, wanted, told):
    """Fresh parameters of the wanted model, and what a run makes of them that starts from one of the source."""
    tasks = [(Recognition if isinstance(m, MAERecConfig) else Pretraining)(m, np.float32) for m in (source, wanted)]
    loaded, fresh = (task.init(jax.random.key(i)) for i, task in enumerate(tasks))
    config = TrainConfig(model=wanted, init_from="other")
    return fresh, loaded_params(config, (replace(config, model=source), loaded, 0), fresh, told.append)


def test_a_square_table_starts_runs_with_any_number_of_patches():
    """Released weights have such a table, which there is for square numbers of patches only."""
    source = MAERecConfig.tiny(encoder=ViTConfig.tiny(position_table="square"))
    wanted = replace(source, encoder=replace(source.encoder, patch_size=(16, 8), position_table="grid"))
    told = []
    fresh, started = start(source, wanted, told)
    np.testing.assert_array_equal(started["encoder"]["pos_embed"], fresh["encoder"]["pos_embed"])
    assert "  fresh: encoder/pos_embed (has shape (1, 257, 64), needs (1, 33, 64))" in told


def test_a_recogniser_may_have_fewer_patches_than_can_be_masked():
    source = MAEConfig.tiny(encoder=ViTConfig.tiny(position_table="grid"))
    wanted = MAERecConfig.tiny(encoder=replace(source.encoder, patch_size=(32, 64)))
    told = []
    start(source, wanted, told)
    assert not any("fresh: encoder/" in line for line in told)


def test_the_decoder_of_an_autoencoder_keeps_nothing_of_other_patches():
    """Not even where shapes agree: its table would be that of other places, and is never trained."""
    source = MAEConfig.tiny(encoder=ViTConfig.tiny(patch_size=(4, 8), position_table="grid"))
    wanted = replace(source, encoder=replace(source.encoder, patch_size=(8, 4)))
    told = []
    fresh, started = start(source, wanted, told)
    for name in ("decoder_pos_embed", "decoder_pred"):
        jax.tree.map(np.testing.assert_array_equal, started[name], fresh[name])
    assert "  fresh: decoder_pos_embed (another patch grid)" in told
    assert not any("fresh: encoder/" in line for line in told)
