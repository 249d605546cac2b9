"""What NRTR and SATRN share: convolutions and a Transformer encoder make a map, and the text decoder reads it."""

from abc import abstractmethod
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from maerec_jax.models.autoregressive import AutoregressiveConfig
from maerec_jax.models.text_decoder import Attention, DecodingState, KeysValues, TextDecoder, TextDecoderConfig
from maerec_jax.models.vit import check_positive

Array = jax.Array
Memory = tuple[tuple[KeysValues, ...], Array | None]
"""Keys and values of the encoded image for each layer of the decoder, and which places may be attended to, bool."""


class EncoderDecoderConfig(AutoregressiveConfig):
    """A recogniser of convolutions, a Transformer encoder and the text decoder: what it computes with its sizes."""

    needs_batches: ClassVar = True
    averages_places: ClassVar = True
    stride: ClassVar[tuple[int, int]]
    """Rows and columns of pixels for one of the map."""

    channels: tuple[int, ...]
    encoder_layers: int
    encoder_heads: int
    encoder_inner_dim: int
    dropout: float
    decoder: TextDecoderConfig

    def check_sizes(self) -> None:
        """Raise ``ValueError`` for sizes that do not fit each other."""
        check_positive(self, "channels", "encoder_layers", "encoder_heads", "encoder_inner_dim", "image_size")
        if self.channels[-1] % self.encoder_heads:
            raise ValueError(f"channels {self.channels[-1]} are not a multiple of encoder_heads {self.encoder_heads}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout {self.dropout} must be in [0, 1)")
        if any(side % step for side, step in zip(self.image_size, self.stride, strict=True)):
            raise ValueError(f"image_size {self.image_size} is not a multiple of {self.stride}")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the encoded map."""
        return self.image_size[0] // self.stride[0], self.image_size[1] // self.stride[1]

    @property
    def max_length(self) -> int:
        """That of the decoder."""
        return self.decoder.max_length

    @abstractmethod
    def module(self, dtype: Any = jnp.float32) -> "EncoderDecoder":
        """The Flax module."""

    def maps(self, sown: Any, image_size: tuple[int, int]) -> Array:
        """Those of the last layer's cross-attention, a mean over its heads."""
        del image_size  # the only one there is
        weights_BHTN = sown[f"layers_{self.decoder.layers - 1}"]["cross_attention"]["weights"][0]
        return weights_BHTN.mean(axis=1).reshape(weights_BHTN.shape[0], -1, *self.grid)


class EncoderDecoder(nn.Module):
    """Word images to text, computed in ``dtype``; parameters are float32. Subclasses bring the encoder."""

    config: Any
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """Create the decoder."""
        charset = self.config.charset
        self.decoder = TextDecoder(self.config.decoder, charset.n_classes, charset.padding, self.dtype)

    def encode(self, image_BHWC: Array, counted_B: Array | None, width_B: Array | None) -> tuple[Array, Array | None]:
        """Normalised pixels to the map, row by row (B, N, D), and its places that may be attended to, bool (B, N)."""
        raise NotImplementedError

    def __call__(
        self, image_BHWC: Array, tokens_BT: Array, counted_B: Array | None = None, width_B: Array | None = None
    ) -> Array:
        """Teacher-forced logits of the next tokens, float32 (B, T, classes), from normalised pixels and tokens.

        With ``counted_B``, float32 (B), as in training: with dropout, and the batch's statistics of the images for
        which it is 1. ``width_B`` is as for ``RecogniserConfig.loss`` where aspect ratios are kept.
        """
        memory_BND, mask_BN = self.encode(image_BHWC, counted_B, width_B)
        return self.decoder(tokens_BT, memory_BND, counted_B is None, mask_BN)

    def start(
        self, image_BHWC: Array, hypotheses: int = 1, width_B: Array | None = None
    ) -> tuple[Memory, DecodingState]:
        """Encode normalised pixels: what ``step`` needs of the image, and the state before the first step."""
        memory_BND, mask_BN = self.encode(image_BHWC, None, width_B)
        memory = self.decoder.keys_values(memory_BND), mask_BN
        return memory, self.decoder.start(image_BHWC.shape[0], hypotheses)

    def step(
        self, token_BK: Array, position: Array, state: DecodingState, memory: Memory
    ) -> tuple[Array, DecodingState]:
        """Logits of what comes after ``position`` in each hypothesis, float32 (B, K, classes), and the next state."""
        return self.decoder.step(token_BK, position, state, *memory)


class EncoderLayer(nn.Module):
    """The first half of a pre-norm layer, self-attention without biases. Subclasses bring the second, which differs."""

    dim: int
    heads: int
    inner_dim: int
    dropout_rate: float
    dtype: Any

    def setup(self) -> None:
        """Create the norms and the attention."""
        self.norm1 = nn.LayerNorm(1e-5, dtype=self.dtype)
        self.norm2 = nn.LayerNorm(1e-5, dtype=self.dtype)
        self.attention = Attention(self.dim, self.heads, self.dropout_rate, self.dtype)

    def attended(self, x_BND: Array, mask_BN: Array | None, deterministic: bool) -> Array:
        """(B, N, D) and what each place takes from those of ``mask_BN``, bool, all by default."""
        h = self.norm1(x_BND)
        mask = None if mask_BN is None else mask_BN[:, None, None]
        return x_BND + self.attention(h, self.attention.keys_values(h), mask, deterministic)


def columns_mask(width_B: Array, image_width: int, grid: tuple[int, int]) -> Array:
    """The places of a map (rows, columns) that show picture, bool (B, rows * columns).

    Of an image ``width_B`` of whose ``image_width`` columns are picture, the rest being filling on the right.
    """
    rows, columns = grid
    seen_BC = jnp.arange(columns) * image_width < width_B[:, None] * columns
    return jnp.tile(seen_BC, (1, rows))
