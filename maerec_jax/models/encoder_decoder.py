"""What NRTR and SATRN share: convolutions and a Transformer encoder make a map, and the text decoder reads it."""

from abc import abstractmethod
from functools import cache
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from maerec_jax.costs.counting import counted_work
from maerec_jax.costs.work import Work
from maerec_jax.models.batch_norm import STATISTICS, is_statistic
from maerec_jax.models.greedy import greedy_read
from maerec_jax.models.interface import Loss, Reading, RecogniserConfig, token_loss
from maerec_jax.models.text_decoder import Attention, DecodingState, KeysValues, TextDecoder, TextDecoderConfig
from maerec_jax.models.vit import check_positive

Array = jax.Array
Memory = tuple[tuple[KeysValues, ...], Array | None]
"""Keys and values of the encoded image for each layer of the decoder, and which places may be attended to, bool."""


class EncoderDecoderConfig(RecogniserConfig):
    """A recogniser of convolutions, a Transformer encoder and the text decoder: what it computes with its sizes."""

    needs_batches: ClassVar = True
    has_beams: ClassVar = True
    has_attention: ClassVar = True
    character_tables: ClassVar = {
        "decoder/embedding": 0,
        "decoder/classifier/kernel": -1,
        "decoder/classifier/bias": -1,
    }
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

    def init(self, key: Array) -> Any:
        """Fresh parameters."""
        image, tokens = jnp.zeros((1, *self.image_size, 3)), jnp.zeros((1, self.max_length), jnp.int32)
        return self.module().init(key, image, tokens)["params"]

    def frozen(self, path: str) -> bool:
        """Running statistics are constants."""
        return is_statistic(path)

    def loss(
        self,
        params: Any,
        image_BHWC: Array,
        tokens_BT: Array,
        valid_B: Array,
        key: Array,
        smoothing: float = 0.0,
        dtype: Any = jnp.float32,
        **widths: Array,
    ) -> Loss:
        """Cross-entropy summed over the characters and ends of the valid images; the weight is all of their places.

        So the reference averages: padding counts as places without a loss. The accuracy is that of the characters.
        """
        apply: Any = self.module(dtype).apply
        logits_BTV, found = apply(
            {"params": params}, image_BHWC, tokens_BT[:, :-1], valid_B, rngs={"dropout": key}, mutable=[STATISTICS],
            **widths,
        )  # fmt: skip
        target_BT = tokens_BT[:, 1:]
        loss_BT, counted_BT = token_loss(logits_BTV, target_BT, self.charset.padding, smoothing)
        counted_BT *= valid_B[:, None]
        correct = ((logits_BTV.argmax(axis=-1) == target_BT) * counted_BT).sum()
        places = valid_B.sum() * target_BT.shape[1]
        metrics = {"character_accuracy": correct * places / jnp.maximum(counted_BT.sum(), 1.0)}
        return Loss((loss_BT * valid_B[:, None]).sum(), places, metrics, found[STATISTICS])

    def read(self, params: Any, image_BHWC: Array, dtype: Any = jnp.float32, **widths: Array) -> Reading:
        """Read normalised pixels greedily (``greedy_read``)."""
        return greedy_read(self.module(dtype), params, image_BHWC, **widths)

    def attention(
        self, params: Any, image_BHWC: Array, tokens_BT: Array, dtype: Any = jnp.float32, **widths: Array
    ) -> Array:
        """Where the last layer of the decoder looked when it wrote each token, a mean over its heads.

        Args:
          params: the parameters.
          image_BHWC: normalised pixels.
          tokens_BT: int (B, T), the tokens that were read (``Reading.tokens_BT``): without the start token.
          dtype: of the computation.
          widths: ``interface.widths``.

        Returns:
          float32 (B, T, rows, columns); each map adds up to 1. Maps of padding mean nothing.

        Raises:
          ValueError: for more tokens than the model reads.
        """
        if tokens_BT.shape[1] > self.max_length:
            raise ValueError(f"{tokens_BT.shape[1]} tokens, but the model reads at most {self.max_length}")
        start_B1 = jnp.full((len(tokens_BT), 1), self.charset.start_end, tokens_BT.dtype)
        seen_BT = jnp.concatenate([start_B1, tokens_BT[:, :-1]], axis=1)
        apply: Any = self.module(dtype).apply
        _, found = apply({"params": params}, image_BHWC, seen_BT, mutable=["intermediates"], **widths)
        layer = found["intermediates"]["decoder"][f"layers_{self.decoder.layers - 1}"]
        weights_BHTN = layer["cross_attention"]["weights"][0]
        return weights_BHTN.mean(axis=1).reshape(*tokens_BT.shape, *self.grid)

    def work(self, image_size: tuple[int, int]) -> Work:
        """The operations for one image, counted in the loss."""
        return _work(self, image_size)


@cache
def _work(model: EncoderDecoderConfig, image_size: tuple[int, int]) -> Work:
    def loss(params: Any, image_BHWC: Array, tokens_BT: Array) -> Array:
        return model.loss(params, image_BHWC, tokens_BT, jnp.ones(1), jax.random.key(0)).total

    params = jax.eval_shape(model.init, jax.random.key(0))
    image = jax.ShapeDtypeStruct((1, *image_size, 3), jnp.float32)
    return counted_work(loss, params, image, jax.ShapeDtypeStruct((1, model.max_length), jnp.int32))


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
