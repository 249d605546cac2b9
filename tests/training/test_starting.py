"""Starting from models for other images: what is brought to those of a new run, and what is not."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from data_pipelines.errors import UserError
from maerec_jax.config import TrainConfig
from maerec_jax.models.mae import MAEConfig
from maerec_jax.models.maerec import MAERecConfig
from maerec_jax.models.vit import ViTConfig, ViTEncoder
from maerec_jax.training.starting import load_start, loaded_params
from tests.conftest import FIXTURES
from tests.training.conftest import random_params


def start(source, wanted, told):
    """Parameters of the source, fresh ones of the wanted model, and those that a run makes of both."""
    loaded, fresh = (random_params(model, seed) for seed, model in enumerate((source, wanted)))
    config = TrainConfig(model=wanted, init_from="other")
    return loaded, fresh, loaded_params(config, (replace(config, model=source), loaded, 0), fresh, told.append)


def test_a_square_table_starts_runs_with_any_number_of_patches():
    """Released weights have such a table, which there is for square numbers of patches only."""
    source = MAERecConfig.tiny(encoder=ViTConfig.tiny(position_table="square"))
    wanted = replace(source, encoder=replace(source.encoder, patch_size=(16, 8), position_table="grid"))
    told = []
    _, fresh, started = start(source, wanted, told)
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
    _, fresh, started = start(source, wanted, told)
    for name in ("decoder_pos_embed", "decoder_pred"):
        jax.tree.map(np.testing.assert_array_equal, started[name], fresh[name])
    assert "  fresh: decoder_pos_embed (another patch grid)" in told
    assert not any("fresh: encoder/" in line for line in told)


def test_of_another_stem_the_blocks_are_taken():
    source = MAERecConfig.tiny(encoder=ViTConfig.tiny(patch_size=(8, 8), position_table="grid"))
    wanted = replace(source, encoder=replace(source.encoder, stem="convolutions"))
    for one, other in ((source, wanted), (wanted, source)):
        told = []
        loaded, fresh, started = start(one, other, told)
        for name in ("blocks_0", "pos_embed"):
            jax.tree.map(np.testing.assert_array_equal, started["encoder"][name], loaded["encoder"][name])
        jax.tree.map(np.testing.assert_array_equal, started["encoder"]["patch_embed"], fresh["encoder"]["patch_embed"])
        assert "  fresh: encoder/patch_embed/bias (another stem)" in told


@pytest.mark.parametrize("depth", [3, 5])
def test_a_deeper_encoder_starts_with_what_the_shallower_one_computes(depth):
    """Blocks that are added change nothing, and all of their layers can learn."""
    source = MAERecConfig.tiny()
    wanted = replace(source, encoder=replace(source.encoder, depth=depth))
    told = []
    loaded, fresh, started = start(source, wanted, told)
    assert jax.tree.map(np.shape, started) == jax.tree.map(np.shape, fresh)
    assert "0 newly initialised, 0 of the source not used" in told[0]
    assert told[1].startswith(f"  blocks: 2 become {depth}; ")
    pixels = jax.random.normal(jax.random.key(2), (2, 32, 128, 3))

    def encode(params, config):
        return jax.jit(ViTEncoder(config.encoder).apply)({"params": params["encoder"]}, pixels)

    np.testing.assert_array_equal(encode(started, wanted), encode(loaded, source))
    gradients = jax.jit(jax.grad(lambda params: jax.numpy.square(encode(params, wanted)).sum()))(started)["encoder"]
    for block in range(depth):
        assert all(np.any(gradients[f"blocks_{block}"][layer]["kernel"]) for layer in ("proj", "fc2"))


def test_an_encoder_that_stays_as_it_is_gets_no_blocks():
    source = MAERecConfig.tiny()
    wanted = replace(source, encoder=replace(source.encoder, depth=3, lora_rank=2))
    with pytest.raises(UserError, match=r"blocks_2.* \(not there\)"):
        start(source, wanted, [])


@pytest.mark.parametrize(
    "flags", [{"init_from": "adapters"}, {"init_from": "maerec_tiny", "init_encoder_from": "adapters"}]
)
def test_a_file_of_adapters_is_no_start_and_what_to_do_is_told(flags):
    """By means that those who train have: they have no --adapters."""
    file = str(FIXTURES / "earlier" / "adapters.safetensors")
    config = TrainConfig(model=MAERecConfig.tiny(), **{n: v.replace("adapters", file) for n, v in flags.items()})
    with pytest.raises(
        UserError, match=r"holds adapters: start from the whole model: Recognizer\.load\(ENCODER, ada"
    ) as told:
        load_start(config)
    assert "--" not in str(told.value)
