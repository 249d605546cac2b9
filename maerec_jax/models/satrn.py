"""SATRN: shallow convolutions, an encoder that knows rows, columns and neighbours, the text decoder (arXiv 1910.04396).

As Union14M trains it (arXiv 2307.08723).
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import xavier_normal

from data_pipelines.charset import Charset
from maerec_jax.models import batch_norm, convolution, text_decoder
from maerec_jax.models.convolution import ConvNorm
from maerec_jax.models.dense import Dense
from maerec_jax.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig, EncoderLayer
from maerec_jax.models.names.satrn import MAP_POSITIONS, satrn_names
from maerec_jax.models.names.table import NameTable
from maerec_jax.models.position import sincos_interleaved
from maerec_jax.models.text_decoder import TextDecoderConfig

Array = jax.Array

SHARDING = (
    (r"layers_\d+/expand/conv/kernel", (None, None, "fsdp", "tensor")),
    (r"layers_\d+/depthwise/conv/kernel", (None, None, None, "tensor")),
    (r"layers_\d+/project/conv/kernel", (None, None, "tensor", "fsdp")),
    (r"layers_\d+/(expand|depthwise)/norm/(scale|bias|mean|variance)", ("tensor",)),
    (r"position/\w+/kernel", ("fsdp", None)),
    (r"position/\w+/bias", ()),
)
"""How what other models have not lies on a mesh (``ModelConfig.sharding``)."""


@dataclass(frozen=True)
class SATRNConfig(EncoderDecoderConfig):
    """SATRN."""

    sharding: ClassVar = (*SHARDING, *text_decoder.SHARDING, *convolution.SHARDING, *batch_norm.SHARDING)
    pixel_axes: ClassVar = {"backbone/conv1/conv/kernel": 2}
    stride: ClassVar = (4, 4)

    kind: Literal["satrn"] = field(default="satrn", kw_only=True)
    """Kind of model."""
    channels: tuple[int, int] = (256, 512)
    """Channels of the two convolutions."""
    encoder_layers: int = 12
    """Layers of the encoder."""
    encoder_heads: int = 8
    """Attention heads of its layers."""
    encoder_inner_dim: int = 2048
    """Hidden channels of its feed-forward layers."""
    dropout: float = 0.1
    """Dropout rate of the encoder."""
    decoder: TextDecoderConfig = field(
        default_factory=lambda: TextDecoderConfig(dim=512, layers=6, heads=8, inner_dim=2048, max_length=25)
    )
    """Text decoder."""
    image_size: tuple[int, int] = (32, 100)
    """Height and width of images in pixels."""
    pixel_mean: tuple[float, float, float] = (103.53, 116.28, 123.675)
    """Mean of R, G and B (0 to 255) that is subtracted from the pixels."""
    pixel_std: tuple[float, float, float] = (57.375, 57.12, 58.395)
    """What R, G and B are divided by after that."""
    charset: Charset = field(default_factory=Charset)
    """Charset: the characters that can be read. The published configs have no space."""

    def __post_init__(self) -> None:
        self.check_sizes()
        if max(self.grid) > MAP_POSITIONS:
            raise ValueError(f"image_size {self.image_size} has more than {MAP_POSITIONS} places along a side")

    @classmethod
    def tiny(cls, **changes: Any) -> "SATRNConfig":
        """16 x 40 pixels, 2 layers of 24 in encoder and decoder: for tests."""
        decoder = TextDecoderConfig(dim=24, layers=2, heads=4, inner_dim=40, max_length=8)
        layers = {"encoder_layers": 2, "encoder_heads": 4, "encoder_inner_dim": 36, "decoder": decoder}
        return cls(**{"channels": (12, 24), "image_size": (16, 40), **layers, **changes})

    def module(self, dtype: Any = jnp.float32) -> "SATRN":
        """The Flax module."""
        return SATRN(self, dtype)

    def names(self) -> NameTable:
        """The reference's."""
        return satrn_names(self.channels[-1], self.encoder_heads, self.decoder)


class SATRN(EncoderDecoder):
    """SATRN."""

    def setup(self) -> None:
        """Create its three parts."""
        super().setup()
        self.backbone = ShallowNetwork(self.config.channels, self.dtype)
        self.encoder = SATRNEncoder(self.config, self.dtype)

    def encode(self, image_BHWC: Array, counted_B: Array | None, width_B: Array | None) -> tuple[Array, Array | None]:
        """Normalised pixels to the map, row by row. All of an image is picture."""
        del width_B
        return self.encoder(self.backbone(image_BHWC, counted_B), counted_B), None


class ShallowNetwork(nn.Module):
    """Convolutions, each followed by a max-pooling: the paper's shallow CNN."""

    channels: tuple[int, ...]
    dtype: Any

    @nn.compact
    def __call__(self, x_BHWC: Array, counted_B: Array | None) -> Array:
        """Normalised pixels (B, H, W, 3) to a map (B, H / 4, W / 4, D)."""
        for number, width in enumerate(self.channels, 1):
            x_BHWC = ConvNorm(width, dtype=self.dtype, name=f"conv{number}")(x_BHWC, counted_B)
            x_BHWC = nn.max_pool(x_BHWC, (2, 2), (2, 2))
        return x_BHWC


class AdaptivePosition(nn.Module):
    """Adds encodings of row and column, each scaled by what the whole map says: adaptive 2D positional encoding.

    Each has all channels.
    """

    dtype: Any

    @nn.compact
    def __call__(self, x_BRCD: Array) -> Array:
        """A map (B, rows, columns, D) to the same."""
        rows, columns, dim = x_BRCD.shape[1:]
        table_PD = jnp.asarray(sincos_interleaved(MAP_POSITIONS, dim))
        mean_BD = x_BRCD.mean(axis=(1, 2), dtype=jnp.float32)
        layer = partial(Dense, dim, dtype=self.dtype, kernel_init=xavier_normal())

        def scale(name: str) -> Array:
            h = layer(name=f"{name}2")(nn.relu(layer(name=f"{name}1")(mean_BD)))
            return nn.sigmoid(h.astype(jnp.float32))

        x = x_BRCD + scale("rows")[:, None, None] * table_PD[:rows, None]
        return (x + scale("columns")[:, None, None] * table_PD[:columns]).astype(self.dtype)


class SATRNEncoder(nn.Module):
    """Positions, and layers whose feed-forward parts see neighbours."""

    config: SATRNConfig
    dtype: Any

    def setup(self) -> None:
        """Create positions, layers and the last norm."""
        cfg = self.config
        sizes = (cfg.channels[-1], cfg.encoder_heads, cfg.encoder_inner_dim, cfg.dropout)
        self.position = AdaptivePosition(self.dtype)
        self.dropout = nn.Dropout(cfg.dropout)
        self.layers = [SATRNLayer(*sizes, self.dtype) for _ in range(cfg.encoder_layers)]
        self.norm = nn.LayerNorm(1e-5, dtype=self.dtype)

    def __call__(self, x_BRCD: Array, counted_B: Array | None, mask_BN: Array | None = None) -> Array:
        """A map (B, rows, columns, D) to the encoded one, row by row (B, N, D).

        With ``counted_B`` as in training. ``mask_BN``, bool, tells the places that may be attended to.
        """
        x_BRCD = self.dropout(self.position(x_BRCD), deterministic=counted_B is None)
        grid = (x_BRCD.shape[1], x_BRCD.shape[2])
        x_BND = x_BRCD.reshape(x_BRCD.shape[0], -1, x_BRCD.shape[-1])
        for layer in self.layers:
            x_BND = layer(x_BND, grid, counted_B, mask_BN)
        return self.norm(x_BND)


class SATRNLayer(EncoderLayer):
    """Attention, and a locality-aware feed-forward part: convolutions, of which the middle one sees neighbours.

    Each of the three is followed by batch normalisation and ReLU, the last one, too, as in the reference.
    """

    def setup(self) -> None:
        """Create the convolutions, too."""
        super().setup()
        layer = partial(ConvNorm, dtype=self.dtype)
        self.expand = layer(self.inner_dim, (1, 1))
        self.depthwise = layer(self.inner_dim, groups=self.inner_dim)
        self.project = layer(self.dim, (1, 1))

    def __call__(self, x_BND: Array, grid: tuple[int, int], counted_B: Array | None, mask_BN: Array | None) -> Array:
        """(B, N, D), the rows of a map one after the other, to the same; ``grid`` is its rows and columns."""
        x_BND = self.attended(x_BND, mask_BN, counted_B is None)
        h = self.norm2(x_BND).reshape(x_BND.shape[0], *grid, x_BND.shape[-1])
        for layer in (self.expand, self.depthwise, self.project):
            h = layer(h, counted_B)
        return x_BND + h.reshape(x_BND.shape)
