"""What recognisers read: a line for each image, as ``evaluate --predictions``, ``read --format jsonl`` and others write
it."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from data_pipelines.charset import composed
from data_pipelines.command import tell
from data_pipelines.construct.matched_lines import MatchedLines
from data_pipelines.construct.records import Span, read_words, spans_of
from data_pipelines.construct.steps import Work
from data_pipelines.errors import DataError
from data_pipelines.sources.list_fields import IMAGE_FIELDS
from data_pipelines.sources.records import OUTCOMES, USED

_OBJECT = TypeAdapter(dict[str, Any])
_PART = 16_384  # words
_NAME_FIELDS = ("file", "id", *IMAGE_FIELDS)
_TEXT_FIELDS = ("reading", "prediction", "pred", "pred_text", "text")  # evaluate's lines have the label as "truth"
# A line of evaluate's, without escapes: of millions, this takes a third of the time of parsing JSON.
_PLAIN = re.compile(
    rb'\{"set": "[^"\\]*", "index": \d+, "file": "([^"\\]*)", "truth": "[^"\\]*", "reading": "([^"\\]*)", '
    rb'"confidence": ([\d.e-]+), "character_confidences": [^"]*"height": \d+, "width": \d+, "outcome": "used"\}\s*'
)
_FORM = '{"file": "...", "reading": "...", "confidence": 0.9}, or name, tab, text'


class Reading(NamedTuple):
    """What one recogniser read in one image."""

    text: str | None
    """Composed (NFC); None where the image could not be read."""
    confidence: float | None
    """0 to 1; None where the file does not tell."""


@dataclass(frozen=True)
class ReadingForm:
    """How the lines of a file tell of readings: by these fields of JSON; by tabs where there are none."""

    name: str
    text: str

    @classmethod
    def of(cls, path: Path) -> "ReadingForm":
        """As the first line of a file tells. Raises ``DataError`` where it tells of no reading."""
        try:
            with path.open("rb") as file:
                first = file.readline()
            if not first.lstrip().startswith(b"{"):
                form = cls("", "")
            else:
                record = _object(first)
                form = cls(*(_first(record, fields) for fields in (_NAME_FIELDS, _TEXT_FIELDS)))
            form(first)
            return form
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise DataError(f"{path}:1: {error}") from error

    def __call__(self, line: bytes) -> tuple[str, Reading]:
        """The name of an image, and what was read in it. Raises ``ValueError`` for a line of another form."""
        if plain := _PLAIN.fullmatch(line):
            name, text, sure = plain.groups()
            return name.decode(), Reading(_composed(text.decode()), float(sure))
        if not self.name:
            name, tab, rest = line.decode().rstrip("\r\n").partition("\t")
            text, _, sure = rest.partition("\t")
            if not tab:
                raise ValueError(f"has no tab; expected {_FORM}")
            return name, Reading(_composed(text), float(sure) if sure else None)
        record = _object(line)
        named, read, confidence = record.get(self.name), record.get(self.text), record.get("confidence")
        if type(named) is not str or type(read) is not str or not isinstance(confidence, float | int | None):
            raise ValueError(f"has no {self.name!r} and {self.text!r} that are texts; expected {_FORM}")
        used = record.get("outcome", OUTCOMES[USED]) == OUTCOMES[USED]
        return named, Reading(_composed(read) if used else None, confidence)


class ReadPart(NamedTuple):
    """Some words of a list, and what recognisers read in them."""

    span: Span
    """The words."""
    readings: tuple[MatchedLines[Reading], ...]
    """The readings of each recogniser."""

    @property
    def lines(self) -> int:
        """How many words there are."""
        return self.span.lines


def read_parts(words: Path, files: Sequence[Path], work: Work) -> list[ReadPart]:
    """A list of words in parts, with the readings in ``files``, which may be in any order.

    Raises ``DataError`` where a list cannot be used. What else is in the files is told.
    """
    spans = spans_of(words, _PART)
    if not spans:
        raise DataError(f"{words}: holds no words")
    first = [next(read_words(span)).filename for span in spans]
    calls = [(path, spans, first, work.folder / f"index-{number}.npy") for number, path in enumerate(files)]
    matched = list(work.results(_match, calls))
    for file in matched:
        if file.others > 0:
            tell(f"{file.path}: {file.others:,} of its lines are about images that {words} has not")
    return [ReadPart(span, tuple(matched)) for span in spans]


def _match(path: Path, spans: list[Span], first: list[str], index: Path) -> MatchedLines[Reading]:
    return MatchedLines.match(path, ReadingForm.of(path), spans, first, index)


def stamps(paths: Iterable[Path]) -> dict[str, list[int]]:
    """Size and time of change of files: a checksum of so much would take longer than a step.

    Raises ``DataError`` for one that is not there.
    """
    try:
        return {str(path): [path.stat().st_size, path.stat().st_mtime_ns] for path in paths}
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from error


def _composed(text: str) -> str:
    return text if text.isascii() else composed(text)


def _first(record: dict[str, Any], fields: tuple[str, ...]) -> str:
    for field in fields:
        if field in record:
            return field
    raise ValueError(f"has none of the fields {', '.join(fields)}; expected {_FORM}")


def _object(line: bytes) -> dict[str, Any]:
    try:
        return _OBJECT.validate_json(line)
    except ValidationError as error:
        raise ValueError(f"{error.errors()[0]['msg']}; expected {_FORM}") from error
