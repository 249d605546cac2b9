"""MAERec: the image encoder followed by the text decoder (arXiv 2307.08723, section 5)."""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from data_pipelines.charset import Charset
from maerec_jax.costs.work import Work
from maerec_jax.models import text_decoder
from maerec_jax.models.autoregressive import AutoregressiveConfig
from maerec_jax.models.lora import is_adapter, merge_lora
from maerec_jax.models.names.maerec import maerec_names
from maerec_jax.models.names.table import NameTable
from maerec_jax.models.text_decoder import DecodingState, KeysValues, TextDecoder, TextDecoderConfig
from maerec_jax.models.vit import SHARDING, ViTConfig, ViTEncoder

Array = jax.Array


@dataclass(frozen=True)
class MAERecConfig(AutoregressiveConfig):
    """A recogniser: image encoder, text decoder, and the characters that it reads."""

    sharding: ClassVar = (*SHARDING, *text_decoder.SHARDING)
    has_int8: ClassVar = True

    kind: Literal["maerec"] = field(default="maerec", kw_only=True)
    """Kind of model."""
    encoder: ViTConfig = field(default_factory=ViTConfig.small)
    """Image encoder."""
    decoder: TextDecoderConfig = field(default_factory=TextDecoderConfig.small)
    """Text decoder."""
    charset: Charset = field(default_factory=Charset)
    """Charset: the characters that can be read."""

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

    @property
    def max_length(self) -> int:
        """That of the decoder."""
        return self.decoder.max_length

    def module(self, dtype: Any = jnp.float32) -> "MAERec":
        """The Flax module."""
        return MAERec(self, dtype)

    def frozen(self, path: str) -> bool:
        """Beside adapters the encoder is a constant."""
        return self.encoder.lora_rank > 0 and path.startswith("encoder/") and not is_adapter(path)

    def maps(self, sown: Any, image_size: tuple[int, int]) -> Array:
        """Those of the last layer's cross-attention, a mean over its heads.

        The class token, which has no place in the image, is left out: what the patches get is divided by its sum, so
        that each map adds up to 1 however much went to the class token.

        The last layer is the one that shows the characters' places. Of a recogniser with two layers, on 86 real words
        that it had read right, the centre of a character's map lay 0.05 of the width from where characters of equal
        width would lie with the last layer, 0.19 with the first and 0.11 with the mean of both.
        """
        attended = sown[f"layers_{self.decoder.layers - 1}"]["cross_attention"]
        patches_BTN = attended["weights"][0].mean(axis=1)[..., 1:]
        patches_BTN /= patches_BTN.sum(axis=-1, keepdims=True)
        return patches_BTN.reshape(*patches_BTN.shape[:2], *self.encoder.grid_of(image_size))

    def work(self, image_size: tuple[int, int]) -> Work:
        """The operations for one image."""
        patches = math.prod(self.encoder.grid_of(image_size))
        decoder, again = self.decoder.work(1 + patches, self.encoder.dim, self.charset.n_classes)
        return self.encoder.work(image_size, patches, [], decoder, again)

    def names(self) -> NameTable:
        """The reference's."""
        return maerec_names(self.encoder, self.decoder)

    merged = merge_lora


class MAERec(nn.Module):
    """Word images to text, computed in ``dtype``; parameters are float32."""

    config: MAERecConfig
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """Create encoder and decoder."""
        charset = self.config.charset
        self.encoder = ViTEncoder(self.config.encoder, self.dtype)
        self.decoder = TextDecoder(self.config.decoder, charset.n_classes, charset.padding, self.dtype)

    def __call__(self, image_BHWC: Array, tokens_BT: Array, counted_B: Array | None = None) -> Array:
        """Teacher-forced logits of the next tokens, float32 (B, T, classes), from normalised pixels and tokens.

        With ``counted_B``, whatever it is, there is dropout, as in training.
        """
        return self.decoder(tokens_BT, self.encoder(image_BHWC), counted_B is None)

    def start(self, image_BHWC: Array, hypotheses: int = 1) -> tuple[tuple[KeysValues, ...], DecodingState]:
        """Encode normalised pixels: what ``step`` needs of the image, and the state before the first step."""
        return self.decoder.keys_values(self.encoder(image_BHWC)), self.decoder.start(image_BHWC.shape[0], hypotheses)

    def step(
        self, token_BK: Array, position: Array, state: DecodingState, memory: tuple[KeysValues, ...]
    ) -> tuple[Array, DecodingState]:
        """Logits of what comes after ``position`` in each hypothesis, float32 (B, K, classes), and the next state."""
        return self.decoder.step(token_BK, position, state, memory)
