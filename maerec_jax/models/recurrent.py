"""Recurrent cells with PyTorch's gates and biases, and LSTM layers over sequences."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from maerec_jax.models.dense import affine

Array = jax.Array

SHARDING = (
    (r"(lstm|gru)\w*/(input|hidden)_kernel", ("fsdp", None)),
    (r"(lstm|gru)\w*/(input|hidden)_bias", ()),
)
"""How cells lie on a mesh (``ModelConfig.sharding``), where they are named so."""


class CellWeights(NamedTuple):
    """The parameters of a cell. PyTorch keeps two biases, and so do we: a GRU needs them apart."""

    input_kernel: Array
    """float32 (inputs, gates * size)."""
    hidden_kernel: Array
    """float32 (size, gates * size)."""
    input_bias: Array
    """float32 (gates * size)."""
    hidden_bias: Array
    """float32 (gates * size)."""

    def of_input(self, x: Array) -> Array:
        """What inputs (..., inputs) add to the gates: it does not depend on the state, so all steps' at once."""
        return affine(x, self.input_kernel, self.input_bias, 1)

    def of_hidden(self, hidden: Array) -> Array:
        """What a hidden state (..., size) adds to the gates."""
        return affine(hidden, self.hidden_kernel, self.hidden_bias, 1)


class Cell(nn.Module):
    """Creates the parameters of a cell, uniform in +-1 / sqrt(size): an LSTM has 4 gates, a GRU 3."""

    inputs: int
    size: int
    gates: int

    @nn.compact
    def __call__(self) -> CellWeights:
        """The parameters."""
        bound, width = self.size**-0.5, self.gates * self.size

        def init(key: Array, shape: tuple[int, ...]) -> Array:
            return jax.random.uniform(key, shape, minval=-bound, maxval=bound)

        return CellWeights(
            self.param("input_kernel", init, (self.inputs, width)),
            self.param("hidden_kernel", init, (self.size, width)),
            self.param("input_bias", init, (width,)),
            self.param("hidden_bias", init, (width,)),
        )


def lstm_step(cell: CellWeights, of_input: Array, hidden: Array, memory: Array) -> tuple[Array, Array]:
    """The next hidden state and memory of an LSTM with the gates i, f, g, o, each (..., size)."""
    i, f, g, o = jnp.split(of_input + cell.of_hidden(hidden), 4, axis=-1)
    memory = nn.sigmoid(f) * memory + nn.sigmoid(i) * jnp.tanh(g)
    return nn.sigmoid(o) * jnp.tanh(memory), memory


def gru_step(cell: CellWeights, of_input: Array, hidden: Array) -> Array:
    """The next hidden state (..., size) of a GRU with the gates r, z, n."""
    (r, z, n), (r_hidden, z_hidden, n_hidden) = (
        jnp.split(gates, 3, axis=-1) for gates in (of_input, cell.of_hidden(hidden))
    )
    z = nn.sigmoid(z + z_hidden)
    n = jnp.tanh(n + nn.sigmoid(r + r_hidden) * n_hidden)
    return (1 - z) * n + z * hidden


class LSTM(nn.Module):
    """An LSTM over a sequence from its first place to its last."""

    inputs: int
    size: int
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """Create the cell."""
        self.lstm = Cell(self.inputs, self.size, 4)

    def cell(self) -> CellWeights:
        """The parameters."""
        return self.lstm()

    def __call__(self, x_BTD: Array) -> Array:
        """(B, T, inputs) to the hidden states (B, T, size), from states of zeros."""
        return run_lstms([self.cell()], x_BTD.astype(self.dtype))[0]


def run_lstms(cells: Sequence[CellWeights], x_BTD: Array) -> list[Array]:
    """The hidden states (B, T, size) of each cell over a sequence, from states of zeros, in one loop.

    Every second cell goes from the last place to the first.
    """
    zeros = jnp.zeros((x_BTD.shape[0], cells[0].hidden_kernel.shape[0]), x_BTD.dtype)

    def turned(states_TBD: Array, number: int) -> Array:
        return states_TBD[::-1] if number % 2 else states_TBD

    def step(
        states: list[tuple[Array, Array]], of_inputs: list[Array]
    ) -> tuple[list[tuple[Array, Array]], list[Array]]:
        states = [lstm_step(*each[:2], *each[2]) for each in zip(cells, of_inputs, states, strict=True)]
        return states, [hidden for hidden, _ in states]

    of_inputs = [turned(cell.of_input(x_BTD).swapaxes(0, 1), number) for number, cell in enumerate(cells)]
    _, found = jax.lax.scan(step, [(zeros, zeros)] * len(cells), of_inputs)
    return [turned(hidden_TBD, number).swapaxes(0, 1) for number, hidden_TBD in enumerate(found)]
