"""ASTER: a rectifier, a convolutional network, and a recurrent decoder that attends (IEEE TPAMI 2018).

As the Union14M repository trains it (arXiv 2307.08723, section 5.1).
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from data_pipelines.charset import Charset
from maerec_jax.models import attention_decoder, batch_norm, convolution, rectifier, recurrent
from maerec_jax.models.attention_decoder import AttentionDecoder, DecodingState, Memory
from maerec_jax.models.autoregressive import AutoregressiveConfig
from maerec_jax.models.convolution import ResNet45
from maerec_jax.models.names.aster import aster_names
from maerec_jax.models.names.table import NameTable
from maerec_jax.models.rectifier import Rectifier
from maerec_jax.models.recurrent import LSTM, run_lstms
from maerec_jax.models.vit import check_positive

Array = jax.Array

STRIDES = ((2, 2), (2, 2), (2, 1), (2, 1), (2, 1))
"""Of the five stages: a straight word of 32 rows becomes one row of features, and four columns become one."""
_WIDEST = 4096  # columns of a straight word; the table of the spline has 32 * 23 numbers for each


@dataclass(frozen=True)
class ASTERConfig(AutoregressiveConfig):
    """ASTER: it straightens words by a thin-plate spline before it reads them."""

    sharding: ClassVar = (
        *convolution.SHARDING,
        *batch_norm.SHARDING,
        *rectifier.SHARDING,
        *recurrent.SHARDING,
        *attention_decoder.SHARDING,
    )
    needs_batches: ClassVar = True
    pixel_axes: ClassVar = {"rectifier/layer0/conv/kernel": 2, "backbone/stem/conv/kernel": 2}
    averages_places: ClassVar = True

    kind: Literal["aster"] = field(default="aster", kw_only=True)
    """Kind of model."""
    stem: int = 32
    """Channels of the first convolution."""
    widths: tuple[int, ...] = (32, 64, 128, 256, 512)
    """Channels of the five stages after it."""
    blocks: tuple[int, ...] = (3, 4, 6, 6, 3)
    """Residual blocks of each stage."""
    encoder_dim: int = 256
    """Hidden units of each direction of the two bidirectional LSTM layers."""
    attention_dim: int = 512
    """Width in which the decoder compares its state with the image; also that of the characters' embedding."""
    decoder_dim: int = 512
    """Hidden units of the decoder's GRU."""
    charset: Charset = field(default_factory=Charset)
    """Charset: the characters that can be read."""
    max_length: int = 25
    """Longest text in tokens, start token included."""
    image_size: tuple[int, int] = (64, 256)
    """Height and width of the images in pixels."""
    rectified_size: tuple[int, int] = (32, 100)
    """Height and width of the straight words; the height is 17 to 32, which become one row of features."""
    localisation_size: tuple[int, int] = (32, 64)
    """Height and width of the small images in which words are looked for, multiples of 32."""
    pixel_mean: tuple[float, float, float] = (127.5, 127.5, 127.5)
    """Mean of R, G and B (0 to 255) that is subtracted from the pixels."""
    pixel_std: tuple[float, float, float] = (127.5, 127.5, 127.5)
    """What R, G and B are divided by after that."""

    def __post_init__(self) -> None:
        check_positive(self, "stem", "widths", "blocks", "encoder_dim", "attention_dim", "decoder_dim")
        if not len(self.widths) == len(self.blocks) == len(STRIDES):
            raise ValueError(f"widths {self.widths} and blocks {self.blocks} must be {len(STRIDES)} each")
        if self.max_length < 2:
            raise ValueError(f"max_length {self.max_length} is not at least 2")
        if min(self.image_size) < 2:
            raise ValueError(f"image_size {self.image_size} is not at least 2 x 2 pixels")
        if not (16 < self.rectified_size[0] <= 32 and 0 < self.rectified_size[1] <= _WIDEST):
            raise ValueError(f"rectified_size {self.rectified_size} is not 17 to 32 high and 1 to {_WIDEST} wide")
        if any(side < 1 or side % rectifier.SHRINKS for side in self.localisation_size):
            raise ValueError(f"localisation_size {self.localisation_size}: no multiples of {rectifier.SHRINKS}")

    @classmethod
    def tiny(cls, **changes: Any) -> "ASTERConfig":
        """Images of 40 x 120 pixels, up to 16 channels, the whole rectifier: for tests."""
        small = {"stem": 6, "widths": (6, 8, 10, 12, 16), "blocks": (2, 1, 1, 1, 1), "image_size": (40, 120)}
        small |= {"encoder_dim": 8, "attention_dim": 20, "decoder_dim": 24, "max_length": 8}
        return cls(**{**small, **changes})

    def module(self, dtype: Any = jnp.float32) -> "ASTER":
        """The Flax module."""
        return ASTER(self, dtype)

    def frozen(self, path: str) -> bool:
        """Running statistics and the tables of the spline are constants."""
        return super().frozen(path) or rectifier.is_spline(path)

    def maps(self, sown: Any, image_size: tuple[int, int]) -> Array:
        """(B, T, 1, columns): the decoder attends to columns of the straight word, not of the image.

        A map is one row over the straight word, of which it tells the place in the direction of reading.
        """
        del image_size
        return sown["attention"][0][:, :, None]

    def names(self) -> NameTable:
        """The Union14M repository's."""
        return aster_names(len(STRIDES), len(rectifier.WIDTHS), rectifier.even_points(rectifier.TARGET_MARGIN))


class Encoder(nn.Module):
    """Two bidirectional LSTM layers over the columns of the features."""

    size: int
    dtype: Any

    @nn.compact
    def __call__(self, x_BND: Array) -> Array:
        """(B, N, width) to (B, N, 2 * size), left to right before right to left."""
        for layer in range(2):
            both = (LSTM(x_BND.shape[-1], self.size, name=f"layer{layer}{way}") for way in ("", "_reverse"))
            x_BND = jnp.concatenate(run_lstms([lstm.cell() for lstm in both], x_BND.astype(self.dtype)), axis=-1)
        return x_BND


class ASTER(nn.Module):
    """Word images to text, computed in ``dtype``, but for the rectifier; parameters are float32."""

    config: ASTERConfig
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """Create the parts."""
        cfg = self.config
        self.rectifier = Rectifier(cfg.rectified_size, cfg.localisation_size)
        self.backbone = ResNet45(cfg.stem, cfg.widths, cfg.blocks, STRIDES, dtype=self.dtype)
        self.encoder = Encoder(cfg.encoder_dim, self.dtype)
        sizes = (2 * cfg.encoder_dim, cfg.attention_dim, cfg.decoder_dim, cfg.charset.n_classes)
        self.decoder = AttentionDecoder(*sizes, self.dtype)

    def __call__(self, image_BHWC: Array, tokens_BT: Array, counted_B: Array | None = None) -> Array:
        """Teacher-forced logits of the next tokens, float32 (B, T, classes), from normalised pixels and tokens.

        With ``counted_B``, float32 (B), batch normalisation is that of training, over the images for which it is 1.
        """
        return self.decoder(tokens_BT, self.encode(self.rectifier(image_BHWC, counted_B), counted_B))

    def encode(self, straight_BHWC: Array, counted_B: Array | None = None) -> Array:
        """Straight words to their encoded columns (B, N, D)."""
        return self.encoder(self.backbone(straight_BHWC, counted_B)[:, 0])

    def start(self, image_BHWC: Array, hypotheses: int = 1) -> tuple[Memory, DecodingState]:
        """Encode normalised pixels: what ``step`` needs of the image, and the state before the first step."""
        memory = self.decoder.prepare(self.encode(self.rectifier(image_BHWC)))
        return memory, self.decoder.start(image_BHWC.shape[0], hypotheses)

    def step(
        self, token_BK: Array, position: Array, state: DecodingState, memory: Memory
    ) -> tuple[Array, DecodingState]:
        """Logits of what comes after the last tokens, float32 (B, K, classes), and the next state."""
        del position  # the state tells it
        return self.decoder.step(token_BK, state, memory)
