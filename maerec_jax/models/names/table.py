"""What a name table is made of: rows that are used in both directions, and the usual ones."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

Tensor = np.ndarray
Convert = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Rule:
    """One row: a PyTorch key pattern, our path, and how to convert the tensor each way."""

    pattern: str
    path: str
    to_flax: Convert
    to_torch: Convert
    alias: bool = False
    """Whether the tensor stands under a second key, too, which is the one that counts where they differ."""


@dataclass(frozen=True)
class NameTable:
    """All names of a model."""

    rules: list[Rule]
    """A row for each kind of tensor; numbers in keys are ``(\\d+)``, and ``\\1`` in paths."""
    constants: dict[str, Tensor] = field(default_factory=dict)
    """What PyTorch keeps in a state dict though it can be computed: read and compared, never stored."""


def same(pattern: str, path: str) -> Rule:
    """A tensor that is the same in both."""
    return Rule(pattern, path, lambda x: x, lambda x: x)


def linear(pattern: str, path: str, shape: tuple[int, ...] | None = None) -> Rule:
    """A weight (out, in) and our kernel (in, out), the latter reshaped to ``shape``."""
    return Rule(
        pattern,
        path,
        lambda w: w.T if shape is None else w.T.reshape(shape),
        # Of the kernel's axes, those that make up the output are the last one, or all but the first.
        lambda k: k.reshape(-1, k.shape[-1]).T if shape and shape[-1] == -1 else k.reshape(len(k), -1).T,
    )


def biased(key: str, path: str) -> list[Rule]:
    """A linear layer with a bias."""
    return [linear(rf"{key}\.weight", f"{path}/kernel"), same(rf"{key}\.bias", f"{path}/bias")]


COUNTS = "num_batches_tracked"
"""How the keys of whole numbers end: the batches that a batch normalisation has seen, float32 with us."""


def convolution(key: str, path: str, bias: bool = False) -> list[Rule]:
    """A convolution's weight (out, in, rows, columns), for kernels (rows, columns, in, out), and its bias."""
    to_flax, to_torch = (2, 3, 1, 0), (3, 2, 0, 1)
    weight, kernel = rf"{key}\.weight", f"{path}/kernel"
    rules = [Rule(weight, kernel, lambda w: w.transpose(to_flax), lambda k: k.transpose(to_torch))]
    return [*rules, same(rf"{key}\.bias", f"{path}/bias")] if bias else rules


def batch_norm(key: str, path: str) -> list[Rule]:
    """A batch normalisation: scale, bias, and running statistics."""
    return [
        *norm(key, path),
        same(rf"{key}\.running_mean", f"{path}/mean"),
        same(rf"{key}\.running_var", f"{path}/variance"),
        Rule(rf"{key}\.{COUNTS}", f"{path}/count", lambda n: n, lambda n: n.astype(int)),
    ]


def conv_norm(conv: str, norm: str, path: str, bias: bool = False) -> list[Rule]:
    """A convolution and a batch normalisation (``models.convolution.ConvNorm``) by their keys."""
    return [*convolution(conv, f"{path}/conv", bias), *batch_norm(norm, f"{path}/norm")]


def recurrent(key: str, path: str, suffix: str = "") -> list[Rule]:
    """A recurrent cell (``models.recurrent.Cell``); its keys end in ``suffix``."""
    return [
        linear(rf"{key}\.weight_ih{suffix}", f"{path}/input_kernel"),
        linear(rf"{key}\.weight_hh{suffix}", f"{path}/hidden_kernel"),
        same(rf"{key}\.bias_ih{suffix}", f"{path}/input_bias"),
        same(rf"{key}\.bias_hh{suffix}", f"{path}/hidden_bias"),
    ]


def norm(key: str, path: str) -> list[Rule]:
    """The scale and bias of a norm."""
    return [same(rf"{key}\.weight", f"{path}/scale"), same(rf"{key}\.bias", f"{path}/bias")]
