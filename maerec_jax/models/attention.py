"""Attention shared by the image encoder, the masked autoencoder's decoder and the text decoder."""

import flax.linen as nn
import jax
import jax.numpy as jnp

Array = jax.Array


def attention_weights(q_BQHD: Array, k: Array, mask: Array | None = None, kept: bool = False) -> Array:
    """softmax(q k^T / sqrt(D)), float32 (batch, heads, queries, keys); the arguments are those of ``attend``."""
    product = "bqhd,bhdk->bhqk" if kept else "bqhd,bkhd->bhqk"
    scores_BHQK = jnp.einsum(product, q_BQHD, k, preferred_element_type=jnp.float32)
    scores_BHQK *= q_BQHD.shape[-1] ** -0.5
    if mask is not None:
        scores_BHQK = jnp.where(mask, scores_BHQK, -jnp.inf)
    return jax.nn.softmax(scores_BHQK, axis=-1)


def attend(
    q_BQHD: Array,
    k: Array,
    v: Array,
    mask: Array | None = None,
    dropout: nn.Module | None = None,
    deterministic: bool = True,
    kept: bool = False,
) -> Array:
    """Scaled dot-product attention: softmax(q k^T / sqrt(D)) v, with scores and softmax in float32.

    Args:
      q_BQHD: queries (batch, queries, heads, head dim).
      k: keys (batch, keys, heads, head dim).
      v: values, like the keys.
      mask: bool, broadcastable to (batch, heads, queries, keys); false entries get weight 0. A query needs at least
        one true key.
      dropout: an ``nn.Dropout`` applied to the attention weights.
      deterministic: switches the dropout off.
      kept: keys are (batch, heads, head dim, keys) and values (batch, heads, keys, head dim): the order in which they
        are multiplied. Where they are kept for many single queries, compilers for CPUs bring them into it for each of
        these otherwise, which takes ten times as long as the multiplication.

    Returns:
      (batch, queries, heads, head dim) in the dtype of the values.
    """
    weights_BHQK = attention_weights(q_BQHD, k, mask, kept)
    if dropout is not None:
        weights_BHQK = dropout(weights_BHQK, deterministic=deterministic)
    product = "bhqk,bhkd->bqhd" if kept else "bhqk,bkhd->bqhd"
    return jnp.einsum(product, weights_BHQK.astype(v.dtype), v)
