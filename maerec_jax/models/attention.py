"""Attention shared by the image encoder, the masked autoencoders' decoders and the text decoder."""

import jax
import jax.numpy as jnp

Array = jax.Array


def attention_weights(product: str, q_BQHD: Array, k: Array, mask: Array | None = None) -> Array:
    """softmax(q k^T / sqrt(D)), float32 (batch, heads, queries, keys).

    Args:
      product: of queries and keys, as ``einsum`` writes it.
      q_BQHD: queries (batch, queries, heads, head dim).
      k: keys.
      mask: bool, broadcastable to the weights; false entries get weight 0. A query needs at least one true key.
    """
    scores_BHQK = jnp.einsum(product, q_BQHD, k, preferred_element_type=jnp.float32)
    scores_BHQK *= q_BQHD.shape[-1] ** -0.5
    if mask is not None:
        scores_BHQK = jnp.where(mask, scores_BHQK, -jnp.inf)
    return jax.nn.softmax(scores_BHQK, axis=-1)


def attend(q_BQHD: Array, k_BKHD: Array, v_BKHD: Array) -> Array:
    """Scaled dot-product attention: softmax(q k^T / sqrt(D)) v, with scores and softmax in float32.

    Takes and returns (batch, places, heads, head dim), the result in the dtype of the values.
    """
    weights_BHQK = attention_weights("bqhd,bkhd->bhqk", q_BQHD, k_BKHD)
    return jnp.einsum("bhqk,bkhd->bqhd", weights_BHQK.astype(v_BKHD.dtype), v_BKHD)
