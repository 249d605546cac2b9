"""What a comparison of two runs found, for the terminal and for JSON."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from rich.console import Group as Parts
from rich.console import RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from maerec_jax.evaluation.groups import Kind, ordered
from maerec_jax.evaluation.table import letters_remark, plain_table
from maerec_jax.reading.marking import printable
from maerec_jax.reading.scoring import ALL_LETTERS, HEADLINE, METRICS

MEASURES = tuple(name for name in METRICS if name != "edit_similarity")
"""The metrics that are compared: those for which a reading is right or wrong."""

LEVEL = 0.95
"""Share of the resampled differences that an interval holds."""


class Image(NamedTuple):
    """What an image is known by in both runs: its set, its place in it, and where it comes from."""

    set: str
    place: int
    file: str


class Judged(NamedTuple):
    """What a run read in an image: its label in the run's file, the reading, its confidence, and whether it is right
    by each of ``MEASURES``."""

    truth: str
    reading: str
    confidence: float
    right: tuple[bool, ...]


class Pair(NamedTuple):
    """An image that both runs have, and what each of them read in it."""

    image: Image
    a: Judged
    b: Judged

    def change(self, metric: str) -> int:
        """1 where only the second run reads it right, -1 where only the first does, else 0."""
        place = MEASURES.index(metric)
        return self.b.right[place] - self.a.right[place]

    def described(self) -> dict[str, Any]:
        """The pair as JSON can hold it."""
        described: dict[str, Any] = {"set": self.image.set, "index": self.image.place, "file": self.image.file}
        for name in ("truth", "reading", "confidence"):
            described |= {f"{name}_a": getattr(self.a, name), f"{name}_b": getattr(self.b, name)}
        return described


@dataclass(frozen=True)
class Measure:
    """A metric of a set or an average in both runs, as fractions of 1, on the images that both have."""

    a: float  # in the first run
    b: float  # in the second
    low: float  # lower end of the interval of the second minus the first
    high: float  # its upper end
    fixed: int  # images that only the second run reads right
    broken: int  # images that only the first reads right

    @property
    def difference(self) -> float:
        """The second minus the first."""
        return self.b - self.a

    def __str__(self) -> str:
        return f"{100 * self.difference:+.2f} {self.interval}"

    @property
    def interval(self) -> str:
        """The interval in points."""
        return f"[{100 * self.low:+.2f},{100 * self.high:+.2f}]"  # in one piece where a line is broken


@dataclass(frozen=True)
class Difference:
    """How two runs differ on a set or an average."""

    name: str  # name of the set or average
    label: str  # what it is called in the table
    kind: Literal["set"] | Kind  # a set, or what kind of average
    remark: str  # what an average lacks of the published one; "" if nothing
    words: int  # images that both runs have
    measures: dict[str, Measure]  # each of ``MEASURES``
    reworded: int  # images that are read otherwise but right in both runs or wrong in both, by what they are judged by

    def verdict(self, metric: str = HEADLINE) -> str:
        """Which run is better, as far as can be said."""
        measure = self.measures[metric]
        if not measure.fixed and not measure.broken:
            return "no verdict changed"
        if measure.low <= 0 <= measure.high:
            return "interval contains 0"
        return "b is better" if (measure.low > 0) != (self.kind == "margin") else "a is better"

    def cells(self, metric: str) -> dict[str, str]:
        """What a table shows of it by a metric, by headings."""
        measure, verdict = self.measures[metric], self.verdict(metric)
        style = {"b is better": "green", "a is better": "red"}.get(verdict, "none")
        return {
            "words": f"{self.words:,}",
            "a": f"{100 * measure.a:.2f}",
            "b": f"{100 * measure.b:.2f}",
            "b - a": f"{100 * measure.difference:+.2f}",
            f"{LEVEL:.0%} interval": measure.interval,
            "fixed": f"{measure.fixed:,}",
            "broken": f"{measure.broken:,}",
            "verdict": f"[{style}]{verdict.removeprefix('interval ')}",
        }

    def described(self) -> dict[str, Any]:
        """The difference as JSON can hold it, in fractions of 1."""
        metrics = {
            name: asdict(measure) | {"difference": measure.difference, "verdict": self.verdict(name)}
            for name, measure in self.measures.items()
        }
        about = {"name": self.name, "kind": self.kind, "words": self.words, "remark": self.remark}
        return about | {"metrics": metrics, "read_otherwise": self.reworded}


@dataclass(frozen=True)
class Comparison:
    """Two runs, ``a`` and ``b``, image by image."""

    a: str  # where the first run came from
    b: str  # where the second came from
    seed: int  # seed of the bootstrap
    resamples: int  # how many times the images were drawn anew
    judged_by: str  # the metric that decides which images are fixed and which broken
    letters_dropped: Mapping[str, int]  # how many labels have letters that ``HEADLINE`` drops, by set
    unscored: Sequence[str]  # sets that are left out, since a run could use none of their images
    differences: tuple[Difference, ...]  # of each set, then of each average that can be made of them
    fixed: tuple[Pair, ...]  # the images that only the second run reads right
    broken: tuple[Pair, ...]  # those that only the first run reads right
    relabelled: tuple[Pair, ...]  # the images with different labels
    only_a: Mapping[str, Sequence[str]]  # files of the images that are in the first run only, by set
    only_b: Mapping[str, Sequence[str]]  # files of those in the second run only

    def to_dict(self) -> dict[str, Any]:
        """All of it for JSON, in fractions of 1, every changed image with it."""
        found: dict[str, Any] = {
            "a": self.a,
            "b": self.b,
            "judged_by": self.judged_by,
            "letters_dropped": dict(self.letters_dropped),
            "without_score": list(self.unscored),
            "bootstrap": {"level": LEVEL, "resamples": self.resamples, "seed": self.seed},
            "differences": [difference.described() for difference in self.differences],
            "fixed": [pair.described() for pair in self.fixed],
            "broken": [pair.described() for pair in self.broken],
            "different_truths": [pair.described() for pair in self.relabelled],
            "only_in_a": {},
            "only_in_b": {},
        }
        for run, _, name, files, whole in self._lone():
            found[f"only_in_{run}"][name] = {"images": len(files), "whole_set": whole, "files": list(files)}
        return found

    def to_rich(self, shown: int = 20) -> RenderableType:
        """For a terminal: the differences in points, about ``shown`` fixed and as many broken images, and remarks."""
        others = [name for name in self._shown if name != self.judged_by]
        return Parts(
            Text(f"a: {printable(self.a)}\nb: {printable(self.b)}\n"),
            self._table(
                f"{METRICS[self.judged_by]} (%), differences in points",
                lambda difference: difference.cells(self.judged_by),
            ),
            Text(),
            self._table(
                "b - a in points, the other metrics",
                lambda difference: {METRICS[name]: str(difference.measures[name]) for name in others},
            ),
            *_images(f"fixed, by {METRICS[self.judged_by]}", self.fixed, shown),
            *_images(f"broken, by {METRICS[self.judged_by]}", self.broken, shown),
            Text("\n" + "\n".join(self.remarks())),
        )

    @property
    def _shown(self) -> list[str]:
        """The metrics that are shown: the one of all letters only where it differs."""
        return [name for name in MEASURES if self.letters_dropped or name != ALL_LETTERS]

    def remarks(self) -> list[str]:
        """What is to be known about the numbers."""
        intervals = len(self.differences) * len(self._shown)
        remarks = [
            f"Intervals: {LEVEL:.0%}, paired bootstrap over images, {self.resamples:,} resamples, seed {self.seed}. "
            f"About one in 20 of the {intervals} intervals misses by chance.",
            *(remark for remark in dict.fromkeys(difference.remark for difference in self.differences) if remark),
        ]
        if any(difference.kind == "margin" for difference in self.differences):
            remarks.append("margin: incomplete_ori minus incomplete; less is better, so b is better below 0.")
        if self.letters_dropped:
            remarks.append(letters_remark([HEADLINE], self.letters_dropped))
        if self.unscored:
            names = ", ".join(map(printable, self.unscored))
            remarks.append(f"Left out, because a run could use none of their images: {names}.")
        if self.relabelled:
            first = self.relabelled[0]
            remarks.append(
                f"Different labels in the two files, where each run is judged by its own: {len(self.relabelled):,} of "
                f"the images, first {printable(first.image.file)} of {printable(first.image.set)}: "
                f'"{printable(first.a.truth)}" and "{printable(first.b.truth)}".'
            )
        for run, other, name, files, whole in self._lone():
            what = "the whole set" if whole else f"first {printable(files[0])}"
            remarks.append(f"Only in {run}, not in {other}: {len(files):,} of {printable(name)}, {what}.")
        return remarks

    def _lone(self) -> Iterator[tuple[str, str, str, Sequence[str], bool]]:
        """Of each set with images that one run lacks: the run that has them, the other, the set, the files, and whether
        the other has nothing of the set."""
        common = {difference.name for difference in self.differences if difference.kind == "set"}
        for run, other, here, there in (("a", "b", self.only_a, self.only_b), ("b", "a", self.only_b, self.only_a)):
            for name, files in here.items():
                yield run, other, name, files, name not in common | there.keys()

    def _table(self, title: str, cells: Callable[[Difference], Mapping[str, str]]) -> RichTable:
        """A row for each difference, of cells by their headings, with a line below the last set."""
        table = plain_table(title)
        for heading in cells(self.differences[0]):
            table.add_column(heading, justify="left" if heading == "verdict" else "right", overflow="fold")
        for difference in self.differences:
            style = "" if difference.kind == "set" else "italic" if difference.remark else "bold"
            if style and not table.rows[-1].style:
                table.add_section()
            table.add_row(Text(printable(difference.label)), *cells(difference).values(), style=style)
        return table


def _images(title: str, pairs: Sequence[Pair], shown: int) -> Iterator[RenderableType]:
    """Changed images, as many of each set as make about ``shown`` of all."""
    if not pairs:
        return
    yield Text()
    totals = Counter(pair.image.set for pair in pairs)
    each = max(1, shown // len(totals))
    table = plain_table(f"{title}: {len(pairs):,}")
    for heading in ("file", "label", "a", "b"):
        table.add_column(heading, overflow="fold")
    for name in ordered(totals):
        for image, a, b in [pair for pair in pairs if pair.image.set == name][:each]:
            truth = a.truth if a.truth == b.truth else f"{a.truth} | {b.truth}"
            table.add_row(*(Text(printable(cell)) for cell in (name, image.file, truth, a.reading, b.reading)))
        if totals[name] > each:
            table.add_row("", Text(f"and {totals[name] - each:,} more", "dim"))
        table.add_section()
    yield table
    if max(totals.values()) > each:
        yield Text(f"The JSON of the comparison has all {len(pairs):,}.", "dim")
