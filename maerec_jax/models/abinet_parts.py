"""The parts of ABINet (arXiv 2103.06495): post-norm blocks, position attention, the language model and the fusion."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import variance_scaling, xavier_normal, xavier_uniform, zeros

from maerec_jax.models.attention import attend, attention_weights
from maerec_jax.models.convolution import ConvNorm
from maerec_jax.models.dense import Dense, affine
from maerec_jax.models.position import sincos_interleaved

Array = jax.Array

SHARDING = (
    (r"embedding/kernel", (None, "fsdp")),  # classes, width
    (r"(query|gate|classifier)/kernel", ("fsdp", None)),
    (r"(query|gate|classifier)/bias", ()),
)
"""How linear layers outside of blocks lie on a mesh (``ModelConfig.sharding``)."""

_uniform = variance_scaling(1 / 3, "fan_in", "uniform")  # in +-1/sqrt(inputs), as PyTorch's linear layers begin


def _bias_init(inputs: int) -> Callable[..., Array]:
    """The same for the bias of a layer."""
    bound = inputs**-0.5
    return lambda key, shape: jax.random.uniform(key, shape, minval=-bound, maxval=bound)


def linear(inputs: int, features: int, dtype: Any, **more: Any) -> Dense:
    """A linear layer that begins as PyTorch's do."""
    return Dense(features, dtype=dtype, kernel_init=_uniform, bias_init=_bias_init(inputs), **more)


class QueriesKeysValues(nn.Module):
    """Queries of one sequence, keys and values of another or the same, by kernels that lie in one array."""

    heads: int
    dtype: Any

    @nn.compact
    def __call__(self, x_BQD: Array, memory_BKD: Array) -> tuple[Array, Array, Array]:
        """Queries (B, Q, heads, head dim), keys and values (B, K, heads, head dim)."""
        dim = x_BQD.shape[-1]
        parts = (3, self.heads, dim // self.heads)

        def init(key: Array, shape: tuple[int, ...]) -> Array:
            return xavier_uniform()(key, (dim, 3 * dim)).reshape(shape)

        kernel, bias = self.param("kernel", init, (dim, *parts)), self.param("bias", zeros, parts)
        query = affine(x_BQD.astype(self.dtype), kernel[:, 0], bias[0], 1)
        both = affine(memory_BKD.astype(self.dtype), kernel[:, 1:], bias[1:], 1)
        return query, both[:, :, 0], both[:, :, 1]


class Block(nn.Module):
    """Post-norm Transformer block: x = norm(x + attention(x, memory)), then norm(x + feed-forward(x)).

    Dropout acts on attention weights, on what attention gives, and after both layers of the feed-forward.
    """

    heads: int
    inner_dim: int
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, x_BQD: Array, memory_BKD: Array, mask: Array | None = None, deterministic: bool = True) -> Array:
        """(B, Q, D) to the same, float32; ``mask`` is bool, broadcastable to (B, heads, Q, K)."""
        dim, dropout = x_BQD.shape[-1], partial(nn.Dropout(self.dropout), deterministic=deterministic)
        query, key, value = QueriesKeysValues(self.heads, self.dtype, name="qkv")(x_BQD, memory_BKD)
        if mask is None and deterministic:
            h = attend(query, key, value)
        else:
            weights_BHQK = dropout(attention_weights("bqhd,bkhd->bhqk", query, key, mask))
            h = jnp.einsum("bhqk,bkhd->bqhd", weights_BHQK.astype(self.dtype), value)
        h = Dense(dim, contracted=2, dtype=self.dtype, kernel_init=_uniform, name="proj")(h)
        # The residual stream stays in float32 whatever the dtype of the layers that read it and add to it.
        x_BQD = nn.LayerNorm(1e-5, name="norm1")(x_BQD + dropout(h))
        h = dropout(nn.relu(linear(dim, self.inner_dim, self.dtype, name="fc1")(x_BQD)))
        h = linear(self.inner_dim, dim, self.dtype, name="fc2")(h)
        return nn.LayerNorm(1e-5, name="norm2")(x_BQD + dropout(h))


class Encoder(nn.Module):
    """A position table and blocks over the places of a feature map (section 3.1)."""

    blocks: int
    heads: int
    inner_dim: int
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, map_BHWD: Array, deterministic: bool = True) -> Array:
        """(B, H, W, D) to the same, float32; what each block gives, (B, H * W, D), is sown as "blocks"."""
        batch, rows, columns, dim = map_BHWD.shape
        x_BND = map_BHWD.reshape(batch, rows * columns, dim).astype(jnp.float32)
        x_BND += sincos_interleaved(rows * columns, dim)
        for i in range(self.blocks):
            block = Block(self.heads, self.inner_dim, self.dropout, self.dtype, name=f"blocks_{i}")
            x_BND = block(x_BND, x_BND, deterministic=deterministic)
            self.sow("intermediates", "blocks", x_BND)
        return x_BND.reshape(batch, rows, columns, dim)


class PositionAttention(nn.Module):
    """What each position of the text looks at in a feature map, and the class that it sees there (section 3.1).

    Queries are the positions alone. Keys come from a small U-Net over the map; values are the map itself.
    """

    length: int
    channels: int
    n_classes: int
    dtype: Any

    @nn.compact
    def __call__(self, map_BHWD: Array, counted_B: Array | None = None) -> tuple[Array, Array]:
        """From (B, H, W, D) to features (B, T, D) and logits (B, T, classes), both float32.

        The weights (B, T, H, W) are sown as "weights"; what the U-Net gives on its way down and up, as "down" and "up".
        """
        dim = map_BHWD.shape[-1]
        key_BHWD = self._keys(map_BHWD, counted_B)
        query_TD = linear(dim, dim, self.dtype, name="query")(jnp.asarray(sincos_interleaved(self.length, dim)))
        scores = jnp.einsum("td,bhwd->bthw", query_TD, key_BHWD, preferred_element_type=jnp.float32)
        weights_BTHW = jax.nn.softmax(scores * dim**-0.5, axis=(-2, -1))
        self.sow("intermediates", "weights", weights_BTHW)
        value = map_BHWD.astype(self.dtype)
        feature_BTD = jnp.einsum(
            "bthw,bhwd->btd", weights_BTHW.astype(self.dtype), value, preferred_element_type=jnp.float32
        )
        return feature_BTD, linear(dim, self.n_classes, jnp.float32, name="classifier")(feature_BTD)

    def _keys(self, map_BHWD: Array, counted_B: Array | None) -> Array:
        layer = partial(ConvNorm, dtype=self.dtype, kernel_init=xavier_normal())
        x, passed = map_BHWD, []
        for i, strides in enumerate(((1, 2), (2, 2), (2, 2), (2, 2))):
            x = layer(self.channels, strides=strides, name=f"down_{i}")(x, counted_B)
            self.sow("intermediates", "down", x)
            passed.append(x)
        for i, beside in enumerate(passed[-2::-1]):
            x = layer(self.channels, name=f"up_{i}")(_repeated(x, 2, 2), counted_B)
            self.sow("intermediates", "up", x)
            x = x + beside
        x = layer(map_BHWD.shape[-1], name="up_3")(_repeated(x, 1, 2), counted_B)
        self.sow("intermediates", "up", x)
        return x


def _repeated(x_BHWC: Array, rows: int, columns: int) -> Array:
    """Each pixel several times: the nearest one in a larger map."""
    return x_BHWC.repeat(rows, axis=1).repeat(columns, axis=2)


class LanguageModel(nn.Module):
    """Reads a text as probabilities, and says what each character should be by all others (section 3.2)."""

    n_classes: int
    end: int
    """The class that ends a text."""
    dim: int
    layers: int
    heads: int
    inner_dim: int
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, logits_BTC: Array, deterministic: bool = True) -> tuple[Array, Array]:
        """From logits (B, T, classes) to features (B, T, D) and logits (B, T, classes), both float32.

        No gradient goes back to the input. What each block gives, (B, T, D), is sown as "blocks".
        """
        batch, length = logits_BTC.shape[:2]
        probability_BTC = jax.nn.softmax(jax.lax.stop_gradient(logits_BTC))
        embed = Dense(self.dim, use_bias=False, dtype=self.dtype, kernel_init=_uniform, name="embedding")
        positions_TD = jnp.asarray(sincos_interleaved(length, self.dim))
        memory_BTD = embed(probability_BTC) + positions_TD
        self.sow("intermediates", "embedded", memory_BTD)
        memory_BTD = nn.Dropout(self.dropout)(memory_BTD, deterministic=deterministic)
        # The end is among the places that can be seen, and no character sees itself.
        seen_BT = jnp.arange(length) < text_lengths(logits_BTC, self.end)[:, None]
        mask_B1TT = (seen_BT[:, None] & ~jnp.eye(length, dtype=bool))[:, None]
        x_BTD = jnp.broadcast_to(positions_TD, (batch, length, self.dim))
        for i in range(self.layers):
            block = Block(self.heads, self.inner_dim, self.dropout, self.dtype, name=f"blocks_{i}")
            x_BTD = block(x_BTD, memory_BTD, mask_B1TT, deterministic)
            self.sow("intermediates", "blocks", x_BTD)
        return x_BTD, linear(self.dim, self.n_classes, jnp.float32, name="classifier")(x_BTD)


def text_lengths(logits_BTC: Array, end: int) -> Array:
    """How many places texts have with their ends, int (B): all where there is no end, and 2 at least.

    Of fewer places the first one could see nothing but itself.
    """
    ends_BT = logits_BTC.argmax(axis=-1) == end
    length = ends_BT.shape[1]
    return jnp.where(ends_BT.any(axis=1), ends_BT.argmax(axis=1) + 1, length).clip(2, length)


class Fusion(nn.Module):
    """Weighs what is seen and what the language says, place by place and channel by channel (section 3.3)."""

    n_classes: int
    dtype: Any

    @nn.compact
    def __call__(self, vision_BTD: Array, language_BTD: Array) -> Array:
        """Features (B, T, D) of both to logits (B, T, classes), float32; the gate (B, T, D) is sown as "gates"."""
        dim = vision_BTD.shape[-1]
        both = jnp.concatenate([vision_BTD, language_BTD], axis=-1)
        gate_BTD = nn.sigmoid(linear(2 * dim, dim, self.dtype, name="gate")(both).astype(jnp.float32))
        self.sow("intermediates", "gates", gate_BTD)
        fused_BTD = gate_BTD * language_BTD + (1 - gate_BTD) * vision_BTD
        return linear(dim, self.n_classes, jnp.float32, name="classifier")(fused_BTD)
