"""NRTR: a residual network, a Transformer encoder without positions, and the text decoder (arXiv 1806.00926).

As Union14M trains it (arXiv 2307.08723): with the residual network of SAR before the encoder.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from data_pipelines.charset import Charset
from data_pipelines.images.resizing import KeepRatio
from maerec_jax.models import batch_norm, convolution, text_decoder
from maerec_jax.models.convolution import ResNet31
from maerec_jax.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig, EncoderLayer, columns_mask
from maerec_jax.models.names.nrtr import nrtr_names
from maerec_jax.models.names.table import NameTable
from maerec_jax.models.text_decoder import TextDecoderConfig, dense
from maerec_jax.models.vit import check_positive

Array = jax.Array


@dataclass(frozen=True)
class NRTRConfig(EncoderDecoderConfig):
    """NRTR."""

    sharding: ClassVar = (*text_decoder.SHARDING, *convolution.SHARDING, *batch_norm.SHARDING)
    pixel_axes: ClassVar = {"backbone/stem1/conv/kernel": 2}
    keep_ratio: ClassVar = KeepRatio(smallest=32, divisor=4, reading_divisor=16)
    stride: ClassVar = (8, 4)

    kind: Literal["nrtr"] = field(default="nrtr", kw_only=True)
    """Kind of model."""
    channels: tuple[int, int, int, int, int, int] = (32, 64, 128, 256, 512, 512)
    """Channels of the two first convolutions, and of the four stages of the residual network."""
    blocks: tuple[int, int, int, int] = (1, 2, 5, 3)
    """Residual blocks of each stage."""
    encoder_layers: int = 6
    """Layers of the encoder."""
    encoder_heads: int = 8
    """Attention heads of its layers."""
    encoder_inner_dim: int = 256
    """Hidden width of its feed-forward layers."""
    dropout: float = 0.1
    """Dropout rate of the encoder."""
    decoder: TextDecoderConfig = field(
        default_factory=lambda: TextDecoderConfig(dim=512, layers=6, heads=8, inner_dim=256, max_length=30)
    )
    """Text decoder."""
    mask: Literal["columns", "flattened"] = "columns"
    """What of the encoded map is attended to, where only part of an image is picture: its columns, or, as in the
    published weights, as many places of the map from the top as if its rows were one."""
    image_size: tuple[int, int] = (32, 160)
    """Height of images, and width that they are filled up to, in pixels."""
    pixel_mean: tuple[float, float, float] = (103.53, 116.28, 123.675)
    """Mean of R, G and B (0 to 255) that is subtracted from the pixels."""
    pixel_std: tuple[float, float, float] = (57.375, 57.12, 58.395)
    """What R, G and B are divided by after that."""
    charset: Charset = field(default_factory=Charset)
    """Charset: the characters that can be read."""

    def __post_init__(self) -> None:
        self.check_sizes()
        check_positive(self, "blocks")

    @classmethod
    def tiny(cls, **changes: Any) -> "NRTRConfig":
        """32 x 64 pixels, 2 layers of 20 in encoder and decoder: for tests."""
        decoder = TextDecoderConfig(dim=20, layers=2, heads=4, inner_dim=40, max_length=8)
        sizes = {"channels": (4, 6, 8, 12, 16, 20), "blocks": (1, 1, 2, 1), "image_size": (32, 64)}
        layers = {"encoder_layers": 2, "encoder_heads": 4, "encoder_inner_dim": 40, "decoder": decoder}
        return cls(**{**sizes, **layers, **changes})

    def module(self, dtype: Any = jnp.float32) -> "NRTR":
        """The Flax module."""
        return NRTR(self, dtype)

    def names(self) -> NameTable:
        """The reference's."""
        return nrtr_names(self.channels[-1], self.encoder_heads, self.decoder)


class NRTR(EncoderDecoder):
    """NRTR."""

    def setup(self) -> None:
        """Create its three parts."""
        super().setup()
        cfg = self.config
        self.backbone = ResNet31(cfg.channels, cfg.blocks, self.dtype)
        self.encoder = NRTREncoder(cfg, self.dtype)

    def encode(self, image_BHWC: Array, counted_B: Array | None, width_B: Array | None) -> tuple[Array, Array | None]:
        """Normalised pixels to the map, row by row, and its places that may be attended to."""
        cfg = self.config
        map_BRCD = self.backbone(image_BHWC, counted_B)
        mask_BN = None
        if width_B is not None:
            rows, columns = map_BRCD.shape[1:3]
            grid = (rows, columns) if cfg.mask == "columns" else (1, rows * columns)
            mask_BN = columns_mask(width_B, image_BHWC.shape[2], grid)
        x_BND = map_BRCD.reshape(map_BRCD.shape[0], -1, map_BRCD.shape[-1])
        return self.encoder(x_BND, mask_BN, counted_B is None), mask_BN


class NRTREncoder(nn.Module):
    """Pre-norm layers that attend to the places of a map without knowing where they are."""

    config: NRTRConfig
    dtype: Any

    def setup(self) -> None:
        """Create the layers and the last norm."""
        cfg = self.config
        sizes = (cfg.channels[-1], cfg.encoder_heads, cfg.encoder_inner_dim, cfg.dropout)
        self.layers = [NRTRLayer(*sizes, self.dtype) for _ in range(cfg.encoder_layers)]
        self.norm = nn.LayerNorm(1e-5, dtype=self.dtype)

    def __call__(self, x_BND: Array, mask_BN: Array | None, deterministic: bool) -> Array:
        """(B, N, D) to the same; ``mask_BN``, bool, tells the places that may be attended to."""
        for layer in self.layers:
            x_BND = layer(x_BND, mask_BN, deterministic)
        return self.norm(x_BND)


class NRTRLayer(EncoderLayer):
    """Attention and a feed-forward layer."""

    def setup(self) -> None:
        """Create the feed-forward layer, too."""
        super().setup()
        self.fc1, self.fc2 = dense(self.inner_dim, True, self.dtype), dense(self.dim, True, self.dtype)
        self.dropout = nn.Dropout(self.dropout_rate)

    def __call__(self, x_BND: Array, mask_BN: Array | None, deterministic: bool) -> Array:
        """(B, N, D) to the same."""
        x_BND = self.attended(x_BND, mask_BN, deterministic)
        h = self.fc2(nn.gelu(self.fc1(self.norm2(x_BND)), approximate=False))
        return x_BND + self.dropout(h, deterministic=deterministic)
