"""Floating-point operations of a function, counted in what JAX traces: for models without a formula of their own."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import jaxprs_in_params

from maerec_jax.costs.work import Work


def operations(function: Callable[..., Any], *arguments: Any) -> int:
    """Those of all matrix multiplications and convolutions: 2 for each product that is summed.

    Loops count as often as they run; ``while`` loops, whose length nobody knows, as if they ran once. Nothing is
    computed: arguments may be ``jax.ShapeDtypeStruct``.
    """
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def counted_work(loss: Callable[..., Any], params: Any, *arguments: Any) -> Work:
    """The work of a training step whose loss, a scalar of parameters and ``arguments``, is computed with one image."""
    forward = operations(loss, params, *arguments)
    return Work(forward, operations(jax.grad(loss), params, *arguments) - forward, 0)


def _count(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        kind, parameters = equation.primitive.name, equation.params
        if kind == "dot_general":
            (contracted, _), _ = parameters["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[axis] for axis in contracted)
        elif kind == "conv_general_dilated":
            kernel, numbers = equation.invars[1].aval.shape, parameters["dimension_numbers"].rhs_spec
            products = math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // kernel[numbers[0]]
            total += 2 * products // math.prod(parameters["lhs_dilation"])  # zeros between pixels are no work
        else:
            inner = [_count(found) for found in jaxprs_in_params(parameters)]
            total += max(inner) if kind == "cond" else parameters.get("length", 1) * sum(inner)
    return total
