"""The count of images that cannot be used, by source."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from data_pipelines.errors import DataError, RecordError
from data_pipelines.images.decoding import DecodeError, pixels_of
from data_pipelines.sources.combining import Sources
from data_pipelines.sources.records import MISSING, OUTCOMES, UNREADABLE, USED, Batch, Source

_NAMED = 10  # unusable images of a source that are named
_DECIDED = 100  # unusable images that can stop a run
_LATEST = 10_000  # images after which the counts of those before are halved


class InvalidImages:
    """Counts images that cannot be used by source, names the first ones, and stops a run that has too many of them.

    Args:
      source: where the images come from; the parts of ``Sources`` are counted one by one.
      message: prints a line.
      names: what messages call the parts.
      limit: the largest share of the latest images, of one part or of all together, that may be unusable. Before there
        are a hundred of them nothing is decided, and older images count less: by half after every 10,000.
    """

    def __init__(
        self, source: Source, message: Callable[[str], None], names: Sequence[str] = ("",), limit: float = 1.0
    ) -> None:
        self.source, self.message, self.limit = source, message, limit
        self._starts = np.array(source.starts if isinstance(source, Sources) else (0, len(source)))
        parts = len(self._starts) - 1
        self.names = list(names) if len(names) == parts else [""] * parts
        self.counts = np.zeros((parts, len(OUTCOMES)), np.int64)
        """How many records of each part became what, over all processes."""
        self._earlier = np.zeros_like(self.counts)
        self._latest = np.zeros((parts + 1, 2))  # seen and unusable, of each part and of all
        self._told = [0] * parts

    def add_earlier(self, lines: Sequence[Mapping[str, str | int]]) -> None:
        """Tell those of earlier runs in the workdir, too, from their ``by_source``; they decide nothing."""
        by_name = {line["source"]: [line[outcome] for outcome in OUTCOMES] for line in lines}
        self._earlier += np.array([by_name.get(name, [0] * len(OUTCOMES)) for name in self.names], np.int64)

    @property
    def used(self) -> int:
        """How many images could be used so far."""
        return int(self.counts[:, USED].sum())

    @property
    def found(self) -> int:
        """How many images could not be used so far, in earlier runs, too."""
        return int(self._all[:, USED + 1 :].sum())

    @property
    def _all(self) -> np.ndarray:
        return self.counts + self._earlier

    def parts_of(self, index: np.ndarray) -> np.ndarray:
        """int32: the part that each record of a batch is in."""
        return (np.searchsorted(self._starts, index, side="right") - 1).clip(0).astype(np.int32)

    def outcomes_of(self, batch: Batch) -> np.ndarray:
        """int64 (parts, outcomes): what became of the records of a batch."""
        records, outcomes = batch["index"] >= 0, np.zeros_like(self.counts)
        np.add.at(outcomes, (self.parts_of(batch["index"][records]), batch["outcome"][records]), 1)
        return outcomes

    def tell(self, batch: Batch) -> None:
        """Name those of a batch (of this process's part of it, where there are several): ten of each source."""
        unusable = batch["index"][batch["outcome"] != USED]
        for index, part in zip(unusable.tolist(), self.parts_of(unusable).tolist(), strict=True):
            self._told[part] += 1
            if self._told[part] <= _NAMED:
                name, reason = self.source.name(index), self._reason(index)
                self.message(f"masked out: {reason}" if name in reason else f"masked out: {name}: {reason}")
            elif self._told[part] == _NAMED + 1:
                self.message(f"masked out: more of {self.names[part] or 'them'}, counted as invalid_images")

    def count(self, outcomes: np.ndarray) -> None:
        """Count the records of a step over all processes, int (parts, outcomes).

        Raises ``DataError`` when too many are unusable. All processes count the same, so they stop at the same step.
        """
        self.counts += outcomes
        latest = np.stack([outcomes.sum(axis=1), outcomes[:, USED + 1 :].sum(axis=1)], axis=1)
        self._latest += np.concatenate([latest, latest.sum(axis=0, keepdims=True)])
        for (seen, unusable), name in zip(self._latest, [*self.names, "data.train"], strict=True):
            if unusable >= _DECIDED and unusable > self.limit * seen:
                raise DataError(
                    f"{name}: {unusable:,.0f} of the latest {seen:,.0f} images cannot be used, more than "
                    f'data.max_invalid {self.limit:.0%}; the lines "masked out" name some: repair or leave them out'
                )
        self._latest[self._latest[:, 0] > _LATEST] /= 2

    def require_used(self) -> None:
        """Raise ``DataError`` where none of the images that came so far could be used."""
        if not self.used:
            raise DataError(
                f"none of the {self.counts.sum():,} images could be used, so nothing was learnt and nothing is saved; "
                'the lines "masked out" say why: repair them, or give other data'
            )

    def by_source(self) -> list[dict[str, str | int]]:
        """What became of the records of each part, in earlier runs, too, for the log."""
        return [
            {"source": name} | dict(zip(OUTCOMES, counts, strict=True))
            for name, counts in zip(self.names, self._all.tolist(), strict=True)
        ]

    def summary(self) -> list[str]:
        """A line for each part with images that could not be used, in earlier runs, too."""
        return [
            f"not used: {unusable:,} of {counts.sum():,} images of {name} "
            f"({counts[MISSING]:,} missing, {counts[UNREADABLE]:,} unreadable)"
            for name, counts in zip(self.names, self._all, strict=True)
            if (unusable := counts[USED + 1 :].sum())
        ]

    def _reason(self, index: int) -> str:
        # The worker that met it sent no text along: the few that are named are read again.
        try:
            pixels_of(self.source[index])
        except (RecordError, DecodeError) as error:
            return str(error)
        return "could not be resized or distorted, or can be read by now"
