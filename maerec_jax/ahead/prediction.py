"""How long a compiled step would take, by a simple model: published rates, and nothing that only a chip could tell.

With W operations executed, M bytes moved by the operations, and collectives C, all of one device in one step:

    arithmetic     a = W / peak
    memory         m = M / bandwidth of the memory
    communication  c = sum over C of

        all-reduce of S bytes between n chips                  2 (n - 1) / n  S / r      a ring, each half twice
        all-gather to, or reduce-scatter of, S bytes             (n - 1) / n  S / r
        all-to-all of S bytes a chip                                   n / 4  S / r      half-way round at most
        collective-permute and others of S bytes                              S / (r/2)  one link, one way
        all-reduce between s slices of S bytes a chip          2 (s - 1) / s  S / d
        anything else between slices                                          S / d

    where r is the rate of a ring that uses both directions of its links, twice ``Chip.link_rate``, and d is
    ``Chip.dcn_rate``. A ring through all chips of a slice exists in every slice of an even number of chips.

    fastest        max(a, c)                            at peak, all communication hidden behind arithmetic
    expected       e + c                                e: the compiler's estimate of the cycles of all operations
    slowest        max(a / ``UTILISATION``, m, e) + c   none hidden

The estimate exists only where the clock of the chip is known. Beside what docs/ahead_of_time.md says, more axes of the
network than the one ring are left out: a torus may be faster by their number. In a loop over accumulated parts, M
counts the whole step as often as there are parts.
"""

from dataclasses import dataclass

from maerec_jax.ahead.collectives import Collective
from maerec_jax.ahead.compilation import Compiled
from maerec_jax.config import TrainConfig
from maerec_jax.costs.chips import Chip, Topology
from maerec_jax.costs.work import Work

UTILISATION = 0.4
"""Share of a chip's peak that Transformers reach in practice: published runs of large ones report 0.4 to 0.6."""


@dataclass(frozen=True)
class Prediction:
    """Seconds of one step, and what follows from them."""

    arithmetic: float
    """The matrix multiplications, at peak."""
    memory: float
    """Moving the operands and results of all operations, at the bandwidth of the memory."""
    links: float
    """Collectives within slices."""
    network: float
    """Collectives between slices."""
    expected: float | None
    """By the compiler's estimate of its cycles, with communication after them; None where there is none."""
    fastest: float
    """A bound that no step can beat."""
    slowest: float
    """What should be reached without particular care."""
    bound: str
    """What takes longest: "arithmetic", "memory" or "communication"."""
    images: int
    """Images a step, over all chips."""
    work: Work
    """Operations for one image."""

    @property
    def communication(self) -> float:
        """All collectives."""
        return self.links + self.network

    @property
    def typical(self) -> float:
        """The step time to compare configurations by."""
        return self.slowest if self.expected is None else self.expected

    def rate(self, seconds: float) -> float:
        """Images a second at that step time."""
        return self.images / seconds

    def utilisation(self, seconds: float) -> float:
        """Share of the peak that the model's own operations take at that step time."""
        return self.arithmetic * self.work.model / self.work.executed / seconds


def communication_time(collective: Collective, chip: Chip) -> float:
    """Seconds that a device spends on collectives; see the top of this file."""
    size, group = collective.size, collective.group
    share = (group - 1) / group
    if collective.between_slices:
        rate = chip.dcn_rate / chip.devices
        return size / rate * (2 * share if collective.kind == "all-reduce" else 1)
    ring = 2 * chip.link_rate / chip.devices
    times = {"all-reduce": 2 * share, "all-gather": share, "reduce-scatter": share}
    times |= {"all-to-all": group / 4, "ragged-all-to-all": group / 4}
    return times.get(collective.kind, 2) * size / ring


def predict(compiled: Compiled, config: TrainConfig, topology: Topology) -> Prediction | None:
    """The step time of a compiled step; None where it does not fit in memory."""
    if not compiled.fits or compiled.traffic is None:
        return None
    chip = topology.chip
    work = config.model.work(compiled.image_size)
    arithmetic = work.executed * config.batch_size / topology.chips / chip.flops
    memory = compiled.traffic * config.accumulation / (chip.hbm_rate / chip.devices)
    links = sum(communication_time(c, chip) for c in compiled.collectives if not c.between_slices)
    network = sum(communication_time(c, chip) for c in compiled.collectives if c.between_slices)
    communication = links + network
    parts = {"arithmetic": arithmetic, "memory": memory, "communication": communication}
    bound = max(parts, key=lambda name: parts[name])
    estimate = compiled.cycles / chip.clock if chip.clock else 0.0  # 0, too, where the compiler wrote no cycles
    expected = estimate + communication if estimate else None
    fastest = max(arithmetic, communication)
    slowest = max(arithmetic / UTILISATION, memory, estimate) + communication
    times = (arithmetic, memory, links, network, expected, fastest, slowest)
    return Prediction(*times, bound, config.batch_size, work)
