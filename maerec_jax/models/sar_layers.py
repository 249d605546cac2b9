"""The layers of SAR (arXiv 1811.00751) after its convolutions: the encoder, and the decoder with its attention."""

from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import normal, variance_scaling

from maerec_jax.models.convolution import Conv
from maerec_jax.models.dense import Dense
from maerec_jax.models.recurrent import LSTM, Cell, CellWeights, lstm_step

Array = jax.Array
CellState = Literal["own", "hidden"]

SHARDING = (
    (r"decoder/conv_key/kernel", (None, None, "fsdp", "tensor")),  # the hidden units of the attention are divided
    (r"decoder/query/kernel", ("fsdp", "tensor")),
    (r"decoder/(conv_key|query)/bias|decoder/score/kernel", ("tensor",)),
    (r"encoder/linear/kernel|decoder/prediction/kernel", ("fsdp", None)),
    # The gradient of a divided table of characters would be scattered to all devices, and it is small.
    (r"encoder/linear/bias|decoder/(prediction|score)/bias|decoder/embedding", ()),
)
"""How they lie on a mesh (``ModelConfig.sharding``), but for cells."""


class State(NamedTuple):
    """What the decoder's two cells hand on from character to character, each (B, K, D) for K hypotheses."""

    hidden1: Array
    memory1: Array
    hidden2: Array
    memory2: Array

    def following(self, parent_BK: Array) -> "State":
        """The state of the hypotheses that go on from those in ``parent_BK``, int (B, K)."""
        return State(*(jnp.take_along_axis(part, parent_BK[..., None], axis=1) for part in self))


class Sight(NamedTuple):
    """An image as the decoder sees it."""

    map_BRCF: Array
    """What is looked at, (B, rows, columns, features)."""
    keys_BRCA: Array
    """What queries are compared with, (B, rows, columns, hidden units)."""
    picture_BC: Array
    """bool (B, columns): where there is picture, and no filling."""
    holistic_BD: Array
    """The word as a whole."""


def _uniform(inputs: int) -> Any:
    """PyTorch's initialisation of biases of layers with so many inputs."""
    bound = inputs**-0.5
    return lambda key, shape: jax.random.uniform(key, shape, minval=-bound, maxval=bound)


_FAN_IN = variance_scaling(1 / 3, "fan_in", "uniform")  # the same of their kernels


def _dense(inputs: int, features: int, dtype: Any, name: str | None = None) -> Dense:
    return Dense(features, dtype=dtype, kernel_init=_FAN_IN, bias_init=_uniform(inputs), name=name)


class HolisticEncoder(nn.Module):
    """The map's columns, read by an LSTM of two layers, to one feature of the word."""

    size: int
    dtype: Any

    @nn.compact
    def __call__(self, map_BRCF: Array, filled_B: Array) -> Array:
        """(B, rows, columns, features) to (B, size): the state at the last of ``filled_B``, int (B), columns."""
        # A pooling, as its gradient looks for no equal numbers: compilers may compute the map once more, and round it
        # otherwise, where they compare it with its maxima.
        x_BCD = nn.max_pool(map_BRCF, (map_BRCF.shape[1], 1))[:, 0]
        for layer in range(2):
            x_BCD = LSTM(x_BCD.shape[-1], self.size, dtype=self.dtype, name=f"layers_{layer}")(x_BCD)
        last_BD = jnp.take_along_axis(x_BCD, filled_B[:, None, None] - 1, axis=1)[:, 0]
        return _dense(self.size, self.size, self.dtype, "linear")(last_BD)


class Score(nn.Module):
    """How well places of the map fit queries: a weighted sum over the hidden units of the attention."""

    @nn.compact
    def __call__(self, keys_BRCA: Array, query_BQA: Array) -> Array:
        """w tanh(key + query) + b, float32 (B, Q, rows, columns)."""
        units = keys_BRCA.shape[-1]
        kernel, bias = self.param("kernel", _uniform(units), (units,)), self.param("bias", _uniform(units), ())

        def of_query(query_BA: Array) -> Array:
            hidden_BRCA = jnp.tanh(keys_BRCA + query_BA[:, None, None])
            return jnp.matmul(hidden_BRCA.astype(jnp.float32), kernel, precision=jax.lax.Precision.HIGHEST) + bias

        # One query after the other, and again for the gradient: together their hidden units would be what is largest.
        of_queries = jax.checkpoint(of_query, prevent_cse=False)
        return jax.lax.map(of_queries, query_BQA.swapaxes(0, 1)).swapaxes(0, 1)


class Decoder(nn.Module):
    """Two LSTM cells that write one character after the other.

    There are two paths through the same layers, which agree: ``__call__`` for texts that are known (training), and
    ``step`` for one place after the other (reading). The embedding of padding is not trained.
    """

    n_classes: int
    padding: int
    dim: int
    features: int
    attention_dim: int
    dropout: float
    cell_state: CellState
    dtype: Any

    def setup(self) -> None:
        """Create embedding, cells, attention and prediction."""

        def init_embedding(key: Array, shape: tuple[int, int]) -> Array:
            return normal(1.0)(key, shape).at[self.padding].set(0.0)

        self.embedding = self.param("embedding", init_embedding, (self.n_classes, self.dim))
        self.lstm1 = Cell(self.dim, self.dim, 4)
        self.lstm2 = Cell(self.dim, self.dim, 4)
        bias_init = _uniform(9 * self.features)
        self.conv_key = Conv(
            self.attention_dim, use_bias=True, dtype=self.dtype, kernel_init=_FAN_IN, bias_init=bias_init
        )
        self.query = _dense(self.dim, self.attention_dim, self.dtype)
        self.score = Score()
        self.prediction = _dense(self.dim + self.features + self.dim, self.n_classes, jnp.float32)
        self.drop = nn.Dropout(self.dropout)

    def see(self, map_BRCF: Array, holistic_BD: Array, filled_B: Array) -> Sight:
        """What is the same for all characters of images of which ``filled_B``, int (B), columns are picture."""
        picture_BC = jnp.arange(map_BRCF.shape[2]) < filled_B[:, None]
        return Sight(map_BRCF, self.conv_key(map_BRCF), picture_BC, holistic_BD)

    def first(self, sight: Sight) -> State:
        """The cells, which have been given the holistic feature: each part (B, D)."""
        lstm1, lstm2 = self.lstm1(), self.lstm2()
        zeros = jnp.zeros((sight.holistic_BD.shape[0], self.dim), self.dtype)
        state = State(zeros, zeros, zeros, zeros)
        return _advanced(lstm1, lstm2, lstm1.of_input(sight.holistic_BD), state)

    def _table(self) -> Array:
        """The embedding; the row of padding, looked up through stop_gradient, stays as it is."""
        table = jnp.asarray(self.embedding)
        return table.at[self.padding].set(jax.lax.stop_gradient(table[self.padding]))

    def of_classes(self) -> Array:
        """What each class as the character before adds to the first cell's gates, (classes, 4 D)."""
        return self.lstm1().of_input(self._table().astype(self.dtype))

    def _kept(self, state: State) -> State:
        """What the next step is given of what the cells returned."""
        if self.cell_state == "own":
            return state
        return state._replace(memory1=state.hidden1, memory2=state.hidden2)

    def _logits(self, hidden_BQD: Array, sight: Sight) -> Array:
        """From hidden states of the second cell, float32 (B, Q, classes). Where it looks is sown as "weights"."""
        scores_BQRC = self.score(sight.keys_BRCA, self.query(hidden_BQD))
        scores_BQRC = jnp.where(sight.picture_BC[:, None, None], scores_BQRC, -jnp.inf)
        weights_BQRC = jax.nn.softmax(scores_BQRC, axis=(-2, -1))
        self.sow("intermediates", "weights", weights_BQRC)
        # Rows and columns as one axis: compilers for CPUs take four times as long for two.
        weights_BQN = weights_BQRC.reshape(*weights_BQRC.shape[:2], -1).astype(self.dtype)
        map_BNF = sight.map_BRCF.reshape(sight.map_BRCF.shape[0], -1, sight.map_BRCF.shape[-1])
        glimpse_BQF = weights_BQN @ map_BNF
        holistic_BQD = jnp.broadcast_to(sight.holistic_BD[:, None], hidden_BQD.shape)
        return self.prediction(jnp.concatenate([hidden_BQD, glimpse_BQF, holistic_BQD], axis=-1))

    def __call__(self, tokens_BT: Array, sight: Sight, deterministic: bool = True) -> Array:
        """All places, the texts being known: int (B, T) tokens, the first of them the start, to logits of the next."""
        lstm1, lstm2 = self.lstm1(), self.lstm2()
        of_input_BTG = lstm1.of_input(self._table()[tokens_BT].astype(self.dtype))

        def step(state: State, of_input_BG: Array) -> tuple[State, State]:
            made = _advanced(lstm1, lstm2, of_input_BG, state)
            return self._kept(made), made

        _, states = jax.lax.scan(step, self.first(sight), of_input_BTG.swapaxes(0, 1))
        self.sow("intermediates", "states", states)
        logits_BTC = self._logits(states.hidden2.swapaxes(0, 1), sight)
        return self.drop(logits_BTC, deterministic=deterministic)

    def step(self, of_input_BKG: Array, state: State, sight: Sight) -> tuple[Array, State]:
        """One place: what the characters before add to the gates, and the state, to logits (B, K, classes)."""
        made = _advanced(self.lstm1(), self.lstm2(), of_input_BKG, state)
        return self._logits(made.hidden2, sight), self._kept(made)


def _advanced(lstm1: CellWeights, lstm2: CellWeights, of_input: Array, state: State) -> State:
    """What the two cells return, the second being given the first one's hidden state."""
    hidden1, memory1 = lstm_step(lstm1, of_input, state.hidden1, state.memory1)
    hidden2, memory2 = lstm_step(lstm2, lstm2.of_input(hidden1), state.hidden2, state.memory2)
    return State(hidden1, memory1, hidden2, memory2)
