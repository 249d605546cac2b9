"""The paper's table of several models: a row each, and below it what was published of the same kind of model."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from textwrap import wrap
from typing import Any

from rich.box import SIMPLE
from rich.console import Group as Parts
from rich.console import RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from data_pipelines.errors import UserError
from maerec_jax.evaluation.comparison import LEVEL
from maerec_jax.evaluation.groups import SECTIONS, WORD_SETS
from maerec_jax.evaluation.measured_model import Compared, MeasuredModel, Number
from maerec_jax.evaluation.table import COLUMNS, csv_of
from maerec_jax.reading.marking import printable
from maerec_jax.reading.scoring import HEADLINE, METRICS

_WIDTH = 80
_LABEL = 15  # columns for a model's name: at least so many, or a block becomes two
_ORDER = ("common benchmarks", "Union14M-Benchmark", "Incomplete", "other sets")
assert set(_ORDER) == set(SECTIONS)


@dataclass(frozen=True)
class ModelsTable:
    """Models that were measured on the same sets, in the order of their rows."""

    models: tuple[MeasuredModel, ...]

    def __post_init__(self) -> None:
        for model in self.models:
            first = self.models[0].numbers
            for name in first.keys() ^ model.numbers.keys():
                has, lacks = (self.models[0], model) if name in first else (model, self.models[0])
                raise UserError(
                    f"{has.name} has a score for {name}, but {lacks.name} could use none of the images: measure both "
                    "on the same images"
                )
            if any(number.metric != first.get(name, number).metric for name, number in model.numbers.items()):
                raise UserError(
                    f"{model.name} and {self.models[0].name}: the older of their tables does not tell which labels "
                    f"have letters that do not count in {METRICS[HEADLINE]}: measure that model again"
                )

    @cached_property
    def comparisons(self) -> list[tuple[str, Compared]]:
        """All numbers that stand beside published ones, with the names of their models."""
        return [(model.name, compared) for model in self.models for compared in model.comparisons]

    def to_dict(self) -> dict[str, Any]:
        """All of it for JSON, in fractions of 1: each model's table, and each comparison with a published number."""
        models: dict[str, Any] = {}
        for model in self.models:
            about = {"title": model.title, "kind": model.kind, "parameters": model.parameters}
            models[model.name] = about | {"settings": dict(model.settings)} | model.table.to_dict()
        comparisons = []
        for name, compared in self.comparisons:
            number, published = compared.number, compared.published
            measured = {"measured": number.value, "low": number.low, "high": number.high}
            of = {"model": name, "variant": published.variant, "source": published.source, "name": number.name}
            comparisons.append(of | measured | {"published": compared.expected, "differs": compared.differs})
        return {"judged_by": HEADLINE, "level": LEVEL, "models": models, "comparisons": comparisons}

    def to_csv(self) -> str:
        """A line for each set and average of each model, and for each published number that it is compared with."""
        rows: list[dict[str, Any]] = []
        for model in self.models:
            rows += [row | {"model": model.name, "source": "measured"} for row in model.table.rows()]
            for compared in model.comparisons:
                about = {"model": model.name, "source": compared.published.source, "coverage": "complete"}
                number = {name: asdict(compared.number)[name] for name in ("kind", "name", "words")}
                rows.append(about | number | {HEADLINE: round(compared.expected, 6)})
        return csv_of(("model", "source", *COLUMNS), rows)

    def to_rich(self) -> RenderableType:
        """For a terminal of 80 columns, in %: a block for each part of the table, and remarks in words."""
        blocks = [part for title, numbers in self._blocks() for part in (self._block(title, numbers), Text())]
        return Parts(*blocks, Text("\n".join(printable(remark) for remark in self.remarks())))

    def remarks(self) -> list[str]:
        """Which numbers differ from published ones, and what else is to be known."""
        remarks = [*self._differing(), *self._without()]
        remarks += [f"{model.name}: read with {model.how}." for model in self.models if model.how]
        # The same for models of the same sets: once is enough.
        return remarks + list(dict.fromkeys(remark for model in self.models for remark in model.table.remarks()))

    def _differing(self) -> Iterator[str]:
        """Which numbers differ from published ones, in a sentence for each model and publication."""
        if not self.comparisons:
            return
        yield "Indented rows are published results on the same images."
        differing = [(name, compared) for name, compared in self.comparisons if compared.differs]
        if not differing:
            yield f"All {len(self.comparisons)} published numbers are within the {LEVEL:.0%} intervals of the measured."
            return
        yield (
            f"{len(differing)} of {len(self.comparisons)} published numbers (*) are outside the {LEVEL:.0%} interval "
            "of the measured one. A measured number with a star fits none of those below it."
        )
        for (name, published), some in groupby(differing, lambda each: (each[0], each[1].published)):
            numbers = "; ".join(str(compared) for _, compared in some)
            yield f"- {name} and {published.variant} ({published.source}): {numbers}."

    def _without(self) -> Iterator[str]:
        """What is not compared with published numbers, and why."""
        for model in self.models:
            if model.alone_because:
                yield f"{model.name}: no published results beside it, because {model.alone_because}."
        if any(model.published for model in self.models):
            known = {name for model in self.models for result in model.published for name in result.accuracies}
            other = {r.name: r for r in self.models[0].table.sets if r.name in known and r.words != r.published_words}
            if other:
                parts = ", ".join(f"{name} ({r.words:,}, not {r.published_words:,})" for name, r in other.items())
                yield f"Not compared, because published numbers are of other numbers of words: {parts}."

    def _blocks(self) -> Iterator[tuple[str, list[Number]]]:
        """Numbers that stand side by side, and the title above them; a part that is too wide is divided."""
        numbers = self.models[0].numbers.values()
        for title in _ORDER:
            block, width = list[Number](), _LABEL
            for number in (number for number in numbers if number.section == title):
                if block and width + 1 + self._width(number) > _WIDTH:
                    yield title, block
                    block, width = [], _LABEL
                block.append(number)
                width += 1 + self._width(number)
            if block:
                yield title, block

    def _width(self, number: Number) -> int:
        """How wide its column is."""
        return max(6, *map(len, [*_heading(number), _words(number)]))

    def _block(self, title: str, numbers: Sequence[Number]) -> RichTable:
        widths = [self._width(number) for number in numbers]
        rest = _WIDTH - sum(widths) - len(widths)
        shown = RichTable(box=SIMPLE, padding=0, pad_edge=False, show_edge=False, title_justify="left")
        shown.title = Text(f"{title}, {METRICS[numbers[0].metric]} in %")
        shown.add_column("model", no_wrap=True)
        for number, width in zip(numbers, widths, strict=True):
            shown.add_column(Text("\n".join(line.rjust(width) for line in _heading(number))), no_wrap=True)

        def add(label: str, cells: Iterable[str], style: str = "", indent: str = "") -> None:
            lines = wrap(printable(label), rest, initial_indent=indent, subsequent_indent=2 * indent)
            texts = [Text(cell.rjust(width)) for cell, width in zip(cells, widths, strict=True)]
            for text in texts:
                text.highlight_regex(r"\S+\*", "bold yellow")
            shown.add_row(Text("\n".join(lines)), *texts, style=style)

        add("words", map(_words, numbers), "dim")
        for model in self.models:
            own = [model.numbers[number.name] for number in numbers]
            compared = model.comparisons
            fitting = {each.number for each in compared if not each.differs}
            unlike = {each.number for each in compared} - fitting
            add(model.name, (_cell(n.value, n, 2, n in unlike) for n in own))
            for source in dict.fromkeys(each.published.source for each in compared if each.number in own):
                there = {each.number: each for each in compared if each.published.source == source}
                add(source, (_published_cell(n, there.get(n)) for n in own), "dim", " ")
        return shown


def is_models_table(path: Path) -> bool:
    """Whether a file holds what ``ModelsTable.to_dict`` made."""
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(data, dict) and data.keys() >= {"models", "comparisons"}


def _heading(number: Number) -> list[str]:
    """Its name in short lines."""
    if number.kind != "set":
        return number.label.replace(" (", "\n(").replace(", ", ",\n").replace(" + ", " +\n").split("\n")
    if number.name in WORD_SETS:
        return number.name.replace("_", "_\n").replace("contextless", "context-\nless").split("\n")
    return wrap(printable(number.name), 12)


def _words(number: Number) -> str:
    return f"{number.words:,}" if number.kind == "set" else ""


def _cell(value: float, number: Number, digits: int, marked: bool) -> str:
    """A number with its mark, and blanks for what it lacks, so that points are below each other."""
    sign = "+" if number.kind == "margin" else ""
    return f"{100 * value:{sign}.{digits}f}" + ("*" if marked else " ") + " " * (2 - digits)


def _published_cell(number: Number, compared: Compared | None) -> str:
    if compared is None:
        return "-   "
    return _cell(compared.expected, number, compared.published.digits, compared.differs)
