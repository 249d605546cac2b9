"""The masked autoencoder that pre-trains the image encoder (He et al., arXiv 2111.06377, section 3)."""

import math
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import normal

from maerec_jax.costs.work import Blocks, Work
from maerec_jax.models.dense import Dense
from maerec_jax.models.interface import ModelConfig
from maerec_jax.models.names.maerec import mae_names
from maerec_jax.models.names.table import NameTable
from maerec_jax.models.position import resize_table, sincos_2d
from maerec_jax.models.vit import SHARDING, ViTConfig, ViTEncoder, apply_blocks, patchify

Array = jax.Array


@dataclass(frozen=True)
class AutoencoderConfig(ModelConfig):
    """What all masked autoencoders have: the encoder to be pre-trained and the decoder that reconstructs pixels."""

    sharding: ClassVar = (
        *SHARDING,
        (r"decoder_embed/kernel|decoder_pred/kernel", ("fsdp", None)),
        (r"mask_token|decoder_pos_embed|feature_weights|(decoder_embed|decoder_pred)/bias", ()),
    )

    encoder: ViTConfig = field(default_factory=ViTConfig.small)
    """Encoder; it sees the visible patches only."""
    decoder_dim: int = 512
    """Embedding width of the decoder."""
    decoder_depth: int = 8
    """Number of decoder blocks."""
    decoder_heads: int = 16
    """Attention heads per decoder block."""
    mask_ratio: float = 0.75
    """Share of the patches to mask."""
    norm_pix: bool = True
    """Reconstruct patches normalised by their own mean and variance."""

    def __post_init__(self) -> None:
        total = self.encoder.n_patches
        if not 0 < self.n_keep(total) < total:
            raise ValueError(f"mask_ratio {self.mask_ratio} leaves {self.n_keep(total)} of {total} patches")
        if self.decoder_dim % self.decoder_heads:
            raise ValueError(f"decoder_dim {self.decoder_dim} is not a multiple of decoder_heads {self.decoder_heads}")
        if self.encoder.lora_rank:
            raise ValueError("encoder.lora_rank is for fine-tuning only: set it to 0 for pre-training")
        sincos_2d(self.encoder.grid, self.decoder_dim, self.encoder.position_table)  # raises ValueError

    @classmethod
    def small(cls, **changes: Any) -> Self:
        """With the encoder of MAERec-S."""
        return cls(**{"encoder": ViTConfig.small(), **changes})

    @classmethod
    def base(cls, **changes: Any) -> Self:
        """With the encoder of MAERec-B."""
        return cls(**{"encoder": ViTConfig.base(), **changes})

    @classmethod
    def tiny(cls, **changes: Any) -> Self:
        """Encoder 64/2/2, decoder 32/1/2: for tests."""
        sizes = {"encoder": ViTConfig.tiny(), "decoder_dim": 32, "decoder_depth": 1, "decoder_heads": 2}
        return cls(**{**sizes, **changes})

    @property
    def pixel_axes(self) -> dict[str, int]:
        """Those of the encoder, and of what predicts pixels."""
        return super().pixel_axes | {"decoder_pred/kernel": -1, "decoder_pred/bias": -1}

    @abstractmethod
    def module(self, dtype: Any = jnp.float32) -> nn.Module:
        """The Flax module: normalised pixels and noise, float32 (B, N), to what ``MaskedAutoencoder`` returns."""

    def whole(self) -> Self:
        """The same autoencoder, but one that predicts all hidden patches."""
        return self

    def init(self, key: Array) -> Any:
        """Fresh parameters."""
        image = jnp.zeros((1, *self.image_size, 3))
        return self.module().init(key, image, jnp.zeros((1, self.encoder.n_patches)))["params"]

    def frozen(self, path: str) -> bool:
        """The position tables are constants."""
        return path in ("encoder/pos_embed", "decoder_pos_embed")

    def n_keep(self, n_patches: int) -> int:
        """Number of visible patches of an image of ``n_patches``."""
        return int(n_patches * (1 - self.mask_ratio))


@dataclass(frozen=True)
class MAEConfig(AutoencoderConfig):
    """The masked autoencoder of the paper: its decoder attends to itself, and predicts all hidden patches.

    ``small`` is mae_vit_small_patch4, of 46,986,160 parameters; ``base`` is mae_vit_base_patch4, of 111,062,320.
    """

    kind: Literal["mae"] = field(default="mae", kw_only=True)
    """Kind of model."""

    def module(self, dtype: Any = jnp.float32) -> "MaskedAutoencoder":
        """The Flax module."""
        return MaskedAutoencoder(self, dtype)

    def work(self, image_size: tuple[int, int]) -> Work:
        """The operations for one image."""
        cfg = self.encoder
        patches = math.prod(cfg.grid_of(image_size))
        seen = self.n_keep(patches)
        rest = 2 * (1 + seen) * cfg.dim * self.decoder_dim + 2 * patches * self.decoder_dim * cfg.patch_values
        decoder = Blocks(1 + patches, self.decoder_dim, self.decoder_depth, 4)
        return cfg.work(image_size, seen, [decoder], rest)

    def names(self) -> NameTable:
        """The reference's."""
        return mae_names(self.encoder, self.decoder_dim, self.decoder_heads)


def random_masking(noise_BN: Array, n_keep: int) -> tuple[Array, Array, Array]:
    """Choose the patches with the smallest noise as visible ones (section 3, "simple implementation").

    Returns:
      keep_BK: int, visible patches in the order of their noise; restore_BN: int, the place of each patch in the order
      of its noise; mask_BN: float32, 1 where a patch is hidden.
    """
    order_BN = jnp.argsort(noise_BN, axis=1)
    restore_BN = jnp.argsort(order_BN, axis=1)
    return order_BN[:, :n_keep], restore_BN, (restore_BN >= n_keep).astype(jnp.float32)


def reconstruction_target(image_BHWC: Array, config: AutoencoderConfig) -> Array:
    """Patches (B, N, P), float32, that the decoder should predict from normalised pixels (B, H, W, 3).

    With ``norm_pix`` each patch is centred and divided by its standard deviation (unbiased variance, epsilon 1e-6).
    """
    target_BNP = patchify(image_BHWC.astype(jnp.float32), config.encoder.patch_size)
    if config.norm_pix:
        mean = target_BNP.mean(axis=-1, keepdims=True)
        variance = target_BNP.var(axis=-1, keepdims=True, ddof=1)
        target_BNP = (target_BNP - mean) * jax.lax.rsqrt(variance + 1e-6)
    return target_BNP


def reconstruction_error(pred_BNP: Array, target_BNP: Array, mask_BN: Array) -> Array:
    """Mean squared error of each image over the patches where ``mask_BN`` is 1, float32 (B,)."""
    error_BN = jnp.square(pred_BNP.astype(jnp.float32) - target_BNP).mean(axis=-1)
    return (error_BN * mask_BN).sum(axis=1) / mask_BN.sum(axis=1)


class MaskedAutoencoder(nn.Module):
    """Encode the visible patches, put mask tokens in the place of the others, and predict the pixels of all.

    Computed in ``dtype``; parameters are float32.
    """

    config: MAEConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image_BHWC: Array, noise_BN: Array) -> dict[str, Array]:
        """Mask by ``noise_BN`` (uniform noise, one value a patch) and reconstruct.

        Returns:
          ``pred`` float32 (B, N, P); ``mask`` float32 (B, N), 1 where a patch is hidden; ``predicted`` float32 (B, N),
          1 where the loss is taken, here the same; ``latent`` (B, 1 + K, D); ``restore`` int (B, N).
        """
        cfg = self.config
        keep_BK, restore_BN, mask_BN = random_masking(noise_BN, cfg.n_keep(noise_BN.shape[1]))
        latent = ViTEncoder(cfg.encoder, self.dtype, name="encoder")(image_BHWC, keep_BK)
        with jax.named_scope("decoder"):
            x = Dense(cfg.decoder_dim, dtype=self.dtype, name="decoder_embed")(latent)
            mask_token = self.param("mask_token", normal(0.02), (1, 1, cfg.decoder_dim))
            table = sincos_2d(cfg.encoder.grid, cfg.decoder_dim, cfg.encoder.position_table)
            pos = self.param("decoder_pos_embed", lambda _: jnp.asarray(table))
            pos = resize_table(pos, cfg.encoder.grid, cfg.encoder.grid_of(image_BHWC.shape[1:3]))
            n_hidden = noise_BN.shape[1] - keep_BK.shape[1]
            hidden = jnp.broadcast_to(mask_token, (len(x), n_hidden, cfg.decoder_dim))
            patches = jnp.concatenate([x[:, 1:], hidden], axis=1)
            patches = jnp.take_along_axis(patches, restore_BN[..., None], axis=1)
            x = jnp.concatenate([x[:, :1], patches], axis=1) + pos
            *_, x = apply_blocks(
                x, cfg.decoder_depth, cfg.decoder_heads, 4, cfg.encoder, self.dtype, prefix="decoder_blocks"
            )
            pred = Dense(cfg.encoder.patch_values, dtype=jnp.float32, name="decoder_pred")(x[:, 1:])
        return {"pred": pred, "mask": mask_BN, "predicted": mask_BN, "latent": latent, "restore": restore_BN}
