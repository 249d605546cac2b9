"""MAERec: the image encoder followed by the text decoder (arXiv 2307.08723, section 5), and greedy reading."""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from data_pipelines.charset import Charset
from maerec_jax.models.text_decoder import DecodingState, KeysValues, TextDecoder, TextDecoderConfig
from maerec_jax.models.vit import ViTConfig, ViTEncoder

Array = jax.Array


@dataclass(frozen=True)
class MAERecConfig:
    """A recogniser: image encoder, text decoder, and the characters that it reads."""

    kind: Literal["maerec"] = field(default="maerec", kw_only=True)
    """The kind of model."""
    encoder: ViTConfig = field(default_factory=ViTConfig.small)
    """The image encoder."""
    decoder: TextDecoderConfig = field(default_factory=TextDecoderConfig.small)
    """The text decoder."""
    charset: Charset = field(default_factory=Charset)
    """The characters that can be read."""

    @classmethod
    def small(cls, **changes: Any) -> "MAERecConfig":
        """MAERec-S: 35,666,398 parameters."""
        return cls(**{"encoder": ViTConfig.small(), "decoder": TextDecoderConfig.small(), **changes})

    @classmethod
    def base(cls, **changes: Any) -> "MAERecConfig":
        """MAERec-B: 142,111,582 parameters."""
        return cls(**{"encoder": ViTConfig.base(), "decoder": TextDecoderConfig.base(), **changes})

    @classmethod
    def tiny(cls, **changes: Any) -> "MAERecConfig":
        """Encoder 64/2/2, decoder of 2 layers: for tests."""
        return cls(**{"encoder": ViTConfig.tiny(), "decoder": TextDecoderConfig.tiny(), **changes})


class MAERec(nn.Module):
    """Word images to text.

    Args:
      config: sizes and charset.
      dtype: dtype of the computation; parameters are float32.
    """

    config: MAERecConfig
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """Create encoder and decoder."""
        charset = self.config.charset
        self.encoder = ViTEncoder(self.config.encoder, self.dtype)
        self.decoder = TextDecoder(self.config.decoder, charset.n_classes, charset.padding, self.dtype)

    def __call__(
        self,
        image_BHWC: Array,
        tokens_BT: Array,
        memory_mask_BN: Array | None = None,
        deterministic: bool = True,
    ) -> Array:
        """Teacher-forced logits of the next tokens, float32 (B, T, classes), from normalised pixels and tokens."""
        memory_BND = self.encoder(image_BHWC)
        return self.decoder(tokens_BT, memory_BND, memory_mask_BN, deterministic)[0]

    def start(self, image_BHWC: Array, hypotheses: int = 1) -> tuple[tuple[KeysValues, ...], DecodingState]:
        """Encode normalised pixels: what ``step`` needs of the image, and the state before the first step."""
        return self.decoder.keys_values(self.encoder(image_BHWC)), self.decoder.start(image_BHWC.shape[0], hypotheses)

    def step(
        self, token_B: Array, position: Array, state: DecodingState, memory: tuple[KeysValues, ...]
    ) -> tuple[Array, DecodingState]:
        """Logits of the token after ``position``, float32 (B, classes), and the next state."""
        return self.decoder.step(token_B, position, state, memory)

    def step_beam(
        self, token_BK: Array, position: Array, state: DecodingState, memory: tuple[KeysValues, ...]
    ) -> tuple[Array, DecodingState]:
        """``step`` for several hypotheses of each image: float32 (B, K, classes), and the next state."""
        return self.decoder.step_beam(token_BK, position, state, memory)


class Reading(NamedTuple):
    """What was read, before it is turned into text (``Charset.decode``)."""

    tokens_BT: Array
    """int32 (B, T): a class for each place, the start token not included; padding after the end."""
    probability_BT: Array
    """float32 (B, T): softmax probability of that class; 0 where nothing was read."""


def greedy_read(model: MAERec, params: Any, image_BHWC: Array) -> Reading:
    """Read images by taking the likeliest token at each place, with cached keys and values.

    Stops as soon as every text has ended. What comes before each end equals decoding all ``max_length`` places.

    Args:
      model: the recogniser.
      params: its parameters.
      image_BHWC: normalised pixels (B, H, W, 3).

    Returns:
      Tokens and probabilities, each (B, max_length).
    """
    charset, length = model.config.charset, model.config.decoder.max_length
    batch = image_BHWC.shape[0]  # no int where a program is exported for batches of any size
    memory, state = model.apply({"params": params}, image_BHWC, method="start")
    reading = Reading(jnp.full((batch, length), charset.padding, jnp.int32), jnp.zeros((batch, length), jnp.float32))
    token_B = jnp.full(batch, charset.start_end, jnp.int32)
    ended_B = jnp.zeros(batch, bool)

    def unfinished(carry: tuple) -> Array:
        position, ended_B = carry[:2]
        return (position < length) & ~ended_B.all()

    def step(carry: tuple) -> tuple:
        position, ended_B, token_B, state, reading = carry
        logits, state = model.apply({"params": params}, token_B, position, state, memory, method="step")
        probability = jax.nn.softmax(logits)
        token_B = jnp.argmax(logits, axis=-1).astype(jnp.int32)
        reading = Reading(
            reading.tokens_BT.at[:, position].set(jnp.where(ended_B, charset.padding, token_B)),
            reading.probability_BT.at[:, position].set(jnp.where(ended_B, 0.0, probability.max(axis=-1))),
        )
        return position + 1, ended_B | (token_B == charset.start_end), token_B, state, reading

    return jax.lax.while_loop(unfinished, step, (jnp.int32(0), ended_B, token_B, state, reading))[-1]
