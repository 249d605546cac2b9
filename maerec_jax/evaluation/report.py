"""A report that people look at: one HTML page with the table, charts, and the worst errors with their pictures."""

import base64
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from maerec_jax.evaluation.charts import accuracy_bars, heat_map, reliability, shown
from maerec_jax.evaluation.predictions import Prediction
from maerec_jax.evaluation.style import STYLE
from maerec_jax.evaluation.table import HEADINGS, Table
from maerec_jax.evaluation.tallies import ASPECTS, CONFIDENCE_BINS, LENGTHS, SIMILAR, Confusions, Tallies, Tally
from maerec_jax.reading.marking import Span, differing, one_character
from maerec_jax.reading.scoring import HEADLINE, METRICS

Picture = Callable[[Prediction], np.ndarray | None]
"""The image of a prediction, uint8 RGB ``(height, width, 3)``, or None where there is none to show."""

_METRIC = METRICS[HEADLINE]
_PICTURE_SIZE = (256, 128)
_IN_HEAT_MAP = 16
_IN_LISTS = 12
# Nothing may be loaded or run, whatever stands in labels.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def write_report(
    path: Path,
    title: str,
    details: Mapping[str, str],
    table: Table,
    predictions: Iterable[Prediction],
    picture: Picture = lambda prediction: None,
) -> None:
    """Write a page that needs nothing but itself: no network, scripts or fonts.

    Predictions are taken one by one, and of them only counts and the worst errors are kept. Right is what is right by
    WAICS, the paper's metric.

    Args:
      path: the page, ``.html``; its folder is made.
      title: what was measured.
      details: names and values that say how it was measured.
      table: the table of the predictions.
      predictions: the predictions, in any order, once.
      picture: gives the images of the worst errors, a few hundred at most.
    """
    tallies = Tallies(predictions, len(table.sets))
    page = "".join(
        (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{shown(title)}</title><style>{STYLE}</style></head><body>\n",
            f"<header><h1>{shown(title)}</h1>{_tiles(table, tallies)}{_details(details)}</header>\n<main>",
            _table(table),
            _charts(tallies),
            _confusions(tallies.confusions),
            _errors(table, tallies, picture),
            _unusable(table, tallies.unusable),
            "</main></body></html>\n",
        )
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8", errors="backslashreplace")


def _tiles(table: Table, tallies: Tallies) -> str:
    words = sum(result.words for result in table.sets)
    right = sum(result.words * result.metrics[HEADLINE] for result in table.sets)
    tiles = [(f"{words:,}", "words", ""), (f"{100 * right / max(words, 1):.1f} %", f"{_METRIC} of all words", "")]
    for average in table.averages:
        if average.group.kind == "mean":
            kind = "" if average.group.published else "partial"
            value = f"{100 * average.metrics[HEADLINE]:.2f} %"
            tiles.append((value, f"{_METRIC}, {average.group.over}: {average.group.label}", kind))
    tiles.append((f"{100 * tallies.calibration_error:.1f}", "expected calibration error (points)", ""))
    items = (f'<li class="{kind}"><b>{shown(value)}</b><span>{shown(name)}</span></li>' for value, name, kind in tiles)
    return f'<ul class="tiles">{"".join(items)}</ul>'


def _details(details: Mapping[str, str]) -> str:
    entries = (f"<dt>{shown(name)}</dt><dd>{shown(value)}</dd>" for name, value in details.items())
    return f'<dl class="about">{"".join(entries)}</dl>'


def _table(table: Table) -> str:
    shows_unusable = any(result.unusable for result in table.sets)
    headings = ("words", *(("unusable",) if shows_unusable else ()), *HEADINGS)
    bodies = []
    for section in table.sections():
        rows = []
        for line in section:
            cells = (line.words, *((line.unusable,) if shows_unusable else ()), *line.values)
            rows.append(f'<tr class="{line.kind}"><th scope="row">{shown(line.label)}</th>{_cells(cells)}</tr>')
        bodies.append(f"<tbody>{''.join(rows)}</tbody>")
    head = "".join(f'<th scope="col">{heading}</th>' for heading in ("set", *headings))
    remarks = "".join(f"<p>{shown(remark)}</p>" for remark in table.remarks())
    return (
        f'<h2>Accuracy (%)</h2><div class="wide"><table><thead><tr>{head}</tr></thead>{"".join(bodies)}</table></div>'
        f'<div class="remarks">{remarks}<p>{_METRIC} is the metric of the paper: word accuracy ignoring case and '
        "symbols. On this page a word is right if it is right by it.</p></div>"
    )


def _cells(cells: Iterable[str]) -> str:
    return "".join(f"<td>{shown(cell)}</td>" for cell in cells)


def _charts(tallies: Tallies) -> str:
    lengths = _trimmed(list(zip(_ranges(LENGTHS), tallies.lengths, strict=True)))
    aspects = _trimmed(list(zip(_bounds(ASPECTS), tallies.aspects, strict=True)))
    calibration = [(f"{10 * i} to {10 * (i + 1)} %", one) for i, one in enumerate(tallies.calibration)]
    assert len(calibration) == CONFIDENCE_BINS
    about_confidence = (
        f"Expected calibration error {100 * tallies.calibration_error:.1f} points: how far {_METRIC} and confidence "
        "are apart, averaged over bins by their words. Confidence is the mean probability of a word's characters. "
        "Images that could not be used are left out."
    )
    figures = (
        ("lengths", "Accuracy by length", lengths, "characters", "Length of the truth."),
        ("aspects", "Accuracy by shape", aspects, "width/height", "Below 1 the image is higher than wide."),
    )
    parts = ["<h2>Where it reads well</h2>", '<div class="charts">']
    for name, title, rows, bins, note in figures:
        if rows:
            svg = accuracy_bars(name, title, rows, bins, _METRIC)
            parts.append(_figure(title, svg, f"{note} Lines are 95 % intervals.", rows, bins))
    svg = reliability("calibration", "Calibration", tallies.calibration, _METRIC)
    parts.append(_figure("Calibration", svg, about_confidence, calibration, "confidence"))
    return "".join((*parts, "</div>"))


def _figure(title: str, svg: str, caption: str, rows: Sequence[tuple[str, Tally]], bins: str) -> str:
    """A chart with its numbers as a table."""
    lines = "".join(
        f'<tr><th scope="row">{shown(label)}</th>'
        + _cells((f"{tally.words:,}", f"{100 * tally.accuracy:.2f}" if tally.words else "-"))
        + "</tr>"
        for label, tally in rows
    )
    head = "".join(f'<th scope="col">{shown(heading)}</th>' for heading in (bins, "words", f"{_METRIC} (%)"))
    return (
        f'<figure class="card"><h3>{shown(title)}</h3>{svg}<figcaption>{shown(caption)}</figcaption>'
        f"<details><summary>Numbers</summary><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></details>"
        "</figure>"
    )


def _trimmed(rows: list[tuple[str, Tally]]) -> list[tuple[str, Tally]]:
    """Without the empty bins at both ends."""
    filled = [place for place, (_, tally) in enumerate(rows) if tally.words]
    return rows[filled[0] : filled[-1] + 1] if filled else []


def _ranges(starts: Sequence[int]) -> list[str]:
    """Labels of bins of whole numbers."""
    labels = [str(a) if a + 1 == b else f"{a}\u2013{b - 1}" for a, b in pairwise(starts)]
    return [*labels, f"{starts[-1]} or more"]


def _bounds(starts: Sequence[float]) -> list[str]:
    """Labels of bins of numbers, the first of which begins at 0."""
    middle = [f"{a:g} to {b:g}" for a, b in pairwise(starts[1:])]
    return [f"below {starts[1]:g}", *middle, f"{starts[-1]:g} or more"]


def _confusions(confusions: Confusions) -> str:
    note = (
        f"Case is ignored. Compared are the characters of {confusions.words:,} words; {confusions.left_out:,} readings "
        f"with less than {SIMILAR:.0%} in common with the truth are left out: single characters of them say nothing."
    )
    heading = f'<h2>Confused characters</h2><p class="quiet">{note}</p>'
    if not confusions.pairs:
        return f"{heading}<p>None.</p>"
    involved: dict[str, int] = {}
    for pair, count in confusions.pairs.items():
        for character in pair:
            involved[character] = involved.get(character, 0) + count
    involved.pop("", None)
    most = sorted(sorted(involved, key=lambda character: (-involved[character], character))[:_IN_HEAT_MAP])
    svg = heat_map("confusions", "The most confused characters", confusions, most)
    lists: tuple[tuple[str, tuple[str, ...], list[tuple[str, str]]], ...] = (
        ("Read as another", ("truth", "read as"), [pair for pair in confusions.pairs if all(pair)]),
        ("Missed", ("truth",), [pair for pair in confusions.pairs if not pair[1]]),
        ("Added", ("read",), [pair for pair in confusions.pairs if not pair[0]]),
    )
    tables = "".join(_commonest(name, heads, pairs, confusions) for name, heads, pairs in lists if pairs)
    return (
        f'{heading}<div class="charts"><figure class="card"><h3>The most confused characters</h3>{svg}'
        "<figcaption>How often a character of the truth (row) was read as another (column), missed or added."
        '</figcaption></figure><section class="card"><h3>The commonest</h3>'
        f'<div class="lists">{tables}</div></section></div>'
    )


def _commonest(title: str, headings: Sequence[str], pairs: list[tuple[str, str]], confusions: Confusions) -> str:
    """The commonest of some confusions, with how often and in what share of the character's occurrences."""
    pairs = sorted(pairs, key=lambda pair: (-confusions.pairs[pair], pair))[:_IN_LISTS]
    rows = []
    for pair in pairs:
        count, of = confusions.pairs[pair], confusions.occurrences[pair[0]]
        characters = "".join(
            f'<td class="mono">{shown(one_character(character))}</td>' for character in pair if character
        )
        share = f"<td>{100 * count / of:.1f} %</td>" if of else ""
        rows.append(f"<tr>{characters}<td>{count:,}</td>{share}</tr>")
    shares = () if not pairs[0][0] else ("of it",)
    head = "".join(f'<th scope="col">{heading}</th>' for heading in (*headings, "times", *shares))
    return f"<table><caption>{title}</caption><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _errors(table: Table, tallies: Tallies, picture: Picture) -> str:
    kept = tallies.worst
    parts = [
        '<h2>Worst errors</h2><p class="quiet">Wrong readings with the highest confidence of each set, '
        f"{sum(map(len, kept.values())):,} of {tallies.wrong:,}. Marked are the characters that differ, case ignored. "
        f"Of the words that are right, {tallies.case_only:,} differ in case only and {tallies.symbols_only:,} in "
        "symbols.</p>"
    ]
    for result in table.sets:
        if worst := kept.get(result.name):
            cards = "".join(_card(prediction, picture(prediction)) for prediction in worst)
            parts.append(f'<h3>{shown(result.name)}</h3><div class="errors">{cards}</div>')
    return "".join(parts)


def _card(prediction: Prediction, image: np.ndarray | None) -> str:
    truth, reading = differing(prediction.truth, prediction.reading)
    if image is None:
        seen = '<div class="none">no picture</div>'
    else:
        seen = f'<img loading="lazy" src="{_data_uri(image)}" alt="{shown(f"Image of the word {prediction.truth}")}">'
    return (
        f'<figure class="card">{seen}<dl class="pair"><dt>truth</dt><dd class="text">{_marked(truth)}</dd>'
        f'<dt>read</dt><dd class="text reading">{_marked(reading)}</dd></dl>'
        f"<figcaption>{100 * prediction.confidence:.1f} % sure · {shown(prediction.file)}</figcaption></figure>"
    )


def _marked(spans: Sequence[Span]) -> str:
    if not spans:
        return '<span class="quiet">nothing</span>'
    return "".join(f"<mark>{shown(text)}</mark>" if differs else shown(text) for text, differs in spans)


def _data_uri(image: np.ndarray) -> str:
    """A small JPEG of uint8 RGB ``(height, width, 3)``."""
    small = Image.fromarray(image).convert("RGB")
    small.thumbnail(_PICTURE_SIZE)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=75)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _unusable(table: Table, some: list[Prediction]) -> str:
    total = sum(result.unusable for result in table.sets)
    if not total:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{shown(p.set)}</th><td class="file">{shown(p.file)}</td>'
        f"{_cells((p.outcome, p.truth))}</tr>"
        for p in some
    )
    more = f"<p>and {total - len(some):,} more</p>" if total > len(some) else ""
    head = "".join(f'<th scope="col">{heading}</th>' for heading in ("set", "file", "what is wrong", "truth"))
    return (
        f'<h2>Images that could not be used: {total:,}</h2><div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{more}"
    )
