"""Attention shared by the image encoder, the masked autoencoders' decoders and the text decoder."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from maerec_jax.models.batch_parts import map_parts

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


@jax.custom_vjp
def attend(q_BQHD: Array, k_BKHD: Array, v_BKHD: Array) -> Array:
    """Scaled dot-product attention: softmax(q k^T / sqrt(D)) v, with scores and softmax in float32.

    Takes and returns (batch, places, heads, head dim), the result in the dtype of the values. Where there is no
    gradient, as in reading, CPUs compute a few images at a time.
    """
    times = k_BKHD.shape[1] / k_BKHD.shape[3]  # the scores beside the queries
    return jax.lax.platform_dependent(
        q_BQHD, k_BKHD, v_BKHD, cpu=partial(map_parts, _attend_unscaled, times=times), default=_attend
    )


def _attend_unscaled(q_BQHD: Array, k_BKHD: Array, v_BKHD: Array) -> Array:
    """The same, the result divided by the sum instead of the weights: these are more."""
    scores_BHQK = jnp.einsum("bqhd,bkhd->bhqk", q_BQHD, k_BKHD, preferred_element_type=jnp.float32)
    scores_BHQK *= q_BQHD.shape[-1] ** -0.5
    share_BHQK = jnp.exp(scores_BHQK - scores_BHQK.max(axis=-1, keepdims=True))
    sum_BQH1 = share_BHQK.sum(axis=-1).swapaxes(1, 2)[..., None]
    out = jnp.einsum("bhqk,bkhd->bqhd", share_BHQK.astype(v_BKHD.dtype), v_BKHD, preferred_element_type=jnp.float32)
    return (out / sum_BQH1).astype(v_BKHD.dtype)


def _attend(q_BQHD: Array, k_BKHD: Array, v_BKHD: Array) -> Array:
    weights_BHQK = attention_weights("bqhd,bkhd->bhqk", q_BQHD, k_BKHD)
    return jnp.einsum("bhqk,bkhd->bqhd", weights_BHQK.astype(v_BKHD.dtype), v_BKHD)


def _forward(*qkv: Array) -> tuple[Array, Any]:
    return jax.vjp(_attend, *qkv)


def _backward(gradients: Any, g: Array) -> tuple[Array, Array, Array]:
    return gradients(g)


attend.defvjp(_forward, _backward)
