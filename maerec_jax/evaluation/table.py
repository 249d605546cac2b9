"""The paper's table: accuracies of each set and their averages, made from predictions."""

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError
from rich.box import SIMPLE
from rich.table import Table as RichTable
from rich.text import Text

from data_pipelines.errors import UserError
from data_pipelines.sources.records import OUTCOMES
from data_pipelines.union14m.catalogue import BENCHMARK, COMMON
from maerec_jax.evaluation.groups import MARGIN, WORD_SETS, Coverage, Group, coverage, groups, ordered
from maerec_jax.evaluation.predictions import Prediction
from maerec_jax.reading.marking import printable
from maerec_jax.reading.scoring import METRICS, Scores

HEADINGS = (*METRICS.values(), "conf.")
"""Headings of the columns in %: the metrics and the mean confidence."""


@dataclass(frozen=True)
class SetResult:
    """What was measured on one set."""

    name: str
    """Its name."""
    words: int
    """How many words it has here, all of which count."""
    unusable: int
    """Those of them whose image could not be used: read wrong, with confidence 0."""
    metrics: dict[str, float]
    """Each of ``scoring.METRICS``, 0 to 1."""
    confidence: float
    """Mean confidence of its words, 0 to 1."""

    @property
    def coverage(self) -> Coverage:
        """What it is of the published set."""
        return coverage(self.name, self.words)

    @property
    def count(self) -> str:
        """How many words it has and, where these are more or less, how many are published."""
        if self.coverage in ("complete", "unknown"):
            return f"{self.words:,}"
        return f"{self.words:,}/{WORD_SETS[self.name].expected:,}"


@dataclass(frozen=True)
class _StoredSet:
    words: Annotated[int, Field(ge=1)]
    unusable: Annotated[int, Field(ge=0)]
    metrics: dict[str, Annotated[float, Field(ge=0, le=1)]]
    confidence: Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class _StoredTable:
    """The part of ``Table.to_dict`` that cannot be made again."""

    sets: dict[str, _StoredSet]


_STORED = TypeAdapter(_StoredTable)


@dataclass(frozen=True)
class Average:
    """What a group of sets has in all."""

    group: Group
    """The group: whether it is the published average or lacks something, it tells."""
    words: int
    """The words of its sets."""
    metrics: dict[str, float]
    """Each of ``scoring.METRICS``, 0 to 1, for a margin -1 to 1; empty for a margin that lacks a set."""
    confidence: float | None
    """Average of the mean confidences; None for a margin."""


@dataclass(frozen=True)
class Line:
    """A line of the table as it is shown."""

    kind: Literal["set", "average", "partial"]
    """Of a set, of an average, or of an average that is not what is published."""
    label: str
    """What it is the line of."""
    words: str
    """How many words."""
    unusable: str
    """How many could not be used."""
    values: tuple[str, ...]
    """A cell for each of ``HEADINGS``."""


@dataclass(frozen=True)
class Table:
    """Accuracies of sets, in the order of the catalogue, others behind, and their averages."""

    sets: tuple[SetResult, ...]
    """The sets."""

    @classmethod
    def from_predictions(cls, predictions: Iterable[Prediction]) -> "Table":
        """Measure predictions, in any order; they are taken one by one."""
        scores: dict[str, Scores] = {}
        confidence: dict[str, float] = {}
        unusable: dict[str, int] = {}
        for prediction in predictions:
            if (score := scores.get(prediction.set)) is None:
                score = scores[prediction.set] = Scores()
                confidence[prediction.set] = unusable[prediction.set] = 0
            score.add(judged_reading(prediction), prediction.truth)
            confidence[prediction.set] += prediction.confidence
            unusable[prediction.set] += prediction.outcome != OUTCOMES[0]
        results = []
        for name, score in scores.items():
            metrics = score.summary()
            del metrics["words"]
            results.append(SetResult(name, score.words, unusable[name], metrics, confidence[name] / score.words))
        return cls._sorted(results)

    @classmethod
    def from_dict(cls, data: Any) -> "Table":
        """The table of which ``to_dict`` made ``data``; keys beside those are let be.

        Raises:
          UserError: where it is no such table; it names the field, but not the file.
        """
        try:
            found = _STORED.validate_python(data)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "JSON"
            raise UserError(f"not a table made by evaluate: {where}: {first['msg']}") from error
        results = []
        for name, entry in found.sets.items():
            if missing := METRICS.keys() - entry.metrics.keys():
                raise UserError(f"not a table made by evaluate: sets.{name}.metrics lacks {min(missing)}")
            results.append(SetResult(name, entry.words, entry.unusable, entry.metrics, entry.confidence))
        return cls._sorted(results)

    @classmethod
    def _sorted(cls, results: list[SetResult]) -> "Table":
        by_name = {result.name: result for result in results}
        return cls(tuple(by_name[name] for name in ordered(by_name)))

    @cached_property
    def averages(self) -> tuple[Average, ...]:
        """The averages that can be made of the sets; see ``groups``."""
        by_name = {result.name: result for result in self.sets}
        averages = []
        for group in groups({result.name: result.words for result in self.sets}):
            members = [(by_name[name], weight) for name, weight in group.weights.items()]
            words = sum(result.words for result, _ in members)
            metrics, confidence = {}, None
            if group.defined:
                metrics = {name: sum(weight * result.metrics[name] for result, weight in members) for name in METRICS}
            if group.kind != "margin":
                confidence = sum(weight * result.confidence for result, weight in members)
            averages.append(Average(group, words, metrics, confidence))
        return tuple(averages)

    def sections(self) -> list[list[Line]]:
        """The lines as they are shown: the headline's sets, Incomplete, the common benchmarks and all else, each with
        their averages."""
        places = {s.name: 0 if s.headline else 1 for s in BENCHMARK.sets} | {s.name: 2 for s in COMMON.sets}
        sections: list[list[Line]] = [[], [], [], []]
        for result in self.sets:
            cells = _cells(result.metrics, result.confidence)
            line = Line("set", result.name, result.count, str(result.unusable or ""), cells)
            sections[places.get(result.name, 3)].append(line)
        for average in self.averages:
            group = average.group
            cells = _cells(average.metrics, average.confidence, "+.2f" if group.kind == "margin" else ".2f")
            line = Line("average" if group.published else "partial", group.label, f"{average.words:,}", "", cells)
            sections[places[next(iter(group.weights))]].append(line)
        return [section for section in sections if section]

    def remarks(self) -> list[str]:
        """What is to be known about averages that are not the published ones, and images that could not be used."""
        # The same for a mean over sets and one by words: once is enough.
        remarks = [remark for remark in dict.fromkeys(average.group.remark for average in self.averages) if remark]
        if any(average.group.kind == "margin" and average.group.defined for average in self.averages):
            remarks.append(f"margin: {' minus '.join(MARGIN)}, in points; less is better.")
        if unusable := sum(result.unusable for result in self.sets):
            remarks.append(f"{unusable:,} images could not be used; they count as read wrong, with confidence 0.")
        return remarks

    def to_rich(self, title: str = "") -> RichTable:
        """The table for a terminal, in %; averages that are not the published ones are in italics, with a remark."""
        shows_unusable = any(result.unusable for result in self.sets)
        headings = ("words", *(("unusable",) if shows_unusable else ()), *HEADINGS)
        table = RichTable(
            title=Text(f"{title} (%)" if title else "%"),
            box=SIMPLE,
            padding=(0, 0, 0, 1),  # so that it fits into 80 columns
            pad_edge=False,
            show_edge=False,
            caption_justify="left",
            title_justify="left",
        )
        table.add_column("set", overflow="fold", min_width=16)
        for heading in headings:
            table.add_column(heading, justify="right", no_wrap=True)
        styles = {"set": "", "average": "bold", "partial": "italic"}
        for section in self.sections():
            for line in section:
                cells = (line.words, *((line.unusable,) if shows_unusable else ()), *line.values)
                table.add_row(
                    Text(printable(line.label)), *cells, style=styles[line.kind], end_section=line is section[-1]
                )
        table.caption = Text("\n".join(self.remarks())) if self.remarks() else None
        return table

    def to_dict(self) -> dict[str, Any]:
        """Sets and averages for JSON, in fractions of 1; ``from_dict`` reads the sets and makes the averages again."""
        sets = {}
        for result in self.sets:
            entry = asdict(result)
            word_set = WORD_SETS.get(entry.pop("name"))
            published = None if word_set is None else word_set.expected
            sets[result.name] = entry | {"published_words": published, "coverage": result.coverage}
        averages = []
        for average in self.averages:
            group = average.group
            lacks = {"missing": list(group.missing), "samples": list(group.samples), "larger": list(group.larger)}
            about = {"name": group.name, "kind": group.kind, "published": group.published, "sets": list(group.weights)}
            values = {"words": average.words, "metrics": average.metrics, "confidence": average.confidence}
            averages.append(about | lacks | values)
        return {"sets": sets, "averages": averages}

    def to_csv(self) -> str:
        """A line for each set and average, in fractions of 1; a margin's are whole words minus cut words."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("kind", "name", "coverage", "words", "unusable", *METRICS, "confidence", "sets", "missing"))
        for result in self.sets:
            values = [*result.metrics.values(), result.confidence, "", ""]
            writer.writerow(["set", result.name, result.coverage, result.words, result.unusable, *values])
        for average in self.averages:
            group = average.group
            about = [group.kind, group.name, "complete" if group.published else "partial", average.words, ""]
            values = [average.metrics.get(name, "") for name in METRICS]
            confidence = "" if average.confidence is None else average.confidence
            writer.writerow([*about, *values, confidence, " ".join(group.weights), " ".join(group.missing)])
        return file.getvalue()


def judged_reading(prediction: Prediction) -> str | None:
    """The reading as ``scoring.verdicts`` takes it: None where the image could not be used."""
    return prediction.reading if prediction.outcome == OUTCOMES[0] else None


def _cells(metrics: Mapping[str, float], confidence: float | None, form: str = ".2f") -> tuple[str, ...]:
    """Cells in %."""
    cells = [format(100 * metrics[name], form) if name in metrics else "-" for name in METRICS]
    return (*cells, "-" if confidence is None else f"{100 * confidence:.1f}")
