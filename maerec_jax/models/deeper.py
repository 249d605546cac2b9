"""Encoders with more blocks from trained ones: what is added changes nothing at first, and learns from there."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np


def deepen(params: Mapping[str, Any], depth: int, wanted: int) -> tuple[dict[str, Any], list[str]]:
    """Add blocks to an encoder, spread evenly among those that it has.

    A new block is a copy of the one before it whose last layers, ``proj`` and ``fc2``, are zero: it adds nothing to the
    residual stream, so the encoder computes what it did, and both layers have gradients from the first step on (block
    expansion, arXiv 2401.02415, section 3.1).

    Args:
      params: an encoder's parameters.
      depth: its number of blocks.
      wanted: the number wanted, at least as many.

    Returns:
      The parameters, and a line that tells which blocks are new, if any.
    """
    rest = {name: value for name, value in params.items() if not name.removeprefix("blocks_").isdigit()}
    sources = [i * depth // wanted for i in range(wanted)]
    blocks, new = {}, []
    for i, source in enumerate(sources):
        block = params[f"blocks_{source}"]
        if i and sources[i - 1] == source:
            block = {**block, **{name: jax.tree.map(np.zeros_like, block[name]) for name in ("proj", "fc2")}}
            new.append(str(i))
        blocks[f"blocks_{i}"] = block
    told = [f"blocks: {depth} become {wanted}; {', '.join(new)} are new and add nothing at first"] if new else []
    return {**rest, **blocks}, told
