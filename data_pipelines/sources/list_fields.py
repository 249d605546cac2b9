"""Which fields of a record hold the name of an image and its label: in JSON, in tables, and in Label Studio's tasks."""

import csv
import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

from data_pipelines.sources.list_lines import is_image_name

IMAGE_FIELDS = ("filename", "file_name", "img_path", "image_path", "image", "img", "path")
"""Fields of JSON records, and columns of tables, that are understood as the name of the image."""

TEXT_FIELDS = ("text", "label", "transcription", "gt")
"""Fields and columns that are understood as the label."""

_KNOWN = frozenset((*IMAGE_FIELDS, *TEXT_FIELDS))
_SERVER = re.compile(r"/data/(?:upload/\d+/|local-files/\?d=)")  # what Label Studio puts before names


class Fields:
    """Which fields hold the name of the image and the label: as set, or else as the first record tells."""

    def __init__(self, image: str, text: str) -> None:
        self._image, self._text = image, text

    def has_image(self, record: dict) -> bool:
        """Whether a record has the field of the image."""
        return self._image in record if self._image else any(field in record for field in IMAGE_FIELDS)

    def table_of(self, header: str) -> "Table":
        """The table with a header. Raises ``ValueError`` for one that does not name a column of each."""
        images = {self._image} if self._image else set(IMAGE_FIELDS)
        texts = {self._text} if self._text else set(TEXT_FIELDS)
        for separator in filter(header.__contains__, "\t,;"):
            with suppress(ValueError):
                table = Table(header, separator)
                if images.intersection(table.columns) and texts.intersection(table.columns):
                    return table
        raise ValueError("names no column of images and one of labels: set image_field and text_field")

    def read(self, record: object) -> tuple[object, object]:
        """Name and label of a record. Raises ``TypeError`` or ``ValueError`` for one without them."""
        if not isinstance(record, dict):
            raise TypeError("is not a JSON object")
        if "data" in record and "annotations" in record:
            return _read_task(record)
        image = self._image or self._only(record, IMAGE_FIELDS, "image_field")
        text = self._text or self._only(record, TEXT_FIELDS, "text_field")
        for field in (image, text):
            if field not in record:
                raise ValueError(f"has no {field!r} but {quoted(record)}")
        self._image, self._text = image, text
        return record[image], record[text]

    @staticmethod
    def _only(record: dict, fields: tuple[str, ...], setting: str) -> str:
        found = [field for field in fields if field in record]
        if not found:
            raise ValueError(f"has none of the fields {quoted(fields)} but {quoted(record)}: set {setting}")
        if len(found) > 1:
            raise ValueError(f"has the fields {quoted(found)}: set {setting}")
        return found[0]


def quoted(fields: Iterable[object]) -> str:
    """The first names of fields, for messages."""
    return ", ".join(repr(str(field)[:40]) for field in list(fields)[:10]) or "none"


class Table:
    """Rows of text by the header of a table.

    Args:
      header: its first line. Known names of columns count in any case.
      separator: what stands between columns.

    Raises ``ValueError`` where the header is no row.
    """

    def __init__(self, header: str, separator: str) -> None:
        self._separator = separator
        names = [name.strip() for name in self._cells(header)]
        self.columns = [name.lower() if name.lower() in _KNOWN else name for name in names]

    def record(self, line: str) -> dict[str, str]:
        """A row by the names of its columns. Raises ``ValueError`` where it has more or fewer than the header."""
        cells = self._cells(line)
        if len(cells) != len(self.columns):
            quote = f": quote cells that hold {self._separator!r}" if self._separator != "\t" else ""
            raise ValueError(f"has {len(cells)} columns where the header has {len(self.columns)}{quote}")
        return dict(zip(self.columns, cells, strict=True))

    def _cells(self, line: str) -> list[str]:
        # In other lists with tabs there is no quoting either.
        quoting: Any = csv.QUOTE_NONE if self._separator == "\t" else csv.QUOTE_MINIMAL
        try:
            return next(csv.reader([line.rstrip("\r\n")], delimiter=self._separator, quoting=quoting, strict=True))
        except (csv.Error, StopIteration) as error:
            raise ValueError(f"is not a row of a table ({error or 'empty'})") from error


def without_server(name: str) -> str:
    """The name of an image without what Label Studio's server puts before it."""
    found = _SERVER.match(name)
    return unquote(name[found.end() :]) if found else name


def _read_task(task: dict) -> tuple[str, str]:
    """The image of a task of Label Studio, and the text that was typed for it."""
    try:
        images = [value for value in task["data"].values() if isinstance(value, str) and is_image_name(value)]
        results = [result for annotation in task["annotations"] for result in annotation["result"]]
        texts = [text for result in results if result["type"] == "textarea" for text in result["value"]["text"]]
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError("is not a task of Label Studio of a known form") from error
    if len(images) != 1 or len(texts) != 1:
        found = f"{len(images)} images and {len(texts)} texts"
        raise ValueError(f"is a task of Label Studio with {found}; a word image has one of each")
    return images[0], texts[0]
