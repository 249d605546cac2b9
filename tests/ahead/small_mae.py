"""A pre-training step that is compiled in seconds; small_mae.json says what comes out."""

from maerec_jax.config import TrainConfig
from maerec_jax.models.mae import MAEConfig
from maerec_jax.models.vit import ViTConfig


def get_config() -> TrainConfig:
    """One block each in encoder and decoder."""
    encoder = ViTConfig(dim=64, depth=1, heads=2, patch_size=(32, 8))
    model = MAEConfig(encoder=encoder, decoder_dim=32, decoder_depth=1, decoder_heads=2)
    return TrainConfig(model=model, batch_size=32)
