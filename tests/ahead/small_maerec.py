"""A fine-tuning step that is compiled in seconds; small_maerec.json says what comes out."""

from data_pipelines.images.augmentation import Augmentation
from maerec_jax.config import DataConfig, TrainConfig
from maerec_jax.models.maerec import MAERecConfig
from maerec_jax.models.text_decoder import TextDecoderConfig
from maerec_jax.models.vit import ViTConfig


def get_config() -> TrainConfig:
    """One block in the encoder and one layer in the decoder; with colour distortion and a moving average."""
    encoder = ViTConfig(dim=64, depth=1, heads=2, patch_size=(32, 8))
    decoder = TextDecoderConfig.tiny(dim=32, layers=1, inner_dim=64, max_length=8)
    model = MAERecConfig(encoder=encoder, decoder=decoder)
    return TrainConfig(model=model, data=DataConfig(augmentation=Augmentation()), batch_size=32, ema_decay=0.99)
