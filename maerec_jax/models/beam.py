"""Beam search: the several likeliest readings of each image, on request only those that a lexicon allows."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from maerec_jax.models.interface import limited
from maerec_jax.models.trie import Trie, next_nodes

Array = jax.Array


class Hypotheses(NamedTuple):
    """The readings that a beam search found for each image, best first: no two of an image are the same."""

    tokens_BKT: Array
    """int32 (B, K, T): a class for each place, the start token not included; padding after the end."""
    probability_BKT: Array
    """float32 (B, K, T): the model's softmax probability of that class, given those before; 0 where nothing was read.
    A lexicon does not change it."""
    score_BK: Array
    """float32 (B, K): what they are ordered by; -inf for hypotheses that do not exist, where fewer than K can be
    written."""
    node_BK: Array
    """int32 (B, K): where in the lexicon's trie each ended; 0 without a lexicon."""


class _Beam(NamedTuple):
    found: Hypotheses
    token_BK: Array  # the last of each hypothesis
    total_BK: Array  # sum of the log probabilities
    length_BK: Array  # tokens written, the end included
    ended_BK: Array
    state: Any


def _take(x_BK: Array, index_BK: Array) -> Array:
    """What belongs to the chosen hypotheses of each image, from (B, K, ...)."""
    return jnp.take_along_axis(x_BK, index_BK.reshape(*index_BK.shape, *(1,) * (x_BK.ndim - 2)), axis=1)


def beam_read(
    model: Any,
    params: Any,
    image_BHWC: Array,
    size: int,
    length_normalisation: float = 0.5,
    trie: Trie | None = None,
    root_B: Array | None = None,
    allowed_BC: Array | None = None,
    **widths: Array,
) -> Hypotheses:
    """Read images by keeping the ``size`` best beginnings of a text at each place, ended ones among them.

    A text is scored by the sum of its tokens' log probabilities, that of the end included, over its number of tokens to
    the power of ``length_normalisation``. A beam of 1 without a lexicon reads what ``greedy_read`` does. Stops as soon
    as all hypotheses of all images have ended; those that reach ``max_length`` places without an end stay without one.

    Args:
      model: the module of a recogniser with ``has_beams``.
      params: its parameters.
      image_BHWC: normalised pixels (B, H, W, 3).
      size: number of hypotheses of an image, K.
      length_normalisation: 0 for the probability of the text, 1 for the mean over its tokens, which favours long texts.
      trie: the words that may be written: only their characters, and the end only where one of them ends. All its words
        must be shorter than ``max_length``.
      root_B: int (B), each image's word list as its root in ``trie``; the first list by default.
      allowed_BC: the classes that may be written in each image (``interface.limited``).
      widths: ``interface.widths``.

    Returns:
      K hypotheses of each image, with ``max_length`` places.

    Raises:
      ValueError: for a size below 1.
    """
    if size < 1:
        raise ValueError(f"a beam needs at least 1 hypothesis, not {size}")
    charset, length = model.config.charset, model.config.max_length
    batch, kept = len(image_BHWC), min(size, charset.n_classes)
    apply: Any = partial(model.apply, {"params": params})
    memory, state = apply(image_BHWC, size, method="start", **widths)

    def unfinished(carry: tuple[Array, _Beam]) -> Array:
        position, beam = carry
        return (position < length) & ~beam.ended_BK.all()

    def step(carry: tuple[Array, _Beam]) -> tuple[Array, _Beam]:
        position, beam = carry
        logits_BKC, state = apply(beam.token_BK, position, beam.state, memory, method="step")
        logits_BKC = limited(logits_BKC, allowed_BC)
        probability_BKC, log_BKC = jax.nn.softmax(logits_BKC), jax.nn.log_softmax(logits_BKC)
        if trie is not None:
            next_BKC = next_nodes(trie, beam.found.node_BK, charset.start_end)
            logits_BKC = jnp.where(next_BKC < 0, -jnp.inf, logits_BKC)

        # No more than the N = min(K, classes) best continuations of one hypothesis can be among the best of all. An
        # ended one has a single continuation, which is nothing. What may not be written has a score of -inf.
        allowed_BKN, token_BKN = jax.lax.top_k(logits_BKC, kept)
        log_BKN = jnp.take_along_axis(log_BKC, token_BKN, axis=2)
        log_BKN = jnp.where(allowed_BKN == -jnp.inf, -jnp.inf, log_BKN)
        nothing_N = jnp.where(jnp.arange(kept) == 0, 0.0, -jnp.inf)
        total_BKN = beam.total_BK[..., None] + jnp.where(beam.ended_BK[..., None], nothing_N, log_BKN)
        length_BK = beam.length_BK + ~beam.ended_BK
        score_BKN = total_BKN / length_BK[..., None].astype(jnp.float32) ** length_normalisation
        score_BK, place_BK = jax.lax.top_k(score_BKN.reshape(batch, -1), size)

        def chosen(x_BKN: Array) -> Array:
            return jnp.take_along_axis(x_BKN.reshape(batch, -1), place_BK, axis=1)

        parent_BK = place_BK // kept
        past = jax.tree.map(partial(_take, index_BK=parent_BK), beam.found)
        writes_BK = (score_BK > -jnp.inf) & ~_take(beam.ended_BK, parent_BK)
        token_BK = jnp.where(writes_BK, chosen(token_BKN), charset.padding)
        probability_BKN = jnp.take_along_axis(probability_BKC, token_BKN, axis=2)
        probability_BK = jnp.where(writes_BK, chosen(probability_BKN), 0.0)
        node_BK = past.node_BK
        if trie is not None:
            node_BK = jnp.where(writes_BK, chosen(jnp.take_along_axis(next_BKC, token_BKN, axis=2)), node_BK)
        found = Hypotheses(
            past.tokens_BKT.at[:, :, position].set(token_BK),
            past.probability_BKT.at[:, :, position].set(probability_BK),
            score_BK,
            node_BK,
        )
        return position + 1, _Beam(
            found,
            token_BK,
            chosen(total_BKN),
            _take(length_BK, parent_BK),
            ~writes_BK | (token_BK == charset.start_end),
            state.following(parent_BK),
        )

    # One hypothesis to begin with: equal ones would stay equal.
    total_BK = jnp.broadcast_to(jnp.where(jnp.arange(size) == 0, 0.0, -jnp.inf), (batch, size))
    node_BK = jnp.zeros((batch, size), jnp.int32)
    found = Hypotheses(
        jnp.full((batch, size, length), charset.padding, jnp.int32),
        jnp.zeros((batch, size, length), jnp.float32),
        total_BK,
        node_BK if root_B is None else node_BK + root_B[:, None].astype(jnp.int32),
    )
    start_BK = jnp.full((batch, size), charset.start_end, jnp.int32)
    ended_BK = total_BK < 0
    beam = _Beam(found, start_BK, total_BK, ended_BK.astype(jnp.int32), ended_BK, state)  # no length of 0 is divided by
    _, beam = jax.lax.while_loop(unfinished, step, (jnp.int32(0), beam))
    found, exists_BK = beam.found, beam.found.score_BK > -jnp.inf
    # One that does not exist may have taken over a past from one that does.
    return found._replace(
        tokens_BKT=jnp.where(exists_BK[..., None], found.tokens_BKT, charset.padding),
        probability_BKT=jnp.where(exists_BK[..., None], found.probability_BKT, 0.0),
        node_BK=jnp.where(exists_BK, found.node_BK, 0),
    )
