"""The averages of published tables: which sets belong to each, and with what weights."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from data_pipelines.union14m.catalogue import BENCHMARK, CATALOGUE, COMMON, WordSet
from maerec_jax.reading.scoring import ALL_LETTERS, HEADLINE

WORD_SETS = {word_set.name: word_set for collection in CATALOGUE for word_set in collection.sets}
"""The sets of the catalogue by name."""

MARGIN = ("incomplete_ori", "incomplete")
"""The sets whose difference is the margin of Incomplete: whole words, and the same with letters cut off."""

SECTIONS = ("Union14M-Benchmark", "Incomplete", "common benchmarks", "other sets")
"""The parts of a table; the first has the sets of the headline average."""

_SECTION_OF = {s.name: SECTIONS[0 if s.headline else 1] for s in BENCHMARK.sets} | {
    s.name: SECTIONS[2] for s in COMMON.sets
}

Kind = Literal["mean", "weighted", "margin"]
"""How a group is averaged: plainly over sets, by their words, or as the first set minus the second."""


@dataclass(frozen=True)
class Group:
    """Sets that are averaged."""

    over: str  # what it is the average of: with ``kind``, its name
    short: str  # what it is called beside its sets
    kind: Kind  # how it is made
    weights: Mapping[str, float]  # the sets that are there, in order, and the weight of each
    missing: tuple[str, ...]  # the sets that are not there: without them it is not the published average
    samples: tuple[str, ...]  # those of the sets that have fewer words than published
    larger: tuple[str, ...]  # those of the sets that have more words than published

    @property
    def published(self) -> bool:
        """Whether it is over what published averages are over: all sets, all words of each."""
        return not (self.missing or self.samples or self.larger)

    @property
    def defined(self) -> bool:
        """Whether it has a value: the mean of some sets has, a difference without one of its two has not."""
        return self.kind != "margin" or not self.missing

    @property
    def name(self) -> str:
        """What it is called everywhere else; no two have the same name."""
        return {"mean": self.over, "weighted": f"{self.over}, by words", "margin": f"{self.over}, margin"}[self.kind]

    @property
    def label(self) -> str:
        """Its short name, and what it lacks."""
        if self.missing:
            return f"{self.short} ({self._part})"
        differs = " (samples)" if self.samples else " (more words)" if self.larger else ""
        return self.short + differs

    @property
    def remark(self) -> str:
        """What it lacks, as a sentence; "" if it is what is published."""
        if self.published:
            return ""
        lacks = []
        if self.missing:
            lacks.append(f"{self._part}: {', '.join(self.weights)}, without {', '.join(self.missing)}")
        if self.samples:
            lacks.append(f"samples of {', '.join(self.samples)}")
        if self.larger:
            lacks.append(f"more words than published of {', '.join(self.larger)}")
        return f"{self.over}, not the published figure: {'; '.join(lacks)}."

    @property
    def _part(self) -> str:
        return f"{len(self.weights)} of {len(self.weights) + len(self.missing)}"


def ordered(names: Iterable[str]) -> list[str]:
    """Names of sets in the order of the catalogue, and others behind them in theirs."""
    places = {name: place for place, name in enumerate(WORD_SETS)}
    return sorted(names, key=lambda name: places.get(name, len(places)))


def section(name: str) -> str:
    """The one of ``SECTIONS`` that a set belongs to."""
    return _SECTION_OF.get(name, SECTIONS[3])


def judged_by(dropping: Iterable[str]) -> str:
    """The metric that decides which readings are right, given the sets with labels of which ``HEADLINE`` drops letters.

    Sets of the catalogue are judged by ``HEADLINE``, as they are published.
    """
    return ALL_LETTERS if set(dropping) - WORD_SETS.keys() else HEADLINE


def groups(words: Mapping[str, int]) -> tuple[Group, ...]:
    """The averages that can be made of sets with these numbers of words, those that lack some of their sets too.

    A set that is published in two sizes under one name (IC13 with 1,015 or 857 words) belongs to the group of its size.
    """
    measured = {name: name for name in words}  # by its name in the catalogue, what each set is called here
    for whole, part in _PARTS.items():
        if words.get(whole) == part.expected:
            del measured[whole]
            measured.setdefault(part.name, whole)
    headline = [s for s in BENCHMARK.sets if s.headline]
    found = [_group("Union14M-Benchmark", "average", "mean", headline, words, measured)]
    smaller, larger = list(_PARTS.values()), [WORD_SETS[name] for name in _PARTS]
    small_six, large_six = ([s for s in COMMON.sets if s not in others] for others in (larger, smaller))
    small_there, large_there = ({s.name for s in six} & measured.keys() for six in (small_six, large_six))
    # Where all that is there of one is there of the other too, one tells everything.
    variants = [] if small_there < large_there else [(smaller, small_six)]
    variants += [] if large_there <= small_there else [(larger, large_six)]
    for sizes, six in variants:
        named = [(name, s) for name, s in zip(_PARTS, sizes, strict=True) if s.name in measured]
        over = " and ".join(f"{name} {s.expected:,}" for name, s in named)
        over = f"common six with {over}" if named else "common six"
        short = "".join(f"{sign}{s.expected:,}" for sign, (_, s) in zip((", ", " + "), named, strict=False))
        found.append(_group(over, f"average{short}", "mean", six, words, measured))
        found.append(_group(over, f"by words{short}", "weighted", six, words, measured))
    found.append(_group("Incomplete", "margin", "margin", [WORD_SETS[name] for name in MARGIN], words, measured))
    return tuple(group for group in found if group.weights)


_PARTS = {s.name: WORD_SETS[f"{s.name}_{size}"] for s in COMMON.sets for size in s.also}


def _group(
    over: str, short: str, kind: Kind, sets: list[WordSet], words: Mapping[str, int], measured: Mapping[str, str]
) -> Group:
    present = [(s, measured[s.name]) for s in sets if s.name in measured]
    if kind == "margin":
        weights = {here: 1.0 if s.name == MARGIN[0] else -1.0 for s, here in present}
    elif kind == "weighted":
        total = sum(words[here] for _, here in present)
        weights = {here: words[here] / total for _, here in present}
    else:
        weights = {here: 1 / len(present) for _, here in present}
    missing = tuple(s.name for s in sets if s.name not in measured)
    samples, larger = (tuple(h for s, h in present if s.compare(words[h]) == what) for what in ("sample", "more"))
    return Group(over, short, kind, weights, missing, samples, larger)
