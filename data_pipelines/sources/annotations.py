"""Reading lists of images and their labels: mmocr's annotation files, JSON of other makes, and plain text.

docs/damaged_data.md shows the forms, and what names and labels in them may be.
"""

import json
import re
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

from data_pipelines.errors import DataError, OutsideError
from data_pipelines.packed_strings import PackedStrings, StringPacker
from data_pipelines.sources.json_lists import entries_of
from data_pipelines.sources.records import IMAGE_ENDINGS

Format = Literal["auto", "jsonl", "json", "tab", "space", "names"]
"""How a list is written, see docs/damaged_data.md; "auto" tells it by the file's ending and its first line."""

IMAGE_FIELDS = ("filename", "file_name", "img_path", "image_path", "image", "img", "path")
"""Fields of JSON records that are understood as the name of the image."""

TEXT_FIELDS = ("text", "label", "transcription", "gt")
"""Fields of JSON records that are understood as the label."""

_LONGEST_LINE = 100_000
_REFUSED = (ValueError, KeyError, TypeError, RecursionError, OutsideError)
_FORMS = {
    "jsonl": '{"filename": "...", "text": "..."}',
    "tab": "path, tab, label",
    "space": "path of an image, space, label",
    "names": "the path of an image and nothing else",
}
_ENTRY_FORM = '{"img_path": "...", "instances": [{"text": "..."}]}'
_ELEMENT_FORM = '{"image": "...", "text": "..."}'
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_FIRST_VALUE_IS_TEXT = re.compile(r'\s*\{\s*"(?:[^"\\]|\\.)*"\s*:\s*"')
_JSON_START = re.compile(rb'\s*(\{\s*("|$)|\[\s*([\[{"]|$))')
_ENDING = "(?:" + "|".join(map(re.escape, IMAGE_ENDINGS)) + ")"
_IMAGE_NAME = re.compile(rf".*{_ENDING}\Z", re.IGNORECASE | re.DOTALL)
_NAME_AND_LABEL = re.compile(rf"(.*?{_ENDING}) +(.*)\Z", re.IGNORECASE | re.DOTALL)
_DRIVE = re.compile(r"[A-Za-z]:/")

OnError = Callable[[DataError], None]


class Listing(NamedTuple):
    """What a list holds, in its order."""

    path: Path  # the file
    names: PackedStrings  # names of images
    texts: PackedStrings | None  # their labels; None where the list has none
    entry: str  # where record number {} stands in a JSON document; empty for a file with a record a line


def _raise(error: DataError) -> None:
    raise error


def read_annotations(
    path: Path, on_error: OnError = _raise, format: Format = "auto", image_field: str = "", text_field: str = ""
) -> Listing:
    """Image names and labels of a list, in any of its forms.

    ``image_field`` and ``text_field`` name the fields of JSON records; without them they are those of ``IMAGE_FIELDS``
    and ``TEXT_FIELDS`` that the first record has, which must be one of each. A backslash in a name is read as a slash,
    as Windows writes paths.

    Raises ``DataError`` with the line or entry number for anything else, ``OutsideError`` for a name that leads out of
    its folder (absolute, or with a ``..`` part), and ``OSError`` where the file cannot be read.

    With ``on_error`` reading goes on: it is called with each error but the last kind, and all other records are given,
    of a document that is not valid JSON those before the damage.
    """
    fields, records, entry = _Fields(image_field, text_field), _Records(path, on_error), ""
    try:
        format = _told_format(path, fields) if format == "auto" else format
    except DataError as error:
        on_error(error)
    else:
        if format == "json":
            entry = records.read_document(fields)
        else:
            records.read_lines(format, fields)
    return Listing(path, records.names.finish(), None if format == "names" else records.texts.finish(), entry)


def place_of(path: Path, entry: str, index: int) -> str:
    """Where record ``index`` of a list that was read without error stands: file and line, or file and ``entry``."""
    if entry:
        return f"{path}: {entry.format(index)}"
    seen = -1
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            seen += bool(line.removeprefix(_BYTE_ORDER_MARK).strip())
            if seen == index:
                return f"{path}:{number}"
    return str(path)


def _told_format(path: Path, fields: "_Fields") -> Format:
    """The format that a file's ending and first lines tell. Raises ``DataError`` where they tell none."""
    if path.suffix.lower() == ".mdb":
        raise DataError(f"{path}: is a file of an LMDB; give its folder, {path.parent}")
    with path.open("rb") as file:
        # JSON is often one line, which is not read whole.
        lines = (line.removeprefix(_BYTE_ORDER_MARK) for line in iter(lambda: file.readline(_LONGEST_LINE), b""))
        first, second = [*islice(filter(bytes.strip, lines), 2), b"", b""][:2]
    if path.suffix.lower() == ".jsonl":
        return "jsonl"
    if _JSON_START.match(first) or path.suffix.lower() == ".json":
        record: Any = None
        with suppress(ValueError, RecursionError):
            record = json.loads(first)
        whole = isinstance(record, dict) and "data_list" not in record
        return "jsonl" if whole and (fields.has_image(record) or second.lstrip().startswith(b"{")) else "json"
    line = first.decode("utf-8", errors="replace").rstrip()
    if "\0" not in line:
        if b"\t" in first or not first:
            return "tab"
        if _IMAGE_NAME.match(line):
            return "names"
        if _NAME_AND_LABEL.match(line):
            return "space"
    forms = ", ".join(f"{name} ({form})" for name, form in _FORMS.items())
    problem = f"{path}: its first line {line[:60]!r} has no known format"
    raise DataError(f"{problem}; give an annotation file, or set format to one of {forms}")


class _Fields:
    """Which fields of JSON records hold the name of the image and the label: as set, or as the first record tells."""

    def __init__(self, image: str, text: str) -> None:
        self._image, self._text = image, text

    def has_image(self, record: dict) -> bool:
        return self._image in record if self._image else any(field in record for field in IMAGE_FIELDS)

    def read(self, record: object) -> tuple[object, object]:
        if not isinstance(record, dict):
            raise TypeError("is not a JSON object")
        image = self._image or self._only(record, IMAGE_FIELDS, "image_field")
        text = self._text or self._only(record, TEXT_FIELDS, "text_field")
        for field in (image, text):
            if field not in record:
                raise ValueError(f"has no {field!r} but {_quoted(record)}")
        self._image, self._text = image, text
        return record[image], record[text]

    @staticmethod
    def _only(record: dict, fields: tuple[str, ...], setting: str) -> str:
        found = [field for field in fields if field in record]
        if not found:
            raise ValueError(f"has none of the fields {_quoted(fields)} but {_quoted(record)}: set {setting}")
        if len(found) > 1:
            raise ValueError(f"has the fields {_quoted(found)}: set {setting}")
        return found[0]


def _quoted(fields: dict | list | tuple) -> str:
    return ", ".join(repr(str(field)[:40]) for field in list(fields)[:10]) or "none"


class _Records:
    """The names and labels of a list so far; its errors go to ``on_error``."""

    def __init__(self, path: Path, on_error: OnError) -> None:
        self._path, self._on_error = path, on_error
        self.names, self.texts = StringPacker(), StringPacker()

    def read_lines(self, format: str, fields: _Fields) -> None:
        """Take what a file with a record a line holds."""
        with self._path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                    if not text.strip():
                        continue
                    self._add(*(fields.read(json.loads(text)) if format == "jsonl" else _split(text, format)))
                except _REFUSED as error:
                    self._refuse(f":{number}", error, _FORMS[format])

    def read_document(self, fields: _Fields) -> str:
        """Take what a JSON document holds; returns where in it record number {} stands."""
        # Broken UTF-8 becomes lone surrogates, which the record that holds them is then refused for.
        text = self._path.read_bytes().decode("utf-8-sig", errors="surrogateescape")
        if text.lstrip().startswith("["):
            self._read_entries(text, "[{}]", fields)
            return "[{}]"
        if _FIRST_VALUE_IS_TEXT.match(text) and '"data_list"' not in text:
            self._read_entries(text, "entry {}", None)
            return "entry {}"
        self._read_data_list(text)
        return "data_list[{}]"

    def _read_entries(self, text: str, entry: str, fields: _Fields | None) -> None:
        """A list of records whose ``fields`` are given, or without these an object from names to labels."""
        number, form = -1, '{"path": "label", ...}' if fields is None else f"[{_ELEMENT_FORM}, ...]"
        try:
            for number, (key, value) in enumerate(entries_of(text)):
                try:
                    self._add(*((key, value) if fields is None else fields.read(value)))
                except _REFUSED as error:
                    self._refuse(f": {entry.format(number)}", error, form)
        except json.JSONDecodeError as error:
            self._refuse(f":{error.lineno}", error, form)
        except RecursionError as error:
            self._refuse(f": {entry.format(number + 1)}", error, form)

    def _read_data_list(self, text: str) -> None:
        """A document of mmocr 1.0."""
        taken, form = 0, f'{{"metainfo": ..., "data_list": [{_ENTRY_FORM}, ...]}}'

        def take(record: dict) -> dict | None:
            # Called as soon as an object has been parsed: what is taken here never piles up as Python objects.
            nonlocal taken
            if "img_path" not in record and "instances" not in record:
                return record
            taken += 1
            try:
                (instance,) = record["instances"]
                self._add(record["img_path"], instance["text"])
            except _REFUSED as error:
                self._refuse(f": data_list[{taken - 1}]", error, _ENTRY_FORM)
            return None

        try:
            document = json.loads(text, object_hook=take)
            entries = document.get("data_list") if isinstance(document, dict) else None
            if not isinstance(entries, list):
                raise ValueError(
                    f'has no "data_list"{f", but {_quoted(document)}" if isinstance(document, dict) else ""}'
                )
            for number, entry in enumerate(entries):
                if entry is not None:
                    self._refuse(f": data_list[{number}]", ValueError('has no "img_path"'), _ENTRY_FORM)
            if entries.count(None) != taken:
                raise ValueError('has "img_path" outside of "data_list"')
        except (ValueError, RecursionError) as error:
            self._refuse(f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else "", error, form)

    def _add(self, name: object, text: object) -> None:
        """Take a record, or raise one of ``_REFUSED``."""
        if not (isinstance(name, str) and isinstance(text, str)):
            raise TypeError("name and text must be strings")
        if "\\" in name:
            name = name.replace("\\", "/")
        if not name or "\0" in name:
            raise ValueError(f"{name!r} is not a file name")
        if name.startswith("/") or (".." in name and ".." in name.split("/")) or (":" in name and _DRIVE.match(name)):
            raise OutsideError(f"the name {name!r} points outside the dataset's folder")
        # Names and labels must stay in step where one of them cannot be encoded.
        if not name.isascii():
            name.encode()
        self.texts.append(text)
        self.names.append(name)

    def _refuse(self, place: str, error: Exception, form: str) -> None:
        """Tell of what cannot be taken."""
        kind = OutsideError if isinstance(error, OutsideError) else DataError
        self._on_error(kind(f"{self._path}{place}: {_problem(error)}; expected {form}"))


def _split(line: str, format: str) -> tuple[str, str]:
    """Name and label of a line of text."""
    line = line.removesuffix("\n").removesuffix("\r")
    if format == "names":
        if "\t" in line:
            raise ValueError("has a tab")
        if not _IMAGE_NAME.match(line.rstrip()):
            raise ValueError(f"does not end like an image file ({' '.join(IMAGE_ENDINGS)})")
        return line.strip(), ""
    if format == "space":
        found = _NAME_AND_LABEL.match(line)
        if found is None:
            raise ValueError("has no label after the name of an image file")
        return found[1].lstrip(), found[2]
    name, tab, text = line.partition("\t")
    text = text.lstrip("\t")
    if not tab:
        raise ValueError("has no tab")
    if "\t" in text:
        raise ValueError("has a third column")
    return name.strip(), text


def _problem(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"has no {error.args[0]!r}"
    if isinstance(error, json.JSONDecodeError):
        return f"is not valid JSON ({error.msg} at column {error.colno})"
    if isinstance(error, UnicodeError):
        return f"is not valid UTF-8 ({error.reason})"  # type: ignore[attr-defined]
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    return str(error)
