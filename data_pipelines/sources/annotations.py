"""Reading lists of images and their labels: mmocr's annotation files, JSON of other makes, tables, and plain text.

docs/damaged_data.md shows the forms, and what names and labels in them may be.
"""

import codecs
import io
import json
import os
import re
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

from data_pipelines.errors import DataError, OutsideError
from data_pipelines.packed_strings import PackedStrings, StringPacker
from data_pipelines.sources.json_lists import entries_of
from data_pipelines.sources.list_fields import Fields, Table, quoted, without_server
from data_pipelines.sources.list_lines import is_image_name, is_name_and_label, names_in, split_line

Format = Literal["auto", "jsonl", "json", "tab", "space", "names", "csv"]
"""How a list is written, see docs/damaged_data.md; "auto" tells it by the file's ending and its first line."""

_LONGEST_LINE = 100_000
_REFUSED = (ValueError, KeyError, TypeError, RecursionError, OutsideError)
_FORMS = {
    "jsonl": '{"filename": "...", "text": "..."}',
    "tab": "path, tab, label",
    "space": "path of an image, space, label",
    "names": "the path of an image and nothing else",
    "csv": "a header such as filename,text, then rows",
}
_ENTRY_FORM = '{"img_path": "...", "instances": [{"text": "..."}]}'
_ELEMENT_FORM = '{"image": "...", "text": "..."}'
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_FIRST_VALUE_IS_TEXT = re.compile(r'\s*\{\s*"(?:[^"\\]|\\.)*"\s*:\s*"')
_JSON_START = re.compile(rb'\s*(\{\s*("|$)|\[\s*([\[{]|"[^\t]*$|$))')
_DRIVE = re.compile(r"[A-Za-z]:/")
_ADDRESS = re.compile(r"[A-Za-z]+://")

OnError = Callable[[DataError], None]


class Listing(NamedTuple):
    """What a list holds, in its order."""

    path: Path  # the file
    names: PackedStrings  # names of images
    texts: PackedStrings | None  # their labels; None where the list has none
    entry: str  # where record number {} stands in a JSON document; empty for a file with a record a line
    first: int = 0  # number of the first line with a record, of those that are not empty


def _raise(error: DataError) -> None:
    raise error


def read_annotations(
    path: Path,
    on_error: OnError = _raise,
    format: Format = "auto",
    image_field: str = "",
    text_field: str = "",
    root: Path | None = None,
) -> Listing:
    """Image names and labels of a list, in any of its forms.

    ``image_field`` and ``text_field`` name the fields of JSON records, or columns; without them they are those of
    ``list_fields.IMAGE_FIELDS`` and ``TEXT_FIELDS`` that the first record has, which must be one of each. A backslash
    in a name is read as a slash, as Windows writes paths. Absolute names within ``root`` become relative to it.

    Raises ``DataError`` with the line or entry number for anything else, ``OutsideError`` for a name that leads out of
    its folder (absolute, or with a ``..`` part), and ``OSError`` where the file cannot be read.

    With ``on_error`` reading goes on: it is called with each error but the last kind, and all other records are given,
    of a document that is not valid JSON those before the damage.
    """
    fields, records, entry = Fields(image_field, text_field), _Records(path, on_error, root), ""
    try:
        format = _told_format(path, fields) if format == "auto" else format
        opened = _opened(path)
    except DataError as error:
        on_error(error)
    else:
        with opened as file:
            if format == "json":
                entry = records.read_document(file, fields)
            else:
                records.read_lines(file, format, fields)
    texts = None if format == "names" else records.texts.finish()
    return Listing(path, records.names.finish(), texts, entry, int(format == "csv"))


def place_of(path: Path, entry: str, index: int) -> str:
    """Where record ``index`` of a list that was read without error stands: file and line, or file and ``entry``.

    Headers of tables count as records.
    """
    if entry:
        return f"{path}: {entry.format(index)}"
    seen = -1
    with _opened(path) as file:
        for number, line in enumerate(file, 1):
            if line := line.removeprefix(_BYTE_ORDER_MARK).strip():
                seen += len(names_in(line.partition(b"\t")[0].decode(errors="replace")))
            if seen >= index:
                return f"{path}:{number}"
    return str(path)


def _opened(path: Path) -> BinaryIO:
    """A list as lines of UTF-8; one in UTF-16 says so by its first bytes. Raises ``DataError`` where it is damaged."""
    file = path.open("rb")
    if file.peek(2)[:2] not in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return file
    with file:
        try:
            return io.BytesIO(file.read().decode("utf-16").encode())
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: is not valid UTF-16 ({error.reason}); save it as UTF-8") from error


def _told_format(path: Path, fields: Fields) -> Format:
    """The format that a file's ending and first lines tell. Raises ``DataError`` where they tell none."""
    if path.suffix.lower() == ".mdb":
        raise DataError(f"{path}: is a file of an LMDB; give its folder, {path.parent}")
    with _opened(path) as file:
        # JSON is often one line, which is not read whole.
        lines = (line.removeprefix(_BYTE_ORDER_MARK) for line in iter(lambda: file.readline(_LONGEST_LINE), b""))
        first, second = [*islice(filter(bytes.strip, lines), 2), b"", b""][:2]
    if b"\0" in first:
        raise DataError(f"{path}: its first line holds NUL bytes: give an annotation file, saved as UTF-8")
    if path.suffix.lower() == ".jsonl":
        return "jsonl"
    if _JSON_START.match(first) or path.suffix.lower() == ".json":
        record: Any = None
        with suppress(ValueError, RecursionError):
            record = json.loads(first)
        whole = isinstance(record, dict) and "data_list" not in record
        return "jsonl" if whole and (fields.has_image(record) or second.lstrip().startswith(b"{")) else "json"
    line = first.decode("utf-8", errors="replace").rstrip()
    with suppress(ValueError):
        fields.table_of(line)
        return "csv"
    if b"\t" in first or not first:
        return "tab"
    if is_image_name(line):
        return "names"
    if is_name_and_label(line):
        return "space"
    forms = ", ".join(f"{name} ({form})" for name, form in _FORMS.items())
    problem = f"{path}: its first line {line[:60]!r} has no known format"
    raise DataError(f"{problem}; give an annotation file, or set format to one of {forms}")


class _Records:
    """The names and labels of a list so far; its errors go to ``on_error``."""

    def __init__(self, path: Path, on_error: OnError, root: Path | None) -> None:
        self._path, self._on_error = path, on_error
        absolute = () if root is None else (os.path.abspath(root), os.path.realpath(root))
        self._roots = tuple(folder.rstrip("/") + "/" for folder in absolute)
        self.names, self.texts = StringPacker(), StringPacker()

    def read_lines(self, file: BinaryIO, format: str, fields: Fields) -> None:
        """Take what a file with a record a line holds."""
        table: Table | None = None
        for number, line in enumerate(file, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                if not text.strip():
                    continue
                if format == "jsonl":
                    self._add(*fields.read(json.loads(text)))
                elif table is not None:
                    self._add(*fields.read(table.record(text)))
                elif format == "csv":
                    table = fields.table_of(text)
                else:
                    name, label = split_line(text, format)
                    for each in names_in(name) if format == "tab" else (name,):
                        self._add(each, label)
            except _REFUSED as error:
                self._refuse(f":{number}", error, _FORMS[format])

    def read_document(self, file: BinaryIO, fields: Fields) -> str:
        """Take what a JSON document holds; returns where in it record number {} stands."""
        # Broken UTF-8 becomes lone surrogates, which the record that holds them is then refused for.
        text = file.read().decode("utf-8-sig", errors="surrogateescape")
        if text.lstrip().startswith("["):
            self._read_entries(text, "[{}]", fields)
            return "[{}]"
        if _FIRST_VALUE_IS_TEXT.match(text) and '"data_list"' not in text:
            self._read_entries(text, "entry {}", None)
            return "entry {}"
        self._read_data_list(text)
        return "data_list[{}]"

    def _read_entries(self, text: str, entry: str, fields: Fields | None) -> None:
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
                self._add(record["img_path"], _only_instance(record["instances"])["text"])
            except _REFUSED as error:
                self._refuse(f": data_list[{taken - 1}]", error, _ENTRY_FORM)
            return None

        try:
            document = json.loads(text, object_hook=take)
            entries = document.get("data_list") if isinstance(document, dict) else None
            if not isinstance(entries, list):
                raise ValueError(
                    f'has no "data_list"{f", but {quoted(document)}" if isinstance(document, dict) else ""}'
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
        if name.startswith("/"):
            name = self._relative(name)
        if name.startswith("/") or (".." in name and ".." in name.split("/")) or (":" in name and _DRIVE.match(name)):
            raise OutsideError(f"the name {name!r} points outside the dataset's folder")
        if ":" in name and _ADDRESS.match(name):
            raise ValueError(f"{name!r} is an address, which is not fetched: download the images and name the files")
        # Names and labels must stay in step where one of them cannot be encoded.
        if not name.isascii():
            name.encode()
        self.texts.append(text)
        self.names.append(name)

    def _relative(self, name: str) -> str:
        """An absolute name relative to what it is known to start with; else itself."""
        root = next(filter(name.startswith, self._roots), "")
        return name[len(root) :].lstrip("/") if root else without_server(name)

    def _refuse(self, place: str, error: Exception, form: str) -> None:
        """Tell of what cannot be taken."""
        kind = OutsideError if isinstance(error, OutsideError) else DataError
        self._on_error(kind(f"{self._path}{place}: {_problem(error)}; expected {form}"))


def _only_instance(instances: object) -> dict:
    """The one instance of an entry. Raises ``ValueError`` where there are more or fewer."""
    if not isinstance(instances, list) or len(instances) != 1 or not isinstance(instances[0], dict):
        number = f"has {len(instances)} instances" if isinstance(instances, list) else "has no list of instances"
        raise ValueError(f"{number}, and a word image has one: cut words out of whole pictures first")
    return instances[0]


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
