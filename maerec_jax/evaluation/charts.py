"""Charts of a report as inline SVG: no scripts, colours from the page, and text that screen readers can read.

They are 420 units wide, so that their text can still be read on a phone.
"""

from collections.abc import Callable, Sequence
from html import escape

from maerec_jax.evaluation.tallies import CalibrationBin, Confusions, Tally
from maerec_jax.reading.marking import one_character, printable

_WIDTH = 420
_ROW = 22
_TICKS = (0, 25, 50, 75, 100)


def shown(text: str) -> str:
    """``text`` for HTML, in elements and attributes: nothing in it is markup, and nothing is invisible."""
    return escape(printable(text))


def accuracy_bars(name: str, title: str, rows: Sequence[tuple[str, Tally]], bins: str, metric: str) -> str:
    """Accuracies of bins as bars with 95 % intervals, and how many words each has.

    Args:
      name: an identifier that no other chart of the page has.
      title: what is shown.
      rows: a label and a tally for each bin.
      bins: what the labels are, with its unit.
      metric: what the accuracy is called.
    """
    left, right, top = 74, 300, 30
    bottom = top + _ROW * len(rows)
    x = _scale(left, right)
    parts = [_grid(x, top, bottom), _text(0, 18, bins, "label"), _text(_WIDTH, 18, "words", "end label")]
    for place, (label, tally) in enumerate(rows):
        y = top + _ROW * place
        middle = y + _ROW / 2
        parts.append(_text(left - 8, middle + 4, label, "end"))
        parts.append(_text(_WIDTH, middle + 4, f"{tally.words:,}", "end quiet"))
        if tally.words:
            low, high = tally.bounds()
            parts.append(_box(left, y + 4, x(tally.accuracy) - left, _ROW - 8, "bar"))
            parts.append(_line(x(low), middle, x(high), middle, "whisker"))
            parts.append(_text(right + 8, middle + 4, f"{100 * tally.accuracy:.1f}"))
    parts += [_text(x(tick / 100), bottom + 16, str(tick), "middle quiet") for tick in _TICKS]
    parts.append(_text((left + right) / 2, bottom + 34, f"{metric} (%)", "middle label"))
    told = "; ".join(f"{label}: {100 * t.accuracy:.1f} % of {t.words:,}" for label, t in rows if t.words)
    return _svg(name, title, f"{metric} by {bins}. {told}.", bottom + 42, parts)


def reliability(name: str, title: str, bins: Sequence[CalibrationBin], metric: str) -> str:
    """Accuracy over confidence, and below how the words are spread over confidence.

    Args:
      name: an identifier that no other chart of the page has.
      title: what is shown.
      bins: words of equal ranges of confidence from 0 to 1.
      metric: what the accuracy is called.
    """
    left, right, top, bottom, base = 56, 410, 14, 274, 352
    x, y, height = _scale(left, right), _scale(bottom, top), base - bottom - 24
    total = max(sum(one.words for one in bins), 1)
    most = max(max(one.words for one in bins) / total, 1e-9)
    parts = [_grid(x, top, bottom), *(_line(left, y(t / 100), right, y(t / 100), "grid") for t in _TICKS)]
    parts.append(_line(left, bottom, right, top, "ideal"))
    filled = [one for one in bins if one.words]
    for one in filled:
        low, high = one.bounds()
        radius = 2 + 5 * (one.words / total / most) ** 0.5
        parts.append(_line(x(one.confidence), y(low), x(one.confidence), y(high), "whisker"))
        place = f'cx="{x(one.confidence):.1f}" cy="{y(one.accuracy):.1f}" r="{radius:.1f}"'
        parts.append(f'<circle class="point" {place}/>')
    for number, one in enumerate(bins):
        start, end = (x(edge / len(bins)) for edge in (number, number + 1))
        size = height * one.words / total / most
        parts.append(_box(start + 1, base - size, end - start - 2, size, "bar"))
    parts.append(_line(left, base, right, base, "axis"))
    parts += [_text(left - 8, y(tick / 100) + 4, str(tick), "end quiet") for tick in _TICKS]
    parts += [_text(x(tick / 100), base + 16, str(tick), "middle quiet") for tick in _TICKS]
    parts.append(_text(left - 8, base - height + 8, f"{100 * most:.0f}", "end quiet"))
    parts.append(_text(left - 8, base + 1, "0", "end quiet"))
    parts.append(_text((left + right) / 2, base + 34, "confidence (%)", "middle label"))
    for middle, label in (((top + bottom) / 2, f"{metric} (%)"), (base - height / 2, "words (%)")):
        parts.append(f'<g transform="translate(14 {middle:.0f}) rotate(-90)">{_text(0, 0, label, "middle label")}</g>')
    told = "; ".join(
        f"confidence {100 * one.confidence:.1f} %, {metric} {100 * one.accuracy:.1f} %, {one.words:,} words"
        for one in filled
    )
    return _svg(name, title, f"The dashed line is where confidence equals accuracy. {told}.", base + 42, parts)


def heat_map(name: str, title: str, confusions: Confusions, characters: Sequence[str]) -> str:
    """How often each of some characters was read as another, missed or added.

    Args:
      name: an identifier that no other chart of the page has.
      title: what is shown.
      confusions: the counts.
      characters: which characters.
    """
    rows, columns = [*characters, ""], [*characters, ""]
    left, top = 52, 62
    size = (_WIDTH - left) / len(columns)
    most = max((confusions.pairs[row, column] for row in rows for column in columns), default=0)
    middle = left + size * len(columns) / 2
    parts = [_text(middle, 16, "read as", "middle label"), _text(0, top - 8, "truth", "label")]
    for place, column in enumerate(columns):
        x = left + size * (place + 0.5)
        if column:
            parts.append(_text(x, top - 8, one_character(column), "middle mono"))
        else:
            parts.append(f'<g transform="translate({x + 4:.1f} {top - 8}) rotate(-90)">{_text(0, 0, "missed")}</g>')
    for i, row in enumerate(rows):
        y = top + size * i
        parts.append(_text(left - 8, y + size / 2 + 4, one_character(row) or "added", "end mono" if row else "end"))
        for j, column in enumerate(columns):
            count = confusions.pairs[row, column]
            parts.append(_box(left + size * j, y, size - 1, size - 1, "same" if row == column else "cell"))
            if not count:
                continue
            share = f" of {confusions.occurrences[row]:,}" if row else ""
            told = f"{one_character(row) or 'added'} → {one_character(column) or 'missed'}: {count:,}{share}"
            strong = count / most
            parts.append(f"<g><title>{escape(told)}</title>")
            parts.append(_box(left + size * j, y, size - 1, size - 1, "heat", strong))
            if len(digits := f"{count}") * 5.5 < size:
                kind = "middle count strong" if strong > 0.5 else "middle count"
                parts.append(_text(left + size * (j + 0.5), y + size / 2 + 3, digits, kind))
            parts.append("</g>")
    bottom = top + size * len(rows) + 16
    for place in range(20):
        parts.append(_box(left + 6 * place, bottom, 6, 10, "heat", place / 19))
    parts.append(_text(left + 128, bottom + 9, f"1 to {most:,} times", "quiet"))
    commonest = [(pair, count) for pair, count in confusions.pairs.most_common(10) if set(pair) <= set(rows)]
    told = "; ".join(
        f"{one_character(r) or 'added'} as {one_character(c) or 'missed'} {count:,} times"
        for (r, c), count in commonest
    )
    return _svg(name, title, f"Rows are characters of the truth. {told}.", bottom + 14, parts)


def _scale(start: float, end: float) -> Callable[[float], float]:
    """Where a share of 1 lies between two places."""
    return lambda share: start + share * (end - start)


def _svg(name: str, title: str, description: str, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg role="img" viewBox="0 0 {_WIDTH} {height:.0f}" aria-labelledby="{name}-title {name}-text">'
        f'<title id="{name}-title">{shown(title)}</title><desc id="{name}-text">{shown(description)}</desc>'
        f"{''.join(parts)}</svg>"
    )


def _grid(x: Callable[[float], float], top: float, bottom: float) -> str:
    return "".join(_line(x(tick / 100), top, x(tick / 100), bottom, "axis" if tick == 0 else "grid") for tick in _TICKS)


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _box(x: float, y: float, width: float, height: float, kind: str, strength: float | None = None) -> str:
    """A rectangle; ``strength``, 0 to 1, is that of its colour, where even the weakest can be seen."""
    opacity = "" if strength is None else f' fill-opacity="{0.12 + 0.88 * strength:.2f}"'
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"{opacity}/>'


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
