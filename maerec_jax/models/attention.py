"""Attention shared by the image encoder, the masked autoencoder's decoder and the text decoder."""

import flax.linen as nn
import jax
import jax.numpy as jnp

Array = jax.Array


def attention_weights(q_BQHD: Array, k_BKHD: Array, mask: Array | None = None) -> Array:
    """softmax(q k^T / sqrt(D)), float32 (batch, heads, queries, keys); the arguments are those of ``attend``."""
    scores_BHQK = jnp.einsum("bqhd,bkhd->bhqk", q_BQHD, k_BKHD, preferred_element_type=jnp.float32)
    scores_BHQK *= q_BQHD.shape[-1] ** -0.5
    if mask is not None:
        scores_BHQK = jnp.where(mask, scores_BHQK, -jnp.inf)
    return jax.nn.softmax(scores_BHQK, axis=-1)


def attend(
    q_BQHD: Array,
    k_BKHD: Array,
    v_BKHD: Array,
    mask: Array | None = None,
    dropout: nn.Module | None = None,
    deterministic: bool = True,
) -> Array:
    """Scaled dot-product attention: softmax(q k^T / sqrt(D)) v, with scores and softmax in float32.

    Args:
      q_BQHD: queries (batch, queries, heads, head dim).
      k_BKHD: keys (batch, keys, heads, head dim).
      v_BKHD: values, like the keys.
      mask: bool, broadcastable to (batch, heads, queries, keys); false entries get weight 0. A query needs at least
        one true key.
      dropout: an ``nn.Dropout`` applied to the attention weights.
      deterministic: switches the dropout off.

    Returns:
      (batch, queries, heads, head dim) in the dtype of the values.
    """
    weights_BHQK = attention_weights(q_BQHD, k_BKHD, mask)
    if dropout is not None:
        weights_BHQK = dropout(weights_BHQK, deterministic=deterministic)
    return jnp.einsum("bhqk,bkhd->bqhd", weights_BHQK.astype(v_BKHD.dtype), v_BKHD)
