"""SAR, "Show, Attend and Read" (Li et al., AAAI 2019, arXiv 1811.00751), as Union14M trains it (arXiv 2307.08723).

Convolutions make a map of the image. One LSTM reads its columns and sums the word up in a holistic feature; two LSTM
cells begin with that, write one character after the other, and look in the map with attention in two dimensions.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from data_pipelines.charset import Charset
from data_pipelines.images.resizing import KeepRatio
from maerec_jax.models import batch_norm, convolution, recurrent, sar_layers
from maerec_jax.models.autoregressive import AutoregressiveConfig
from maerec_jax.models.convolution import ResNet31
from maerec_jax.models.names.sar import sar_names
from maerec_jax.models.names.table import NameTable
from maerec_jax.models.sar_layers import CellState, Decoder, HolisticEncoder, Sight, State
from maerec_jax.models.vit import check_positive

Array = jax.Array


@dataclass(frozen=True)
class SARConfig(AutoregressiveConfig):
    """SAR: a map of convolutions, an LSTM that reads its columns, and two LSTM cells that write."""

    sharding: ClassVar = (*sar_layers.SHARDING, *convolution.SHARDING, *batch_norm.SHARDING, *recurrent.SHARDING)
    pixel_axes: ClassVar = {"backbone/stem1/conv/kernel": 2}
    keep_ratio: ClassVar = KeepRatio(smallest=48, divisor=4, reading_divisor=4)
    needs_batches: ClassVar = True
    character_tables: ClassVar = {
        "decoder/embedding": 0,
        "decoder/prediction/kernel": -1,
        "decoder/prediction/bias": -1,
    }

    kind: Literal["sar"] = field(default="sar", kw_only=True)
    """Kind of model."""
    channels: tuple[int, int, int, int, int, int] = (64, 128, 256, 256, 512, 512)
    """Channels of the two convolutions of the stem and of the four stages."""
    blocks: tuple[int, int, int, int] = (1, 2, 5, 3)
    """Residual blocks of the four stages."""
    encoder_dim: int = 512
    """Width of the encoder's LSTM and of the holistic feature."""
    decoder_dim: int = 512
    """Width of the decoder's two cells and of the characters' embedding: that of the encoder, too."""
    attention_dim: int = 512
    """Hidden units of the attention."""
    dropout: float = 0.1
    """Dropout rate on logits."""
    max_length: int = 30
    """Longest text in tokens, start token included."""
    cell_state: CellState = "own"
    """What the decoder's cells keep from character to character: their own state, as LSTMs do; or the hidden state in
    its place, as the published weights need it."""
    image_size: tuple[int, int] = (48, 160)
    """Height and width of the images in pixels: multiples of 8 and 4."""
    pixel_mean: tuple[float, float, float] = (127.0, 127.0, 127.0)
    """Mean of R, G and B (0 to 255) that is subtracted from the pixels."""
    pixel_std: tuple[float, float, float] = (127.0, 127.0, 127.0)
    """What R, G and B are divided by after that."""
    charset: Charset = field(default_factory=Charset)
    """Charset: the characters that can be read."""

    def __post_init__(self) -> None:
        check_positive(self, "channels", "blocks", "encoder_dim", "attention_dim", "image_size", "pixel_std")
        if self.decoder_dim != self.encoder_dim:
            raise ValueError(
                f"decoder_dim {self.decoder_dim} must be encoder_dim {self.encoder_dim}: the decoder's first cell is "
                "given the holistic feature, then characters"
            )
        if self.image_size[0] % 8 or self.image_size[1] % 4:
            raise ValueError(f"image_size {self.image_size} must be multiples of 8 and 4")
        if not 0 <= self.dropout < 1 or self.max_length < 2:
            raise ValueError(f"dropout {self.dropout} must be in [0, 1), and max_length {self.max_length} at least 2")

    @classmethod
    def tiny(cls, **changes: Any) -> "SARConfig":
        """Images of 24 x 48, all widths 32 and below: for tests."""
        sizes = {"channels": (8, 8, 16, 16, 24, 32), "blocks": (1, 1, 2, 1), "image_size": (24, 48), "max_length": 8}
        widths = {"encoder_dim": 32, "decoder_dim": 32, "attention_dim": 16}
        return cls(**{**sizes, **widths, **changes})

    def module(self, dtype: Any = jnp.float32) -> "SAR":
        """The Flax module."""
        return SAR(self, dtype)

    def maps(self, sown: Any, image_size: tuple[int, int]) -> Array:
        """(B, T, H / 8, W / 4); nothing beside the picture is looked at."""
        del image_size
        return sown["weights"][0]

    def names(self) -> NameTable:
        """The reference's."""
        return sar_names()


class SAR(nn.Module):
    """Word images to text, computed in ``dtype``; parameters are float32."""

    config: SARConfig
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """Create backbone, encoder and decoder."""
        cfg, charset = self.config, self.config.charset
        self.backbone = ResNet31(cfg.channels, cfg.blocks, self.dtype)
        self.encoder = HolisticEncoder(cfg.encoder_dim, self.dtype)
        self.decoder = Decoder(
            charset.n_classes, charset.padding, cfg.decoder_dim, cfg.channels[-1], cfg.attention_dim, cfg.dropout,
            cfg.cell_state, self.dtype,
        )  # fmt: skip

    def __call__(
        self, image_BHWC: Array, tokens_BT: Array, counted_B: Array | None = None, width_B: Array | None = None
    ) -> Array:
        """Teacher-forced logits of the next tokens, float32 (B, T, classes).

        Args:
          image_BHWC: normalised pixels.
          tokens_BT: int (B, T), the first of them the start.
          counted_B: in training, float32 (B): 1 for the images whose statistics normalise. There is dropout then.
          width_B: int (B), how many columns of each image are picture; all by default.
        """
        sight = self.see(image_BHWC, width_B, counted_B)
        return self.decoder(tokens_BT, sight, deterministic=counted_B is None)

    def see(self, image_BHWC: Array, width_B: Array | None = None, counted_B: Array | None = None) -> Sight:
        """What the decoder needs of the images."""
        map_BRCF = self.backbone(image_BHWC, counted_B)
        batch, columns, pixels = image_BHWC.shape[0], map_BRCF.shape[2], image_BHWC.shape[2]
        filled_B = jnp.full(batch, columns) if width_B is None else -(-width_B * columns // pixels)
        filled_B = jnp.clip(filled_B, 1, columns)
        return self.decoder.see(map_BRCF, self.encoder(map_BRCF, filled_B), filled_B)

    def start(
        self, image_BHWC: Array, hypotheses: int = 1, width_B: Array | None = None
    ) -> tuple[tuple[Sight, Array], State]:
        """Encode normalised pixels: what ``step`` needs of the images, and the state before the first step."""
        sight = self.see(image_BHWC, width_B)
        first = self.decoder.first(sight)
        state = State(*(jnp.repeat(part[:, None], hypotheses, axis=1) for part in first))
        return (sight, self.decoder.of_classes()), state

    def step(self, token_BK: Array, position: Array, state: State, memory: tuple[Sight, Array]) -> tuple[Array, State]:
        """Logits of what comes after ``position`` in each hypothesis, float32 (B, K, classes), and the next state."""
        del position
        sight, of_class_CG = memory
        return self.decoder.step(of_class_CG[token_BK], state, sight)
