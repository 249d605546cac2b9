"""TPU chips as their makers publish them, and the slice shapes that exist.

Compilers accept shapes that nobody can rent, so shapes are looked up here. Sources:

- Specifications and shapes: the pages of each chip under https://docs.cloud.google.com/tpu/docs (v4, v5e, v5p, v6e,
  tpu7x), and https://docs.cloud.google.com/tpu/docs/types-topologies for the rule that 3-D shapes follow.
- Link rates: "How to Scale Your Model" (https://jax-ml.github.io/scaling-book/tpus), which gives nine tenths of the
  bandwidth on the pages above, as what a link carries one way; and the rate of the data centre's network a chip.
"""

from dataclasses import dataclass, field
from itertools import combinations_with_replacement
from math import prod
from typing import Any

from data_pipelines.errors import UserError

Shape = tuple[int, ...]
"""Chips along each axis of the network in a slice."""

_PLANES: tuple[Shape, ...] = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
_SMALL: tuple[Shape, ...] = ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4))


def _boxes(chips: int, longest: int) -> tuple[Shape, ...]:
    """The 3-D shapes of up to that many chips: four below a cube of 64, then ascending multiples of four."""
    sides = range(4, longest + 1, 4)
    large = [shape for shape in combinations_with_replacement(sides, 3) if prod(shape) <= chips]
    return _SMALL + tuple(sorted(large, key=lambda shape: (prod(shape), shape)))


@dataclass(frozen=True)
class Chip:
    """A TPU chip. All rates are a chip's, in bytes or operations a second; sizes are in bytes."""

    name: str
    """As ``--topology`` writes it."""
    flops: float
    """Peak of bfloat16 matrix multiplication, with a multiplication and an addition counted as two."""
    hbm: float
    """Memory, in bytes."""
    hbm_rate: float
    """Bandwidth of the memory."""
    link_rate: float
    """Bandwidth of one link to a neighbouring chip (ICI), one way."""
    dcn_rate: float
    """Share of the network between slices (DCN), one way."""
    shapes: tuple[Shape, ...]
    """Slices that exist."""
    clock: float | None = None
    """Clock of the matrix units, in hertz: the peak divided by what they do in a cycle. None where their number is not
    published beyond doubt."""
    devices: int = 1
    """JAX devices a chip."""
    topology_arguments: dict[str, Any] = field(default_factory=dict)
    """What the compiler has to be told beside the shape of a slice."""
    uncertain: tuple[str, ...] = ()
    """Which of these numbers are not from a page of the chip's own, and where from they are."""


_CHIPS = (
    Chip(
        "v4", flops=275e12, hbm=32 * 2**30, hbm_rate=1200e9, link_rate=45e9, dcn_rate=6.25e9, clock=1.05e9,
        shapes=_boxes(4096, 24), topology_arguments={"chip_config_name": "megacore"},
        uncertain=("dcn_rate: the scaling book's typical value, not a published one of v4",),
    ),
    Chip(
        "v5e", flops=197e12, hbm=16 * 2**30, hbm_rate=819e9, link_rate=45e9, dcn_rate=3.125e9, clock=1.5e9,
        shapes=_PLANES,
    ),
    Chip(
        "v5p", flops=459e12, hbm=95 * 2**30, hbm_rate=2765e9, link_rate=90e9, dcn_rate=6.25e9, clock=1.75e9,
        shapes=_boxes(6144, 24),
        uncertain=("shapes: the page lists most of them and the largest, 16x16x24; the others follow v4's rule",),
    ),
    Chip(
        "v6e", flops=918e12, hbm=32 * 2**30, hbm_rate=1638e9, link_rate=90e9, dcn_rate=12.5e9, shapes=_PLANES,
        uncertain=("clock: its pages differ in the number of matrix units",),
    ),
    Chip(
        "tpu7x", flops=2307e12, hbm=192 * 2**30, hbm_rate=7380e9, link_rate=90e9, dcn_rate=12.5e9, devices=2,
        shapes=_boxes(9216, 36),
        uncertain=("shapes: by v4's rule, up to the 9,216 chips of a pod", "clock: not published"),
    ),
)  # fmt: skip
CHIPS = {chip.name: chip for chip in _CHIPS}


@dataclass(frozen=True)
class Topology:
    """Slices of TPU chips."""

    chip: Chip
    shape: Shape
    """The shape of each slice."""
    slices: int = 1

    @property
    def name(self) -> str:
        """As ``--topology`` writes it."""
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

    @property
    def chips(self) -> int:
        """Chips in all slices."""
        return prod(self.shape) * self.slices

    @property
    def devices(self) -> int:
        """JAX devices in all slices."""
        return self.chips * self.chip.devices

    def __str__(self) -> str:
        """The name, with the number of slices where there are several."""
        return f"{self.slices} x {self.name}" if self.slices > 1 else self.name


def parse_topology(name: str, slices: int = 1) -> Topology:
    """``"v5e:16x16"`` as a topology. Raises ``UserError`` for a chip or shape that does not exist."""
    if slices < 1:
        raise UserError(f"the number of slices must be at least 1, not {slices}")
    chip_name, _, text = name.partition(":")
    chip = CHIPS.get(chip_name)
    if chip is None:
        raise UserError(f"no such chip: {name!r} (known: {', '.join(CHIPS)}; a topology is written v5e:16x16)")
    try:
        shape = tuple(int(side) for side in text.split("x"))
    except ValueError:
        shape = ()
    if shape not in chip.shapes:
        near = sorted(chip.shapes, key=lambda known: abs(prod(known) - prod(shape)))[:6]
        known = ", ".join(f"{chip.name}:{'x'.join(map(str, shape))}" for shape in near)
        raise UserError(f"{chip.name} has no slices of shape {text or 'nothing'}: there are {known} and others")
    return Topology(chip, shape, slices)
