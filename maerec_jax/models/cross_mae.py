"""A masked autoencoder whose decoder is cheap: it only reads from the encoder, and predicts a part of what is hidden.

CrossMAE, Fu et al., "Rethinking Patch Dependence for Masked Autoencoders", arXiv 2401.14391, section 3.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import normal

from maerec_jax.costs.work import Blocks, Work
from maerec_jax.models.attention import attend
from maerec_jax.models.dense import Dense, rematerialised
from maerec_jax.models.mae import AutoencoderConfig, random_masking
from maerec_jax.models.position import resize_table, sincos_2d
from maerec_jax.models.vit import ViTEncoder, add_mlp

Array = jax.Array


@dataclass(frozen=True)
class CrossMAEConfig(AutoencoderConfig):
    """A masked autoencoder whose hidden patches attend to the visible ones only, and only some of which are predicted.

    The paper's decoder has 12 blocks; this one has 8 like MAE's, which is a third less work.
    ``small`` has 45,746,712 parameters, ``base`` 112,778,136.
    """

    kind: Literal["cross_mae"] = field(default="cross_mae", kw_only=True)
    """Kind of model."""
    prediction_ratio: float = 0.25
    """Share of all patches to predict, drawn from the masked ones; at most mask_ratio."""
    weighted_features: bool = True
    """Let each decoder block attend to a learnt mixture of all encoder blocks, not to the last only."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.prediction_ratio <= self.mask_ratio:
            raise ValueError(
                f"prediction_ratio {self.prediction_ratio} must be more than 0 and at most mask_ratio {self.mask_ratio}"
            )

    def module(self, dtype: Any = jnp.float32) -> "CrossMaskedAutoencoder":
        """The Flax module."""
        return CrossMaskedAutoencoder(self, dtype)

    def whole(self) -> "CrossMAEConfig":
        """The same autoencoder, but one that predicts all hidden patches."""
        return replace(self, prediction_ratio=self.mask_ratio)

    def work(self, image_size: tuple[int, int]) -> Work:
        """The operations for one image."""
        cfg, width, depth = self.encoder, self.decoder_dim, self.decoder_depth
        patches = math.prod(cfg.grid_of(image_size))
        seen, predicted = self.n_keep(patches), self.n_predicted(patches)
        rest = 2 * predicted * width * cfg.patch_values
        if self.weighted_features:
            rest += 2 * (cfg.depth + 1) * depth * (1 + seen) * cfg.dim
        decoder = Blocks(predicted, width, depth, 4, memory=(1 + seen, cfg.dim))
        return cfg.work(image_size, seen, [decoder], rest)

    def n_predicted(self, n_patches: int) -> int:
        """Number of predicted patches of an image of ``n_patches``; all hidden ones where the two ratios are equal."""
        hidden = n_patches - self.n_keep(n_patches)
        if self.prediction_ratio == self.mask_ratio:
            return hidden
        return min(hidden, max(1, int(n_patches * self.prediction_ratio)))


class CrossBlock(nn.Module):
    """Pre-norm block without self-attention: x + attention(norm(x), norm(memory)), then x + mlp(norm(x))."""

    dim: int
    heads: int
    mlp_ratio: int
    dtype: Any

    @nn.compact
    def __call__(self, x_BQD: Array, memory_BKM: Array) -> Array:
        """(B, Q, D) and what it attends to, (B, K, M), to (B, Q, D)."""
        head = self.dim // self.heads
        h = nn.LayerNorm(1e-6, dtype=self.dtype, name="norm1")(x_BQD)
        memory = nn.LayerNorm(1e-6, dtype=self.dtype, name="memory_norm")(memory_BKM)
        q = Dense((self.heads, head), dtype=self.dtype, name="q")(h)
        kv = Dense((2, self.heads, head), dtype=self.dtype, name="kv")(memory)
        h = attend(q, kv[:, :, 0], kv[:, :, 1])
        x_BQD = x_BQD + Dense(self.dim, contracted=2, dtype=self.dtype, name="proj")(h)
        return add_mlp(x_BQD, self.mlp_ratio, self.dtype)


class CrossMaskedAutoencoder(nn.Module):
    """Encode the visible patches, and let mask tokens in the place of some hidden ones read off what these hold.

    No mask token knows of another, so that each prediction is the same whichever others are made. Computed in
    ``dtype``; parameters are float32.
    """

    config: CrossMAEConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image_BHWC: Array, noise_BN: Array) -> dict[str, Array]:
        """Mask by ``noise_BN`` (uniform noise, one value a patch) and predict the hidden patches of smallest noise.

        Returns:
          ``pred`` float32 (B, N, P), 0 where nothing is predicted; ``mask`` float32 (B, N), 1 where a patch is hidden;
          ``predicted`` float32 (B, N), 1 where one is predicted; ``latent`` (B, 1 + K, D); ``restore`` int (B, N).
        """
        cfg = self.config
        patches = noise_BN.shape[1]
        n_keep = cfg.n_keep(patches)
        used = n_keep + cfg.n_predicted(patches)
        # In the order of their noise come the visible patches, those that are predicted, and the rest.
        order_BU, restore_BN, _ = random_masking(noise_BN, used)
        features = ViTEncoder(cfg.encoder, self.dtype, name="encoder").features(image_BHWC, order_BU[:, :n_keep])

        with jax.named_scope("decoder"):
            mask_token = self.param("mask_token", normal(0.02), (1, 1, cfg.decoder_dim))
            table = sincos_2d(cfg.encoder.grid, cfg.decoder_dim, cfg.encoder.position_table)
            pos = self.param("decoder_pos_embed", lambda _: jnp.asarray(table))
            pos = resize_table(pos, cfg.encoder.grid, cfg.encoder.grid_of(image_BHWC.shape[1:3]))
            x = mask_token + pos[0, 1:][order_BU[:, n_keep:]]
            block = rematerialised(CrossBlock, cfg.encoder.remat, cfg.encoder.remat_keeps)
            for i, memory in enumerate(self._memories(features)):
                name = f"decoder_blocks_{i}"
                x = block(cfg.decoder_dim, cfg.decoder_heads, 4, self.dtype, name=name)(x, memory)
            x = nn.LayerNorm(1e-6, dtype=self.dtype, name="decoder_blocks_norm")(x)
            pred = Dense(cfg.encoder.patch_values, dtype=jnp.float32, name="decoder_pred")(x)

        pred = jnp.pad(pred, ((0, 0), (n_keep, patches - used), (0, 0)))
        pred = jnp.take_along_axis(pred, restore_BN[..., None], axis=1)
        mask_BN = (restore_BN >= n_keep).astype(jnp.float32)
        predicted_BN = mask_BN * (restore_BN < used)
        latent = features[-1]
        return {"pred": pred, "mask": mask_BN, "predicted": predicted_BN, "latent": latent, "restore": restore_BN}

    def _memories(self, features: list[Array]) -> list[Array]:
        """What each decoder block attends to, (B, 1 + K, D) each (inter-block attention, section 3.4).

        The encoded image is mixed after its norm: fine-tuning begins with that norm, so it has to be trained here.
        """
        depth = self.config.decoder_depth
        if not self.config.weighted_features:
            return [features[-1]] * depth
        weights_FL = self.param("feature_weights", normal(len(features) ** -0.5), (len(features), depth))
        features_FBKD = jnp.stack([feature.astype(jnp.float32) for feature in features])
        # All at once, so that the features are read once and not once a block.
        return list(jnp.unstack(jnp.einsum("fl,fbkd->lbkd", weights_FL, features_FBKD)))
