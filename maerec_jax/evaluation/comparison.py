"""What a comparison of two runs found, for the terminal and for JSON."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich.box import SIMPLE
from rich.console import Group as Parts
from rich.console import RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from maerec_jax.evaluation.bootstrap import LEVEL, Interval
from maerec_jax.evaluation.groups import Kind, ordered
from maerec_jax.reading.marking import printable
from maerec_jax.reading.scoring import HEADLINE, METRICS

MEASURES = tuple(name for name in METRICS if name != "edit_similarity")
"""The metrics that are compared: those for which a reading is right or wrong."""


@dataclass(frozen=True)
class Measure:
    """A metric of a set or an average in both runs."""

    a: float
    """In the first run, as a fraction of 1; on the images that both have, as all else."""
    b: float
    """In the second."""
    interval: Interval
    """The second minus the first."""
    fixed: int
    """Images that only the second run reads right."""
    broken: int
    """Images that only the first reads right."""


@dataclass(frozen=True)
class Difference:
    """How two runs differ on a set or an average."""

    name: str
    """Name of the set or average."""
    label: str
    """What it is called in the table."""
    kind: Literal["set"] | Kind
    """A set, or what kind of average."""
    remark: str
    """What an average lacks of the published one; "" if nothing."""
    words: int
    """Images that both runs have."""
    measures: dict[str, Measure]
    """Each of ``MEASURES``."""
    reworded: int
    """Images that are read otherwise but, by ``HEADLINE``, right in both runs or wrong in both."""

    def verdict(self, metric: str = HEADLINE) -> str:
        """Which run is better, as far as can be said."""
        measure = self.measures[metric]
        if not measure.fixed and not measure.broken:
            return "no verdict changed"
        better = measure.interval.sign * (-1 if self.kind == "margin" else 1)
        return {1: "b is better", 0: "interval contains 0", -1: "a is better"}[better]


@dataclass(frozen=True)
class Change:
    """An image that one of the runs reads right and the other wrong, by ``HEADLINE``."""

    set: str
    """Its set."""
    index: int
    """Its place in the set."""
    file: str
    """Where it comes from."""
    truth_a: str
    """Its label in the first run's file."""
    truth_b: str
    """Its label in the second's."""
    reading_a: str
    """What the first run read."""
    reading_b: str
    """What the second read."""
    confidence_a: float
    """Confidence of the first's reading."""
    confidence_b: float
    """Confidence of the second's."""
    fixed: bool
    """Whether it is the second run that reads it right."""


@dataclass(frozen=True)
class Relabelled:
    """An image that has different labels in the two files."""

    set: str
    """Its set."""
    index: int
    """Its place in the set."""
    file: str
    """Where it comes from."""
    truth_a: str
    """Its label in the first run's file."""
    truth_b: str
    """Its label in the second's."""


@dataclass(frozen=True)
class Lone:
    """Images of a set that only one of the runs has."""

    files: tuple[str, ...]
    """Where they come from."""
    whole_set: bool
    """Whether the other run has nothing of the set."""


@dataclass(frozen=True)
class Comparison:
    """Two runs, ``a`` and ``b``, image by image."""

    a: str
    """Where the first run came from."""
    b: str
    """Where the second came from."""
    seed: int
    """Seed of the bootstrap."""
    resamples: int
    """How many times the images were drawn anew."""
    differences: tuple[Difference, ...]
    """Of each set, then of each average that can be made of them."""
    changes: tuple[Change, ...]
    """The images that were fixed or broken."""
    relabelled: tuple[Relabelled, ...]
    """The images with different labels."""
    only_a: Mapping[str, Lone]
    """What is in the first run only, by set."""
    only_b: Mapping[str, Lone]
    """What is in the second run only."""

    def to_dict(self) -> dict[str, Any]:
        """All of it for JSON, in fractions of 1, every changed image with it."""
        changes: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
        for change in self.changes:
            changes[change.fixed].append({k: v for k, v in asdict(change).items() if k != "fixed"})
        lone = {
            f"only_in_{run}": {
                name: {"images": len(lone.files), "whole_set": lone.whole_set, "files": list(lone.files)}
                for name, lone in found.items()
            }
            for run, found in (("a", self.only_a), ("b", self.only_b))
        }
        return {
            "a": self.a,
            "b": self.b,
            "judged_by": HEADLINE,
            "bootstrap": {"level": LEVEL, "resamples": self.resamples, "seed": self.seed},
            "differences": [_difference(difference) for difference in self.differences],
            "fixed": changes[True],
            "broken": changes[False],
            "different_truths": [asdict(image) for image in self.relabelled],
            **lone,
        }

    def to_rich(self, shown: int = 20) -> RenderableType:
        """For a terminal: the differences in points, about ``shown`` fixed and as many broken images, and remarks."""
        return Parts(
            Text(f"a: {printable(self.a)}\nb: {printable(self.b)}\n"),
            self._headline_table(),
            Text(),
            self._other_table(),
            *self._changed("fixed", [change for change in self.changes if change.fixed], shown),
            *self._changed("broken", [change for change in self.changes if not change.fixed], shown),
            Text("\n" + "\n".join(self.remarks())),
        )

    def remarks(self) -> list[str]:
        """What is to be known about the numbers."""
        intervals = sum(len(difference.measures) for difference in self.differences)
        remarks = [
            f"Intervals: {LEVEL:.0%}, paired bootstrap over images, {self.resamples:,} resamples, seed {self.seed}. "
            f"About one in 20 of the {intervals} intervals misses by chance.",
            *(remark for remark in dict.fromkeys(difference.remark for difference in self.differences) if remark),
        ]
        if any(difference.kind == "margin" for difference in self.differences):
            remarks.append("margin: incomplete_ori minus incomplete; less is better, so b is better below 0.")
        if self.relabelled:
            first = self.relabelled[0]
            remarks.append(
                f"Different labels in the two files, where each run is judged by its own: {len(self.relabelled):,} of "
                f"the images, first {printable(first.file)} of {printable(first.set)}: "
                f'"{printable(first.truth_a)}" and "{printable(first.truth_b)}".'
            )
        for run, other, found in (("a", "b", self.only_a), ("b", "a", self.only_b)):
            for name, lone in found.items():
                what = "the whole set" if lone.whole_set else f"first {printable(lone.files[0])}"
                remarks.append(f"Only in {run}, not in {other}: {len(lone.files):,} of {printable(name)}, {what}.")
        return remarks

    def _headline_table(self) -> RichTable:
        table = _table(f"{METRICS[HEADLINE]} (%), differences in points")
        for heading in ("words", "a", "b", "b - a", f"{LEVEL:.0%} interval", "fixed", "broken"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("verdict")
        styles = {"b is better": "green", "a is better": "red"}
        for difference, style, ends in self._rows():
            measure, verdict = difference.measures[HEADLINE], difference.verdict()
            table.add_row(
                Text(printable(difference.label)),
                f"{difference.words:,}",
                f"{100 * measure.a:.2f}",
                f"{100 * measure.b:.2f}",
                f"{100 * measure.interval.difference:+.2f}",
                _range(measure.interval),
                f"{measure.fixed:,}",
                f"{measure.broken:,}",
                Text(verdict.removeprefix("interval "), styles.get(verdict, "")),
                style=style,
                end_section=ends,
            )
        return table

    def _other_table(self) -> RichTable:
        table = _table("b - a in points, the other metrics")
        others = [name for name in MEASURES if name != HEADLINE]
        for name in others:
            table.add_column(METRICS[name], justify="right", no_wrap=True)
        for difference, style, ends in self._rows():
            cells = []
            for name in others:
                interval = difference.measures[name].interval
                cells.append(Text(f"{100 * interval.difference:+.2f} {_range(interval)}"))
            table.add_row(Text(printable(difference.label)), *cells, style=style, end_section=ends)
        return table

    def _rows(self) -> Iterable[tuple[Difference, str, bool]]:
        """The differences, the style of each and whether a section ends there."""
        sets = sum(difference.kind == "set" for difference in self.differences)
        for place, difference in enumerate(self.differences, 1):
            style = "" if difference.kind == "set" else "italic" if difference.remark else "bold"
            yield difference, style, place in (sets, len(self.differences))

    def _changed(self, kind: str, changes: list[Change], shown: int) -> Iterable[RenderableType]:
        """Changed images, as many of each set as make about ``shown`` of all."""
        if not changes:
            return
        yield Text()
        totals = Counter(change.set for change in changes)
        each = max(1, shown // len(totals))
        table = _table(f"{kind}, by {METRICS[HEADLINE]}: {len(changes):,}")
        for heading in ("file", "label", "a", "b"):
            table.add_column(heading, overflow="fold")
        for name in ordered(totals):
            total = totals[name]
            some = [change for change in changes if change.set == name][:each]
            for change in some:
                truth = change.truth_a if change.truth_a == change.truth_b else f"{change.truth_a} | {change.truth_b}"
                cells = (change.set, change.file, truth, change.reading_a, change.reading_b)
                table.add_row(*(Text(printable(cell)) for cell in cells))
            if total > each:
                table.add_row("", Text(f"and {total - each:,} more", "dim"))
            table.add_section()
        yield table
        if sum(totals.values()) > sum(min(total, each) for total in totals.values()):
            yield Text(f"The JSON of the comparison has all {len(changes):,}.", "dim")


def _table(title: str) -> RichTable:
    table = RichTable(
        title=title, title_justify="left", box=SIMPLE, padding=(0, 0, 0, 1), pad_edge=False, show_edge=False
    )
    table.add_column("set", overflow="fold", min_width=12)
    return table


def _range(interval: Interval) -> str:
    return f"[{100 * interval.low:+.2f}, {100 * interval.high:+.2f}]"


def _difference(difference: Difference) -> dict[str, Any]:
    metrics = {}
    for name, measure in difference.measures.items():
        metrics[name] = {
            "a": measure.a,
            "b": measure.b,
            **asdict(measure.interval),
            "fixed": measure.fixed,
            "broken": measure.broken,
            "verdict": difference.verdict(name),
        }
    about = {"name": difference.name, "kind": difference.kind, "words": difference.words, "remark": difference.remark}
    return about | {"metrics": metrics, "read_otherwise": difference.reworded}
