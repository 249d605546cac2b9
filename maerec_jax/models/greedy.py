"""Greedy reading, step by step: the likeliest class at each place."""

from typing import Any

import jax
import jax.numpy as jnp

from maerec_jax.models.interface import Reading, limited

Array = jax.Array


def greedy_read(
    model: Any, params: Any, image_BHWC: Array, allowed_BC: Array | None = None, **widths: Array
) -> Reading:
    """Read normalised pixels (B, H, W, 3) by taking the likeliest token at each place, with cached keys and values.

    Stops as soon as every text has ended. What comes before each end equals decoding all ``max_length`` places.
    ``model`` is the module of a recogniser that writes one class after the other (``RecogniserConfig.has_beams``);
    ``allowed_BC`` is that of ``interface.limited``, and ``widths`` are those of ``interface.widths``.
    """
    charset, length = model.config.charset, model.config.max_length
    batch = image_BHWC.shape[0]  # no int where a program is exported for batches of any size
    memory, state = model.apply({"params": params}, image_BHWC, method="start", **widths)
    reading = Reading(jnp.full((batch, length), charset.padding, jnp.int32), jnp.zeros((batch, length), jnp.float32))
    token_B = jnp.full(batch, charset.start_end, jnp.int32)
    ended_B = jnp.zeros(batch, bool)

    def unfinished(carry: tuple) -> Array:
        position, ended_B = carry[:2]
        return (position < length) & ~ended_B.all()

    def step(carry: tuple) -> tuple:
        position, ended_B, token_B, state, reading = carry
        logits_BKC, state = model.apply({"params": params}, token_B[:, None], position, state, memory, method="step")
        logits_BC = limited(logits_BKC[:, 0], allowed_BC)
        probability = jax.nn.softmax(logits_BC)
        token_B = jnp.argmax(logits_BC, axis=-1).astype(jnp.int32)
        reading = Reading(
            reading.tokens_BT.at[:, position].set(jnp.where(ended_B, charset.padding, token_B)),
            reading.probability_BT.at[:, position].set(jnp.where(ended_B, 0.0, probability.max(axis=-1))),
        )
        return position + 1, ended_B | (token_B == charset.start_end), token_B, state, reading

    return jax.lax.while_loop(unfinished, step, (jnp.int32(0), ended_B, token_B, state, reading))[-1]
