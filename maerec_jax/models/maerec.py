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
from maerec_jax.models.attention_maps import attention_maps
from maerec_jax.models.greedy import greedy_read
from maerec_jax.models.interface import Loss, Reading, RecogniserConfig, token_loss
from maerec_jax.models.lora import is_adapter, merge_lora
from maerec_jax.models.names.maerec import maerec_names
from maerec_jax.models.names.table import NameTable
from maerec_jax.models.text_decoder import DecodingState, KeysValues, TextDecoder, TextDecoderConfig
from maerec_jax.models.vit import SHARDING, OfEncoder, ViTConfig, ViTEncoder

Array = jax.Array


@dataclass(frozen=True)
class MAERecConfig(OfEncoder, RecogniserConfig):
    """A recogniser: image encoder, text decoder, and the characters that it reads."""

    sharding: ClassVar = (*SHARDING, *text_decoder.SHARDING)
    has_beams: ClassVar = True
    has_attention: ClassVar = True
    has_int8: ClassVar = True
    character_tables: ClassVar = {
        "decoder/embedding": 0,
        "decoder/classifier/kernel": -1,
        "decoder/classifier/bias": -1,
    }

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

    @property
    def max_length(self) -> int:
        """That of the decoder."""
        return self.decoder.max_length

    def module(self, dtype: Any = jnp.float32) -> "MAERec":
        """The Flax module."""
        return MAERec(self, dtype)

    def init(self, key: Array) -> Any:
        """Fresh parameters."""
        image = jnp.zeros((1, *self.image_size, 3))
        return self.module().init(key, image, jnp.zeros((1, self.max_length), jnp.int32))["params"]

    def frozen(self, path: str) -> bool:
        """Beside adapters the encoder is a constant."""
        return self.encoder.lora_rank > 0 and path.startswith("encoder/") and not is_adapter(path)

    def loss(
        self,
        params: Any,
        image_BHWC: Array,
        tokens_BT: Array,
        valid_B: Array,
        key: Array,
        smoothing: float = 0.0,
        dtype: Any = jnp.float32,
    ) -> Loss:
        """Cross-entropy summed over the characters (and ends) of the valid images; the weight is their number."""
        inputs, rngs = (image_BHWC, tokens_BT[:, :-1]), {"dropout": key}
        logits_BTV: Any = self.module(dtype).apply({"params": params}, *inputs, deterministic=False, rngs=rngs)
        target_BT = tokens_BT[:, 1:]
        loss_BT, weight_BT = token_loss(logits_BTV, target_BT, self.charset.padding, smoothing)
        weight_BT *= valid_B[:, None]
        correct_BT = (logits_BTV.argmax(axis=-1) == target_BT) * weight_BT
        return Loss((loss_BT * valid_B[:, None]).sum(), weight_BT.sum(), {"character_accuracy": correct_BT.sum()})

    def read(self, params: Any, image_BHWC: Array, dtype: Any = jnp.float32) -> Reading:
        """Read normalised pixels greedily (``greedy_read``)."""
        return greedy_read(self.module(dtype), params, image_BHWC)

    def attention(self, params: Any, image_BHWC: Array, tokens_BT: Array, dtype: Any = jnp.float32) -> Array:
        """Where the text decoder looked (``attention_maps``)."""
        return attention_maps(self.module(dtype), params, image_BHWC, tokens_BT)

    def work(self, image_size: tuple[int, int]) -> Work:
        """The operations for one image."""
        patches = math.prod(self.encoder.grid_of(image_size))
        decoder, again = self.decoder.work(1 + patches, self.encoder.dim, self.charset.n_classes)
        return self.encoder.work(patches, [], decoder, again)

    def names(self) -> NameTable:
        """The reference's."""
        return maerec_names(self.encoder, self.decoder)

    def merged(self, params: Any) -> tuple["MAERecConfig", Any]:
        """Without adapters."""
        return merge_lora(self, params)


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
