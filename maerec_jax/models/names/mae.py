"""Names of the masked autoencoder's tensors."""

from maerec_jax.models.names.table import NameTable, biased, norm, same
from maerec_jax.models.names.vit import blocks, encoder
from maerec_jax.models.vit import ViTConfig


def mae_names(cfg: ViTConfig, decoder_dim: int, decoder_heads: int) -> NameTable:
    """The table of a masked autoencoder."""
    return NameTable(
        [
            *encoder("", cfg),
            same("mask_token", "mask_token"),
            same("decoder_pos_embed", "decoder_pos_embed"),
            *biased("decoder_embed", "decoder_embed"),
            *blocks("decoder_blocks", "decoder_blocks", decoder_dim, decoder_heads),
            *norm("decoder_norm", "decoder_blocks_norm"),
            *biased("decoder_pred", "decoder_pred"),
        ]
    )
