"""The recurrent decoder that attends to an image: a GRU that writes the text (ASTER, IEEE TPAMI 2018, 3.2)."""

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import normal

from maerec_jax.models.dense import affine
from maerec_jax.models.recurrent import Cell, CellWeights, gru_step

Array = jax.Array

SHARDING = (
    (r"decoder/(keys|query|score|classifier)/kernel", ("fsdp", None)),
    (r"decoder/(keys|query|score|classifier)/bias", ()),
    # The gradient of a divided table of characters would be scattered to all devices, and it is small.
    (r"decoder/embedding", ()),
)
"""How the decoder's parameters lie on a mesh (``ModelConfig.sharding``), beside those of ``recurrent``."""


class LinearWeights(NamedTuple):
    """The parameters of a linear map, which loops can use."""

    kernel: Array
    """float32 (inputs, outputs)."""
    bias: Array
    """float32 (outputs)."""

    def of(self, x: Array) -> Array:
        """(..., inputs) to (..., outputs), in the dtype of ``x``."""
        return affine(x, self.kernel, self.bias, 1)


class Linear(nn.Module):
    """Creates the parameters of a linear map, uniform in +-1 / sqrt(inputs)."""

    inputs: int
    outputs: int

    @nn.compact
    def __call__(self) -> LinearWeights:
        """The parameters."""
        bound = self.inputs**-0.5

        def init(key: Array, shape: tuple[int, ...]) -> Array:
            return jax.random.uniform(key, shape, minval=-bound, maxval=bound)

        shape = (self.inputs, self.outputs)
        return LinearWeights(self.param("kernel", init, shape), self.param("bias", init, shape[1:]))


class Memory(NamedTuple):
    """What is the same at all steps, computed once."""

    features_BND: Array
    """What the decoder attends to: the encoded columns."""
    keys_BNA: Array
    """What it compares its state with."""
    written_VG: Array
    """float32 (classes, gates): what each class adds to the GRU's gates after it was written."""
    seen_kernel: Array
    """float32 (width of the features, gates): how what was attended to is added to them."""


class DecodingState(NamedTuple):
    """What the step-by-step path remembers of the places before."""

    hidden_BKH: Array
    """The hidden state of each hypothesis."""

    def following(self, parent_BK: Array) -> "DecodingState":
        """The state of the hypotheses that go on from those in ``parent_BK``, int (B, K)."""
        return DecodingState(jnp.take_along_axis(self.hidden_BKH, parent_BK[..., None], axis=1))


class _Looping(NamedTuple):
    query: LinearWeights
    score: LinearWeights
    gru: CellWeights


@partial(jax.checkpoint, prevent_cse=False)  # kept, its inside would be most of the memory of a training step
def _scores(score: LinearWeights, keys_BNA: Array, query_BKA: Array) -> Array:
    return score.of(jnp.tanh(keys_BNA[:, None] + query_BKA[:, :, None]))[..., 0]


def _advance(weights: _Looping, memory: Memory, written_BKG: Array, hidden_BKH: Array) -> tuple[Array, Array]:
    """One step of K hypotheses of each image: their next hidden states, and where they looked, float32 (B, K, N).

    ``written_BKG`` is what the classes before them add to the GRU's gates.
    """
    score_BKN = _scores(weights.score, memory.keys_BNA, weights.query.of(hidden_BKH))
    attention_BKN = jax.nn.softmax(score_BKN.astype(jnp.float32))
    seen_BKD = jnp.einsum("bkn,bnd->bkd", attention_BKN.astype(hidden_BKH.dtype), memory.features_BND)
    of_input_BKG = written_BKG.astype(hidden_BKH.dtype) + affine(seen_BKD, memory.seen_kernel, None, 1)
    return gru_step(weights.gru, of_input_BKG, hidden_BKH), attention_BKN


class AttentionDecoder(nn.Module):
    """Writes one character after the other: a GRU that looks at the columns where its last state tells it to.

    (Additive attention, arXiv 1409.0473.) There are two paths, which agree: ``__call__`` for given texts (training),
    and ``step`` for one place after the other (reading).
    """

    features: int
    """Width of the columns."""
    attention: int
    """Width in which they are compared with the state; also that of the characters' embedding."""
    hidden: int
    """Width of the state."""
    n_classes: int
    dtype: Any

    def setup(self) -> None:
        """Create the parameters."""
        self.keys, self.query = (Linear(inputs, self.attention) for inputs in (self.features, self.hidden))
        self.score = Linear(self.attention, 1)
        self.embedding = self.param("embedding", normal(1.0), (self.n_classes, self.attention))
        self.gru = Cell(self.attention + self.features, self.hidden, 3)
        self.classifier = Linear(self.hidden, self.n_classes)

    def _looping(self) -> _Looping:
        return _Looping(self.query(), self.score(), self.gru())

    def _logits(self, hidden: Array) -> Array:
        return self.classifier().of(hidden.astype(jnp.float32))

    def prepare(self, features_BND: Array) -> Memory:
        """What the steps need of the encoded image (B, N, D)."""
        features_BND, gru = features_BND.astype(self.dtype), self.gru()
        written, seen = jnp.split(gru.input_kernel, [self.attention])
        written_VG = affine(jnp.asarray(self.embedding), written, gru.input_bias, 1)
        return Memory(features_BND, self.keys().of(features_BND), written_VG, seen)

    def __call__(self, tokens_BT: Array, features_BND: Array) -> Array:
        """From int (B, T) tokens, the first of them the start, to logits of the next tokens, float32 (B, T, classes).

        Where "intermediates" are collected, the "attention" float32 (B, T, N) and the "hidden" states are among them.
        """
        memory, weights = self.prepare(features_BND), self._looping()

        def step(hidden_BKH: Array, written_BG: Array) -> tuple[Array, tuple[Array, Array]]:
            hidden_BKH, attention_BKN = _advance(weights, memory, written_BG[:, None], hidden_BKH)
            return hidden_BKH, (hidden_BKH[:, 0], attention_BKN[:, 0])

        start = self.start(tokens_BT.shape[0]).hidden_BKH
        _, found = jax.lax.scan(step, start, memory.written_VG[tokens_BT.T])
        hidden_BTH, attention_BTN = (x.swapaxes(0, 1) for x in found)
        self.sow("intermediates", "hidden", hidden_BTH)
        self.sow("intermediates", "attention", attention_BTN)
        return self._logits(hidden_BTH)

    def start(self, batch: int, hypotheses: int = 1) -> DecodingState:
        """The state before the first step, for a number of hypotheses of each image."""
        return DecodingState(jnp.zeros((batch, hypotheses, self.hidden), self.dtype))

    def step(self, token_BK: Array, state: DecodingState, memory: Memory) -> tuple[Array, DecodingState]:
        """From the last token of each hypothesis to the logits of the next, float32 (B, K, classes)."""
        hidden_BKH, _ = _advance(self._looping(), memory, memory.written_VG[token_BK], state.hidden_BKH)
        return self._logits(hidden_BKH), DecodingState(hidden_BKH)
