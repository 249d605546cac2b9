"""Look for the batch size, remat and mesh with which a topology trains the most images a second.

A compile takes minutes, so few are made, and each answers a question:

1. How many images a chip fit? One compile tells the memory that an image takes. More are not always faster.
2. Is recomputing worth it? It costs work, and buys room for a larger batch, which communicates less often.
3. Is another mesh better? Data parallelism comes first: it sends each gradient once.

Whether a batch is too large to train well is not looked at.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from data_pipelines.errors import UserError
from maerec_jax.ahead.report import Report, remat_parts
from maerec_jax.config import MeshConfig, TrainConfig
from maerec_jax.costs.chips import Topology

_ROOM = 0.95  # of the memory is what a guess may fill
_SMALLEST = 8  # images a chip: fewer leave the matrix units half empty
_LARGE_STATE = 0.25  # of the memory
_BETTER = 1.02  # times as fast is what a less simple configuration has to be


@dataclass(frozen=True)
class Candidate:
    """What the search chooses."""

    images: int
    """Images a chip."""
    remat: bool
    """Whether blocks, and the layers of a text decoder, are recomputed in the backward pass."""
    fsdp: int = 1
    """Devices between which the state is divided."""
    tensor: int = 1
    """Devices between which layers are divided."""

    def __str__(self) -> str:
        """For a line of progress."""
        axes = [f"{name} {size}" for name, size in (("fsdp", self.fsdp), ("tensor", self.tensor)) if size > 1]
        return ", ".join([f"{self.images} images a chip", f"remat {'on' if self.remat else 'off'}", *axes])

    def apply(self, config: TrainConfig, topology: Topology) -> TrainConfig:
        """The config with these choices, its batches in one part."""
        parts = {name: replace(part, remat=self.remat) for name, part in remat_parts(config.model).items()}
        model: Any = config.model
        mesh = MeshConfig(fsdp=self.fsdp, tensor=self.tensor, slices=topology.slices)
        batch_size = self.images * topology.chips
        return replace(config, model=replace(model, **parts), mesh=mesh, batch_size=batch_size, accumulation=1)


@dataclass
class Search:
    """Tries configurations, and recommends the one with the most images a second."""

    config: TrainConfig
    """Where to start from: its batch size, remat and mesh."""
    topology: Topology
    evaluate: Callable[[Candidate], Report]
    """Compiles a candidate; results that are known already cost nothing, but count."""
    max_compiles: int
    """How many candidates may be evaluated."""
    message: Callable[[str], None] = print
    """Is told what is done, and why."""
    tried: dict[Candidate, Report] = field(default_factory=dict)
    """All that was compiled, in order."""
    reasons: list[str] = field(default_factory=list)
    """What was not tried, and why."""

    def run(self) -> Report | None:
        """The report of the recommended configuration; None where nothing fits."""
        if self.max_compiles < 1:
            raise UserError(f"--max-compiles must be at least 1, not {self.max_compiles}")
        images = max(self.config.batch_size // self.topology.chips, _SMALLEST)
        self._fill(Candidate(2 ** round(math.log2(images)), remat=False))
        self._empty()
        self._with_remat()
        self._other_meshes()
        return self._best()[1]

    def _try(self, candidate: Candidate) -> Report | None:
        """The report of a candidate; None where no more may be compiled."""
        if candidate in self.tried:
            return self.tried[candidate]
        if len(self.tried) >= self.max_compiles:
            self._leave_out(f"{candidate}: --max-compiles {self.max_compiles} is reached")
            return None
        self.message(f"[{len(self.tried) + 1} of at most {self.max_compiles}] {candidate}")
        report = self.tried[candidate] = self.evaluate(candidate)
        if (prediction := report.prediction) is None:
            self.message(f"    does not fit: {report.filled:.0%} of the memory")
        else:
            rate = prediction.rate(prediction.typical)
            self.message(f"    {report.filled:.0%} of the memory, {rate:,.0f} images/s, bound by {prediction.bound}")
        return report

    def _leave_out(self, reason: str) -> None:
        self.reasons.append(reason)
        self.message(f"not tried: {reason}")

    def _fill(self, candidate: Candidate) -> None:
        """Find the largest power of two of images that fit, by what the first compile says of an image's memory."""
        while (report := self._try(candidate)) is not None:
            images = self._guess(candidate, report)
            if images < _SMALLEST or (report.compiled.fits and images <= candidate.images):
                return
            candidate = replace(candidate, images=images)
            if candidate in self.tried:
                return

    def _guess(self, candidate: Candidate, report: Report) -> int:
        """The largest power of two that should fit: at most four times as many images, and fewer than were too many."""
        memory, images = report.compiled.memory, candidate.images
        fixed = (memory.parameters + memory.optimizer + memory.average + (memory.program or 0)) / memory.total
        growing = report.filled * (1 - fixed) / images
        room = _ROOM - report.filled * fixed
        guess = 2 ** math.floor(math.log2(room / growing)) if room > growing else 0
        alike = {c.images: r for c, r in self.tried.items() if c == replace(candidate, images=c.images)}
        too_many = [number for number, r in alike.items() if not r.compiled.fits]
        return min(guess, 4 * images, min(too_many, default=2 * guess) // 2)

    def _empty(self) -> None:
        """Try fewer images for as long as that is faster."""
        while len(self.tried) > 1:
            candidate, report = self._best()
            is_smallest = candidate.images == min(c.images for c in self.tried)
            fewer = replace(candidate, images=candidate.images // 2)
            if report is None or not is_smallest or fewer.images < _SMALLEST or self._try(fewer) is None:
                return

    def _with_remat(self) -> None:
        """Try it where nothing fits without, or where a larger batch could be worth more than what is recomputed."""
        candidate, report = self._best()
        prediction = None if report is None else report.prediction
        if prediction is None:
            smallest = min(c.images for c in self.tried)
            self._fill(Candidate(max(smallest, _SMALLEST), remat=True))
            return
        share = prediction.communication / prediction.typical
        if any(r.compiled.fits and c.images > candidate.images for c, r in self.tried.items()):
            self._leave_out("remat: there is room for more images without, but they are not faster")
        elif share < 0.1:
            self._leave_out(f"remat: a larger batch could save at most the {share:.0%} that communication takes")
        else:
            self._try(Candidate(2 * candidate.images, remat=True))

    def _other_meshes(self) -> None:
        """Divide the state ("fsdp") or layers ("tensor") where the state takes much of the memory, or nothing fits."""
        candidate, report = self._best()
        memory = (report or next(iter(self.tried.values()))).compiled.memory
        chip = self.topology.chip
        state = (memory.parameters + memory.optimizer + memory.average) * chip.devices / chip.hbm
        devices = self.topology.devices // self.topology.slices
        if devices == 1:
            return
        if report is not None and state < _LARGE_STATE:
            self._leave_out(f"fsdp and tensor: the whole state takes {state:.1%} of the memory")
            return
        divided = math.gcd(devices, 16)
        self._try(replace(candidate, fsdp=divided))
        encoder = self.config.model.encoder
        heads = 1 if encoder is None else math.gcd(devices, encoder.heads, 2)
        if heads > 1 and self._best()[1] is None:
            self._try(replace(candidate, fsdp=divided // heads or 1, tensor=heads))

    def _best(self) -> tuple[Candidate, Report | None]:
        """The fastest that fits, or the last tried; simpler ones first where there is little between them."""
        best: tuple[Candidate, Report | None] = (list(self.tried)[-1], None)
        rate = 0.0
        for candidate, report in sorted(self.tried.items(), key=lambda x: (x[0].tensor, x[0].fsdp, x[0].remat)):
            prediction = report.prediction
            found = 0.0 if prediction is None else prediction.rate(prediction.typical)
            if found > rate * _BETTER:
                best, rate = (candidate, report), found
        return best
