"""The autoregressive Transformer decoder that writes the text (NRTR's decoder, arXiv 1806.00926, as MAERec uses it)."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import normal, variance_scaling

from maerec_jax.models.attention import attention_weights
from maerec_jax.models.dense import Dense, Keeps, rematerialised
from maerec_jax.models.position import sincos_interleaved
from maerec_jax.models.vit import check_positive

Array = jax.Array
MAX_POSITIONS = 200

SHARDING = (
    (r"attention/(query|key|value)/kernel", ("fsdp", "tensor", None)),  # width, heads, head width
    (r"attention/out/kernel", ("tensor", None, "fsdp")),
    (r"layers_\d+/fc1/kernel", ("fsdp", "tensor")),
    (r"layers_\d+/fc1/bias", ("tensor",)),
    (r"layers_\d+/fc2/kernel", ("tensor", "fsdp")),
    (r"decoder/classifier/kernel", ("fsdp", None)),
    (r"decoder/(layers_\d+/)?norm\d?/(scale|bias)|layers_\d+/fc2/bias|classifier/bias", ()),
    # The gradient of a divided table of characters would be scattered to all devices, and it is small.
    (r"decoder/embedding", ()),
)
"""How the decoder's parameters lie on a mesh (``ModelConfig.sharding``)."""


@dataclass(frozen=True)
class TextDecoderConfig:
    """The text decoder."""

    dim: int = 384
    """Embedding width."""
    layers: int = 6
    """Number of layers."""
    heads: int = 8
    """Attention heads per layer."""
    inner_dim: int = 1536
    """Hidden width of the feed-forward layers."""
    dropout: float = 0.1
    """Dropout rate on embeddings, attention weights and sublayer outputs."""
    max_length: int = 48
    """Longest text in tokens, start token included."""
    remat: bool = False
    """Recompute each layer in the backward pass: less memory, more computation."""
    remat_keeps: Keeps = "nothing"
    """What remat keeps: products, the outputs of dense layers, cost memory but save most of that computation."""

    def __post_init__(self) -> None:
        check_positive(self, "dim", "layers", "heads", "inner_dim")
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not a multiple of heads {self.heads}")
        if self.dim % 2 or not 0 <= self.dropout < 1:
            raise ValueError(f"dim {self.dim} must be even, and dropout {self.dropout} in [0, 1)")
        if not 2 <= self.max_length <= MAX_POSITIONS:
            raise ValueError(f"max_length {self.max_length} is not between 2 and {MAX_POSITIONS}")

    @classmethod
    def small(cls, **changes: Any) -> "TextDecoderConfig":
        """The decoder of MAERec-S."""
        return cls(**{"dim": 384, "inner_dim": 1536, **changes})

    @classmethod
    def base(cls, **changes: Any) -> "TextDecoderConfig":
        """The decoder of MAERec-B."""
        return cls(**{"dim": 768, "inner_dim": 3072, **changes})

    @classmethod
    def tiny(cls, **changes: Any) -> "TextDecoderConfig":
        """64 wide, 2 layers, 4 heads: for tests."""
        return cls(**{"dim": 64, "layers": 2, "heads": 4, "inner_dim": 256, "max_length": 12, **changes})

    def work(self, memory: int, memory_dim: int, classes: int) -> tuple[int, int]:
        """Operations of all places at once, for an encoded image of ``memory`` places (``costs.work``).

        Those of the forward pass, and those that are computed again for the gradient.
        """
        places = self.max_length - 1
        attention = 4 * places * (places + memory) * self.dim
        last_kernel = 2 * places * self.inner_dim * self.dim
        projections = 2 * places * self.dim * (4 + 2) * self.dim  # of self-attention; query and output of the other
        layer = projections + attention + 2 * last_kernel
        keys_values = 2 * memory * memory_dim * 2 * self.dim
        again = attention if self.remat_keeps == "products" else layer - last_kernel
        forward = self.layers * (keys_values + layer) + 2 * places * self.dim * classes
        return forward, self.layers * again * self.remat


class KeysValues(NamedTuple):
    """Keys and values of one attention, in the order in which they are multiplied.

    Compilers for CPUs would bring those that are kept for many single queries into it for each of these otherwise,
    which takes ten times as long as the multiplication.
    """

    keys: Array
    """(batch, heads, head dim, places)."""
    values: Array
    """(batch, heads, places, head dim)."""


class DecodingState(NamedTuple):
    """What the step-by-step path remembers of the places before: fixed shapes, so that it compiles once.

    There are S = ``max_length`` * K slots for K hypotheses of each image: whatever one of them wrote at a place stays
    where it is for all that go on from it, which attend to the slots of their own past. So nothing is moved when
    hypotheses are chosen.
    """

    layers: tuple[KeysValues, ...]
    """Self-attention keys and values of each layer, with S places: the K slots of a place side by side."""
    attended_BKS: Array
    """bool (B, K, S): the slots that the next place of each hypothesis attends to: its past, but for padding."""

    def following(self, parent_BK: Array) -> "DecodingState":
        """The state of the hypotheses that go on from those in ``parent_BK``, int (B, K)."""
        return self._replace(attended_BKS=jnp.take_along_axis(self.attended_BKS, parent_BK[..., None], axis=1))


def dense(features: int | tuple[int, ...], use_bias: bool, dtype: Any, contracted: int = 1) -> nn.Module:
    """A dense layer with PyTorch's initialisation of kernels."""
    init = variance_scaling(1 / 3, "fan_in", "uniform")  # uniform in +-1/sqrt(fan in)
    return Dense(features, contracted, use_bias, dtype, init)


class Attention(nn.Module):
    """Multi-head attention without biases whose keys and values are computed apart, so that they can be kept."""

    dim: int
    heads: int
    dropout_rate: float
    dtype: Any

    def setup(self) -> None:
        """Create the projections."""
        heads = (self.heads, self.dim // self.heads)
        self.query, self.key, self.value = (dense(heads, False, self.dtype) for _ in range(3))
        self.out = dense(self.dim, False, self.dtype, contracted=2)
        self.dropout = nn.Dropout(self.dropout_rate)

    def keys_values(self, x_BKD: Array) -> KeysValues:
        """Keys and values of (B, K, D) inputs."""
        return KeysValues(self.key(x_BKD).transpose(0, 2, 3, 1), self.value(x_BKD).transpose(0, 2, 1, 3))

    def __call__(self, x_BQD: Array, kv: KeysValues, mask: Array | None, deterministic: bool) -> Array:
        """Attend from (B, Q, D) to keys and values; ``mask`` is bool, broadcastable to (B, H, Q, K).

        Where "intermediates" are collected, the weights (B, H, Q, K) are among them.
        """
        weights_BHQK = attention_weights("bqhd,bhdk->bhqk", self.query(x_BQD), kv.keys, mask)
        self.sow("intermediates", "weights", weights_BHQK)
        weights_BHQK = self.dropout(weights_BHQK, deterministic=deterministic).astype(kv.values.dtype)
        h = jnp.einsum("bhqk,bhkd->bqhd", weights_BHQK, kv.values)
        return self.dropout(self.out(h), deterministic=deterministic)


class DecoderLayer(nn.Module):
    """Pre-norm layer: causal self-attention, attention to the image, feed-forward."""

    config: TextDecoderConfig
    dtype: Any

    def setup(self) -> None:
        """Create the three parts and their norms."""
        cfg = self.config
        self.norm1 = nn.LayerNorm(1e-5, dtype=self.dtype)
        self.norm2 = nn.LayerNorm(1e-5, dtype=self.dtype)
        self.norm3 = nn.LayerNorm(1e-5, dtype=self.dtype)
        self.self_attention = Attention(cfg.dim, cfg.heads, cfg.dropout, self.dtype)
        self.cross_attention = Attention(cfg.dim, cfg.heads, cfg.dropout, self.dtype)
        self.fc1 = dense(cfg.inner_dim, True, self.dtype)
        self.fc2 = dense(cfg.dim, True, self.dtype)
        self.dropout = nn.Dropout(cfg.dropout)

    def __call__(
        self,
        x_BQD: Array,
        self_mask: Array,
        memory: KeysValues,
        deterministic: bool,
        past: KeysValues | None = None,
        position: Array | None = None,
        memory_mask: Array | None = None,
    ) -> tuple[Array, KeysValues]:
        """(B, Q, D) to the same, and to the self-attention's keys and values.

        With ``past``, the new keys and values are written into it from place ``position`` on. ``memory_mask`` is bool,
        broadcastable to (B, H, Q, N): the places of the image that may be attended to.
        """
        h = self.norm1(x_BQD)
        kv = self.self_attention.keys_values(h)
        if past is not None and position is not None:
            keys = jax.lax.dynamic_update_slice_in_dim(past.keys, kv.keys, position, 3)
            kv = KeysValues(keys, jax.lax.dynamic_update_slice_in_dim(past.values, kv.values, position, 2))
        x_BQD = x_BQD + self.self_attention(h, kv, self_mask, deterministic)
        x_BQD = x_BQD + self.cross_attention(self.norm2(x_BQD), memory, memory_mask, deterministic)
        h = nn.gelu(self.fc1(self.norm3(x_BQD)), approximate=False)
        h = self.dropout(self.fc2(h), deterministic=deterministic)
        return x_BQD + h, kv


class TextDecoder(nn.Module):
    """Token ids and the encoded image to the logits of the next tokens.

    There are two paths through the same layers, which agree: ``__call__`` for all places at once (training), and
    ``step`` for one place after the other (reading).

    Tokens of the class ``padding`` are never attended to, and their embedding is not trained. Computed in ``dtype``;
    parameters are float32.
    """

    config: TextDecoderConfig
    n_classes: int
    padding: int
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """Create embedding, layers and classifier."""
        cfg = self.config

        def init_embedding(key: Array, shape: tuple[int, int]) -> Array:
            return normal(1.0)(key, shape).at[self.padding].set(0.0)

        self.embedding = self.param("embedding", init_embedding, (self.n_classes, cfg.dim))
        layer = rematerialised(DecoderLayer, cfg.remat, cfg.remat_keeps, static_argnums=(4,))  # 4: deterministic
        self.layers = [layer(cfg, self.dtype) for _ in range(cfg.layers)]
        self.norm = nn.LayerNorm(1e-6, dtype=self.dtype)
        self.classifier = dense(self.n_classes, True, jnp.float32)
        self.dropout = nn.Dropout(cfg.dropout)

    def _embed(self, tokens_BT: Array, positions_T: Array, deterministic: bool) -> Array:
        # The padding row is looked up through stop_gradient: it stays as it was initialised or loaded.
        table = jnp.asarray(self.embedding)
        table = table.at[self.padding].set(jax.lax.stop_gradient(table[self.padding]))
        positions = jnp.asarray(sincos_interleaved(MAX_POSITIONS, self.config.dim))[positions_T]
        x = table[tokens_BT] + positions
        return self.dropout(x, deterministic=deterministic)

    def keys_values(self, memory_BND: Array) -> tuple[KeysValues, ...]:
        """Cross-attention keys and values of each layer for an encoded image (B, N, D): computed once an image."""
        return tuple(layer.cross_attention.keys_values(memory_BND) for layer in self.layers)

    def __call__(
        self, tokens_BT: Array, memory_BND: Array, deterministic: bool = True, memory_mask_BN: Array | None = None
    ) -> Array:
        """All places at once, each seeing itself and the places before (teacher forcing).

        From int (B, T) tokens, the first of them the start, and the encoded image to logits of the next tokens, float32
        (B, T, classes). ``deterministic`` switches dropout off; ``memory_mask_BN``, bool, tells the places of the image
        that may be attended to, all by default.
        """
        length = tokens_BT.shape[1]
        causal = jnp.tril(jnp.ones((length, length), bool))
        self_mask = causal[None, None] & (tokens_BT != self.padding)[:, None, None]
        memory_mask = None if memory_mask_BN is None else memory_mask_BN[:, None, None]
        x = self._embed(tokens_BT, jnp.arange(length), deterministic)
        for layer, memory in zip(self.layers, self.keys_values(memory_BND), strict=True):
            x, _ = layer(x, self_mask, memory, deterministic, None, None, memory_mask)
        return self.classifier(self.norm(x))

    def start(self, batch: int, hypotheses: int = 1) -> DecodingState:
        """The state before the first step, for a number of hypotheses of each image."""
        cfg = self.config
        slots, head = cfg.max_length * hypotheses, cfg.dim // cfg.heads
        shapes = (batch, cfg.heads, head, slots), (batch, cfg.heads, slots, head)
        empty = KeysValues(*(jnp.zeros(shape, self.dtype) for shape in shapes))
        return DecodingState((empty,) * cfg.layers, jnp.zeros((batch, hypotheses, slots), bool))

    def step(
        self,
        token_BK: Array,
        position: Array,
        state: DecodingState,
        memory: tuple[KeysValues, ...],
        memory_mask_BN: Array | None = None,
    ) -> tuple[Array, DecodingState]:
        """One place: the tokens at ``position`` (int scalar) to the logits of the next, float32 (B, K, classes).

        The K hypotheses of an image are K queries of its one memory. ``memory_mask_BN`` is as for ``__call__``.
        """
        hypotheses, slots = state.attended_BKS.shape[1:]
        first = position * hypotheses
        own_KS = jnp.arange(slots) == first + jnp.arange(hypotheses)[:, None]
        attended_BKS = state.attended_BKS | (own_KS & (token_BK != self.padding)[..., None])
        memory_mask = None if memory_mask_BN is None else memory_mask_BN[:, None, None]
        x = self._embed(token_BK, position[None], deterministic=True)
        layers = []
        for layer, kv, past in zip(self.layers, memory, state.layers, strict=True):
            x, past = layer(x, attended_BKS[:, None], kv, True, past, first, memory_mask)
            layers.append(past)
        return self.classifier(self.norm(x)), DecodingState(tuple(layers), attended_BKS)
