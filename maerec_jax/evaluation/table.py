"""The paper's table: accuracies of each set and their averages, made from predictions."""

import csv
import io
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError
from rich.box import SIMPLE
from rich.table import Table as RichTable
from rich.text import Text

from data_pipelines.errors import UserError
from data_pipelines.sources.records import OUTCOMES
from maerec_jax.evaluation.groups import MARGIN, SECTIONS, WORD_SETS, Group, groups, judged_by, ordered, section
from maerec_jax.evaluation.predictions import Prediction, first_fault
from maerec_jax.reading.marking import printable
from maerec_jax.reading.scoring import ALL_LETTERS, HEADLINE, METRICS, Scores

COLUMNS = ("kind", "name", "coverage", "words", "unusable", *METRICS, "confidence", "sets", "missing")
"""The columns of CSV files."""


@dataclass(frozen=True)
class SetResult:
    """What was measured on one set."""

    words: Annotated[int, Field(ge=1)]  # how many words it has here, all of which count
    unusable: Annotated[int, Field(ge=0)]  # those whose image could not be used: read wrong, with confidence 0
    metrics: dict[str, Annotated[float, Field(ge=0, le=1)]]  # each of ``scoring.METRICS``; of old tables but the last
    confidence: Annotated[float, Field(ge=0, le=1)] | None  # mean confidence of its words
    name: str = ""
    letters_dropped: dict[str, int] = field(default_factory=dict)  # of how many labels a metric leaves out letters
    capitals: bool = False  # whether its labels have capitals, and no small letters

    @property
    def scored(self) -> bool:
        """Whether any of its images could be used: otherwise it has no metrics, and no confidence."""
        return self.unusable < self.words

    @property
    def published_words(self) -> int | None:
        """How many words are published under its name; None where that is not known."""
        return WORD_SETS[self.name].expected if self.name in WORD_SETS else None

    @property
    def coverage(self) -> str:
        """What it is of the published set; see ``WordSet.compare``."""
        return WORD_SETS[self.name].compare(self.words) if self.name in WORD_SETS else "unknown"

    @property
    def count(self) -> str:
        """How many words it has and, where these are more or less, how many are published."""
        differs = self.coverage not in ("complete", "unknown")
        return f"{self.words:,}/{self.published_words:,}" if differs else f"{self.words:,}"


class _Stored(BaseModel):
    """The part of ``Table.to_dict`` that cannot be made again."""

    sets: dict[str, SetResult]


@dataclass(frozen=True)
class Average:
    """What a group of sets has in all."""

    group: Group  # tells whether it is the published average or lacks something
    words: int  # of its sets
    metrics: dict[str, float]  # each of ``scoring.METRICS``, for a margin -1 to 1; empty for one that lacks a set
    confidence: float | None  # average of the mean confidences; None for a margin


@dataclass(frozen=True)
class Line:
    """A line of the table as it is shown."""

    kind: Literal["set", "average", "partial"]  # partial: an average that is not what is published
    label: str  # what it is the line of
    cells: tuple[str, ...]  # what stands below ``Table.headings``, but for the first


@dataclass(frozen=True)
class Table:
    """Accuracies of sets, in the order of the catalogue, others behind, and their averages."""

    sets: tuple[SetResult, ...]

    @classmethod
    def from_predictions(cls, predictions: Iterable[Prediction]) -> "Table":
        """Measure predictions, in any order; they are taken one by one."""
        scores: dict[str, Scores] = defaultdict(Scores)
        confidence: dict[str, float] = defaultdict(float)
        unusable: Counter[str] = Counter()
        for prediction in predictions:
            scores[prediction.set].add(prediction.judged_reading, prediction.truth)
            confidence[prediction.set] += prediction.confidence
            unusable[prediction.set] += prediction.outcome != OUTCOMES[0]
        results = []
        for name in ordered(scores):
            found = scores[name]
            sure, capitals = confidence[name] / found.words, found.cases == {"upper"}
            about = name, dict(found.dropped), capitals
            results.append(_without_score(SetResult(found.words, unusable[name], found.means(), sure, *about)))
        return cls(tuple(results))

    @classmethod
    def from_dict(cls, data: Any) -> "Table":
        """The table of which ``to_dict`` made ``data``; keys beside those are let be.

        Raises:
          UserError: where it is no such table; it names the field, but not the file.
        """
        try:
            found = _Stored.model_validate(data).sets
        except ValidationError as error:
            raise UserError(f"not a table made by evaluate: {first_fault(error)}") from error
        for name, result in found.items():
            missing = METRICS.keys() - result.metrics.keys() - {ALL_LETTERS}
            if missing and result.scored:
                raise UserError(f"not a table made by evaluate: sets.{name}.metrics lacks {min(missing)}")
        return cls(tuple(_without_score(replace(found[name], name=name)) for name in ordered(found)))

    @property
    def scored(self) -> tuple[SetResult, ...]:
        """The sets that have a score; averages are of these."""
        return tuple(result for result in self.sets if result.scored)

    @cached_property
    def averages(self) -> tuple[Average, ...]:
        """The averages that can be made of the sets; see ``groups``."""
        by_name = {result.name: result for result in self.scored}
        averages = []
        for group in groups({result.name: result.words for result in self.scored}):
            members = [(by_name[name], weight) for name, weight in group.weights.items()]
            words = sum(result.words for result, _ in members)
            metrics, confidence = {}, None
            if group.defined:
                known = [name for name in METRICS if all(name in result.metrics for result, _ in members)]
                metrics = {name: sum(weight * result.metrics[name] for result, weight in members) for name in known}
            if group.kind != "margin":
                confidence = sum(weight * (result.confidence or 0.0) for result, weight in members)
            averages.append(Average(group, words, metrics, confidence))
        return tuple(averages)

    @property
    def unusable(self) -> int:
        """How many images could not be used."""
        return sum(result.unusable for result in self.sets)

    @property
    def judged_by(self) -> str:
        """The metric that decides which readings are right: ``HEADLINE``, or one that keeps all letters of labels."""
        return judged_by(result.name for result in self.sets if result.letters_dropped.get(HEADLINE))

    @property
    def metrics(self) -> list[str]:
        """The metrics that are shown."""
        letters = any(result.letters_dropped.get(HEADLINE) for result in self.sets)
        return [name for name in METRICS if letters or name != ALL_LETTERS]

    @property
    def headings(self) -> tuple[str, ...]:
        """Headings of the columns; those behind the counts are in %."""
        unusable = ("unusable",) if self.unusable else ()
        return ("set", "words", *unusable, *(METRICS[name] for name in self.metrics), "conf.")

    def sections(self) -> list[list[Line]]:
        """The lines as they are shown: the headline's sets, Incomplete, the common benchmarks and all else, each with
        their averages."""
        sections: dict[str, list[Line]] = {name: [] for name in SECTIONS}
        for result in self.sets:
            counts = (result.count, *((str(result.unusable or ""),) if self.unusable else ()))
            line = Line("set", result.name, (*counts, *_percents(self.metrics, result.metrics, result.confidence)))
            sections[section(result.name)].append(line)
        for average in self.averages:
            group = average.group
            counts = (f"{average.words:,}", *(("",) if self.unusable else ()))
            form = "+.2f" if group.kind == "margin" else ".2f"
            values = _percents(self.metrics, average.metrics, average.confidence, form)
            line = Line("average" if group.published else "partial", group.label, (*counts, *values))
            sections[section(next(iter(group.weights)))].append(line)
        return [lines for lines in sections.values() if lines]

    def remarks(self) -> list[str]:
        """What is to be known about averages that are not the published ones, and images that could not be used."""
        # The same for a mean over sets and one by words: once is enough.
        remarks = [remark for remark in dict.fromkeys(average.group.remark for average in self.averages) if remark]
        if any(average.group.kind == "margin" and average.group.defined for average in self.averages):
            remarks.append(f"margin: {' minus '.join(MARGIN)}, in points; less is better.")
        remarks += [
            f"{printable(result.name)}: none of its {result.words:,} images could be used, so it has no score."
            for result in self.sets
            if not result.scored
        ]
        if wrong := sum(result.unusable for result in self.scored):
            remarks.append(f"{wrong:,} images could not be used; they count as read wrong, with confidence 0.")
        capitals = [printable(result.name) for result in self.sets if result.capitals]
        if capitals:
            remarks.append(
                f"Labels in capitals only: {', '.join(capitals)}. WA counts small letters as wrong there, whatever the "
                "images show; WAIC does not."
            )
        return remarks + list(self._dropped_letters())

    def _dropped_letters(self) -> Iterator[str]:
        """Which metrics leave out letters, and of how many labels."""
        alike: dict[tuple[tuple[str, int], ...], list[str]] = {}
        for metric in METRICS:
            counts = tuple((r.name, n) for r in self.sets if (n := r.letters_dropped.get(metric, 0)))
            if counts:
                alike.setdefault(counts, []).append(metric)
        return (letters_remark(metrics, dict(counts)) for counts, metrics in alike.items())

    def to_rich(self, title: str = "") -> RichTable:
        """The table for a terminal, in %; averages that are not the published ones are in italics, with a remark."""
        table = plain_table(f"{title} (%)" if title else "%")
        for heading in self.headings[1:]:
            table.add_column(heading, justify="right", overflow="fold")
        styles = {"set": "", "average": "bold", "partial": "italic"}
        for lines in self.sections():
            for line in lines:
                table.add_row(Text(printable(line.label)), *line.cells, style=styles[line.kind])
            table.add_section()
        table.caption, table.caption_justify = Text("\n".join(self.remarks())) if self.remarks() else None, "left"
        return table

    def to_dict(self) -> dict[str, Any]:
        """Sets and averages for JSON, in fractions of 1; ``from_dict`` reads the sets and makes the averages again."""
        sets = {}
        for result in self.sets:
            entry = asdict(result) | {"published_words": result.published_words, "coverage": result.coverage}
            sets[entry.pop("name")] = entry
        averages = []
        for average in self.averages:
            group = average.group
            lacks = {"missing": list(group.missing), "samples": list(group.samples), "larger": list(group.larger)}
            about = {"name": group.name, "kind": group.kind, "published": group.published, "sets": list(group.weights)}
            values = {"words": average.words, "metrics": average.metrics, "confidence": average.confidence}
            averages.append(about | lacks | values)
        return {"judged_by": self.judged_by, "sets": sets, "averages": averages}

    def rows(self) -> list[dict[str, Any]]:
        """What stands in a CSV file, by ``COLUMNS``: a row for each set and average, in fractions of 1."""
        data = self.to_dict()
        rows = [entry | entry["metrics"] | {"kind": "set", "name": name} for name, entry in data["sets"].items()]
        for entry in data["averages"]:
            lists = {name: " ".join(entry[name]) for name in ("sets", "missing")}
            lists["coverage"] = "complete" if entry["published"] else "partial"
            rows.append(entry | entry["metrics"] | lists)
        return rows

    def to_csv(self) -> str:
        """A line for each set and average, in fractions of 1; a margin's are whole words minus cut words."""
        return csv_of(COLUMNS, self.rows())


def letters_remark(metrics: Sequence[str], labels: Mapping[str, int]) -> str:
    """Tells that metrics leave out letters of so many labels of each set."""
    names = ", ".join(METRICS[metric] for metric in metrics)
    sets = ", ".join(f"{printable(name)} {count:,}" for name, count in labels.items())
    instead = f"; {METRICS[ALL_LETTERS]} counts those of all scripts" if HEADLINE in metrics else ""
    return f"Labels with letters that do not count in {names}: {sets}{instead}."


def read_table(path: Path) -> tuple[Table, dict[str, Any]]:
    """The table in a file that evaluate wrote, and all that the file holds.

    Raises:
      UserError: where there is no such file, or it is no table; it names the file.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return Table.from_dict(data), data
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give a table (.json) that evaluate wrote") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}; give a table that evaluate wrote") from error


def csv_of(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """A CSV file of these columns, with a heading; what a row has beside them is left out."""
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def plain_table(title: str) -> RichTable:
    """A table for a terminal without frames that fits into 80 columns, whose first column is "set".

    Cells of all columns have to be folded where they are too wide: cut off, they would show other numbers.
    """
    table = RichTable(title=Text(title), title_justify="left", box=SIMPLE, padding=0, pad_edge=False, show_edge=False)
    table.add_column("set", overflow="fold")
    return table


def _without_score(result: SetResult) -> SetResult:
    """The result, of a set whose images could all not be used without numbers."""
    return result if result.scored else replace(result, metrics={}, confidence=None)


def _percents(
    names: Sequence[str], metrics: Mapping[str, float], confidence: float | None, form: str = ".2f"
) -> tuple[str, ...]:
    cells = [format(100 * metrics[name], form) if name in metrics else "-" for name in names]
    return (*cells, "-" if confidence is None else f"{100 * confidence:.1f}")
