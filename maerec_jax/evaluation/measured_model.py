"""A model that was measured, now or earlier: its table, and what its numbers can be compared with."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from data_pipelines.errors import UserError
from maerec_jax.evaluation.groups import Kind, judged_by, section
from maerec_jax.evaluation.intervals import combined
from maerec_jax.evaluation.predictions import first_fault
from maerec_jax.evaluation.published import PublishedResult, published_results
from maerec_jax.evaluation.table import Table, read_table
from maerec_jax.reading.scoring import HEADLINE

SETTINGS = ("beam", "turn", "int8", "views", "lexicon")
"""What decides about readings beside the weights, as tables in JSON call it."""


@dataclass(frozen=True)
class Number:
    """A set or an average, as fractions of 1."""

    name: str  # of the set or average
    label: str  # what it is called beside its sets
    kind: Literal["set"] | Kind
    section: str  # the part of the table where it stands
    metric: str  # what it is by: the paper's metric, or in all of a section one that keeps all letters of the labels
    words: int  # of its sets
    value: float  # what was measured; a margin is in -1 to 1
    low: float  # the lower end of its 95 % interval
    high: float  # the upper end
    complete: bool  # whether it is over all words that published numbers are over, and no others


@dataclass(frozen=True)
class Compared:
    """A measured number beside a published one."""

    number: Number
    published: PublishedResult

    @property
    def expected(self) -> float:
        """What was published, as a fraction of 1."""
        return self.published.accuracies[self.number.name] / 100

    @property
    def differs(self) -> bool:
        """Whether no number that is printed as the published one is within the interval of the measured one."""
        rounding = self.published.rounding
        return not self.number.low - rounding <= self.expected <= self.number.high + rounding

    def __str__(self) -> str:
        number, published = self.number, self.published
        way = "below" if number.value < self.expected else "above"
        interval = f"[{100 * number.low:.2f}, {100 * number.high:.2f}]"
        expected = f"{100 * self.expected:.{published.digits}f}"
        return f"{number.name} {100 * number.value:.2f} {interval} is {way} {expected}"


class _Model(BaseModel):
    kind: str
    parameters: int = Field(ge=1)


class _Stored(BaseModel):
    """What evaluate writes beside the numbers of a table."""

    title: str = ""
    model: _Model | None = None  # tables of earlier versions lack it
    beam: str = "1"
    turn: str = "False"
    int8: str = "False"
    views: str = ""
    lexicon: str = ""


@dataclass(frozen=True)
class MeasuredModel:
    """A model and its table."""

    name: str  # what the common table calls it
    title: str  # where it came from
    table: Table
    kind: str = ""  # of the model, as configs name it; "" where it is not known
    parameters: int = 0  # how many it has; 0 where that is not known
    settings: Mapping[str, str] = field(default_factory=dict)  # those of ``SETTINGS`` that it was read with

    @classmethod
    def from_file(cls, path: Path) -> "MeasuredModel":
        """A model that evaluate measured earlier, from its table in JSON.

        Raises ``UserError`` for a file that is missing or is no such table.
        """
        table, data = read_table(path)
        try:
            found = _Stored.model_validate(data)
        except ValidationError as error:
            raise UserError(f"{path}: not a table made by evaluate: {first_fault(error)}") from error
        about: dict[str, Any] = {} if found.model is None else dict(found.model)
        settings = {name: value for name in SETTINGS if (value := getattr(found, name))}
        return cls(name_of(str(path)), found.title, table, **about, settings=settings)

    @property
    def words(self) -> dict[str, int]:
        """How many words were read of each set."""
        return {result.name: result.words for result in self.table.sets}

    @cached_property
    def numbers(self) -> dict[str, Number]:
        """Numbers of the sets, the plain means and the margin, by name."""
        by_name = {result.name: result for result in self.table.scored}
        # A set is what a group of it alone would be.
        rows: list[tuple[str, str, Literal["set"] | Kind, Mapping[str, float], bool]]
        rows = [(r.name, r.name, "set", {r.name: 1.0}, r.words == r.published_words) for r in self.table.scored]
        groups = [average.group for average in self.table.averages if average.group.defined]
        rows += [(g.name, g.label, g.kind, g.weights, g.published) for g in groups if g.kind != "weighted"]
        dropping = [r.name for r in self.table.sets if r.letters_dropped.get(HEADLINE)]
        found = {}
        for name, label, kind, weights, complete in rows:
            where = section(next(iter(weights)))
            metric = judged_by(name for name in dropping if section(name) == where)
            parts = [(w, by_name[part].metrics[metric], by_name[part].words) for part, w in weights.items()]
            value, words = sum(w * share for w, share, _ in parts), sum(n for _, _, n in parts)
            found[name] = Number(name, label, kind, where, metric, words, value, *combined(parts), complete)
        return found

    def check_same_sets(self, other: str, words: Mapping[str, int]) -> None:
        """See to it that another model is measured on the same sets; ``words`` tells how many each of its sets has.

        Raises ``UserError`` where it is not; it names a set.
        """
        for name in [*words, *self.words]:
            here, there = self.words.get(name, 0), words.get(name, 0)
            if here != there:
                has, lacks = (f"{count:,} words of {name}" if count else f"no {name}" for count in (here, there))
                raise UserError(f"{self.name} has {has}, but {other} has {lacks}: measure all on the same sets")

    @property
    def published(self) -> tuple[PublishedResult, ...]:
        """What was published of the same kind and size of model."""
        return published_results(self.kind, self.parameters) if self.kind else ()

    @property
    def comparisons(self) -> list[Compared]:
        """Its numbers beside the published ones, as far as both are over the same words and read without a lexicon."""
        if self.settings.get("lexicon"):
            return []
        return [
            Compared(number, result)
            for result in self.published
            for name, number in self.numbers.items()
            if number.complete and name in result.accuracies
        ]

    @property
    def alone_because(self) -> str:
        """Why nothing that is published stands beside it; "" where something could."""
        if not self.kind:
            return "its table, of an earlier version, does not tell the kind of model"
        if not self.published:
            return f"none has its kind ({self.kind}) and size ({self.parameters:,} parameters)"
        return "it was read with a lexicon" if self.settings.get("lexicon") else ""

    @property
    def how(self) -> str:
        """The flags that it was read with, where that was not greedily and plainly."""
        beam = self.settings.get("beam", "1")
        switches = [f"--{name}" for name in SETTINGS[1:] if self.settings.get(name, "") not in ("", "False")]
        return ", ".join([*([f"--beam {beam}"] if beam != "1" else []), *switches])


def name_of(entry: str) -> str:
    """What a model is called: as its workdir or its file, and a single checkpoint of a run with its step."""
    path = PurePath(os.path.abspath(entry))
    if path.parent.name == "checkpoints":
        return f"{path.parent.parent.name}-{path.name}"
    return path.stem if path.suffix.lower() in (".json", ".safetensors") else path.name


def names_of(entries: Sequence[str]) -> list[str]:
    """The names of models, for rows and files. Raises ``UserError`` where two have the same."""
    names = [name_of(entry) for entry in entries]
    for name, count in Counter(names).items():
        if count > 1:
            same = ", ".join(entry for entry, own in zip(entries, names, strict=True) if own == name)
            raise UserError(
                f"{count} models would be called {name} ({same}): measure one alone with --json, and give that file"
            )
    return names
