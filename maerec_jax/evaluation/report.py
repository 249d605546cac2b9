"""A report that people look at: one HTML page with the table, charts, and the worst errors with their pictures."""

import base64
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from maerec_jax.evaluation.predictions import Prediction
from maerec_jax.evaluation.table import Table
from maerec_jax.evaluation.tallies import SIMILAR, Tallies, Tally
from maerec_jax.reading.marking import differing, printable
from maerec_jax.reading.scoring import HEADLINE, METRICS

_PICTURE_SIZE = (256, 128)


def _visible(value: Any) -> str:
    """What an expression of the template gives, before it is escaped: nothing in it is invisible."""
    return value if isinstance(value, Markup) else printable(str(value))


def _shortened(path: str, most: int) -> str:
    """A path of at most ``most`` characters: its first folder and its end, where the whole is longer."""
    if len(path) <= most:
        return path
    first, *rest = path.split("/")
    for start in range(1, len(rest)):
        if len(short := "/".join([first, "…", *rest[start:]])) <= most:
            return short
    return f"{path[: most // 3]}…{path[1 - most + most // 3 :]}"


def _trimmed(bins: Sequence[Tally]) -> Sequence[Tally]:
    """Without the empty bins at both ends."""
    filled = [place for place, tally in enumerate(bins) if tally.words]
    return bins[filled[0] : filled[-1] + 1] if filled else []


def _data_uri(image: np.ndarray) -> str:
    """A small JPEG of uint8 RGB ``(height, width, 3)``."""
    small = Image.fromarray(image).convert("RGB")
    small.thumbnail(_PICTURE_SIZE)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=75)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


_PAGES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    finalize=_visible,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_PAGES.globals |= {"similar": SIMILAR, "differing": differing}
_PAGES.filters |= {
    "alone": lambda character: "\u2423" if character == " " else character,
    "data_uri": _data_uri,
    "shortened": _shortened,
    "percent": lambda share: f"{100 * share:.1f}",
    "thousands": lambda number: f"{number:,}",
    "trimmed": _trimmed,
}


def write_report(
    path: Path,
    title: str,
    details: Mapping[str, str],
    table: Table,
    predictions: Iterable[Prediction],
    picture: Callable[[Prediction], np.ndarray | None],
) -> None:
    """Write a page that needs nothing but itself: no network, scripts or fonts.

    Predictions are taken one by one, and of them only counts and the worst errors are kept. Right is what is right by
    ``table.judged_by``. ``title`` says what was measured, and ``details`` how. ``picture`` gives the images of
    the worst errors, uint8 RGB ``(height, width, 3)``, or None where there is none to show.
    """
    shown: dict[str, Any] = {"title": title, "details": details, "table": table, "picture": picture}
    shown |= {"judged_by": table.judged_by, "metric": METRICS[table.judged_by], "paper": table.judged_by == HEADLINE}
    unscored = {result.name for result in table.sets if not result.scored}
    shown["tallies"] = tallies = Tallies(predictions, len(table.sets), table.judged_by, unscored)
    shown["worst"] = tallies.worst
    shown["words"] = words = sum(result.words for result in table.scored)
    shown["accuracy"] = sum(r.words * r.metrics[table.judged_by] for r in table.scored) / max(words, 1)
    page = _PAGES.get_template("report.html").render(shown)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
