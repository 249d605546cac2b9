"""Reading lists of images and their labels: mmocr's annotation files, JSON of other makes, and plain text.

| format | one record | as in |
|---|---|---|
| ``jsonl`` | a line ``{"filename": "...", "text": "..."}`` | mmocr 0.x, Union14M-L |
| ``json`` | an entry ``{"img_path": "...", "instances": [{"text": "..."}]}`` of ``{"data_list": [...]}`` | mmocr 1.0 |
| ``json`` | an element of ``[{"image": "...", "text": "..."}]``, or an entry of ``{"path": "label"}`` | |
| ``tab`` | a line ``path<TAB>label`` | PaddleOCR, OpenOCR, CLOVA |
| ``space`` | a line ``path label`` | older ``gt.txt`` files |
| ``names`` | a line ``path``: no labels | |

Text is UTF-8, with or without a byte order mark, its lines end in LF or CRLF, and empty lines are skipped. There is no
quoting in ``tab`` and ``space``: a quotation mark is a character of the label. A label keeps its spaces, a path loses
those around it, and tabs or spaces in a row between the two count as one. In ``space`` and ``names`` a path ends as
image files do.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

from data_pipelines.errors import DataError, OutsideError
from data_pipelines.packed_strings import PackedStrings, StringPacker
from data_pipelines.sources.json_lists import entries_of, first_value_is_text
from data_pipelines.sources.records import IMAGE_ENDINGS

Format = Literal["auto", "jsonl", "json", "tab", "space", "names"]
"""How a list is written, see above; "auto" tells it by the file's ending and its first line."""

IMAGE_FIELDS = ("filename", "file_name", "img_path", "image_path", "image", "img", "path")
"""Fields of JSON records that are understood as the name of the image."""

TEXT_FIELDS = ("text", "label", "transcription", "gt")
"""Fields of JSON records that are understood as the label."""

_LONGEST_LINE = 100_000
_REFUSED = (ValueError, KeyError, TypeError, RecursionError, OutsideError)
_FORMS = {
    "jsonl": '{"filename": "...", "text": "..."}',
    "tab": "path, tab, label",
    "space": "path that ends as image files do, space, label",
    "names": "the path of an image and nothing else",
}
_ENTRY_FORM = '{"img_path": "...", "instances": [{"text": "..."}]}'
_ELEMENT_FORM = '{"image": "...", "text": "..."}'
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_JSON_START = re.compile(rb'\s*(\{\s*("|$)|\[\s*([\[{"]|$))')
_ENDING = "(?:" + "|".join(map(re.escape, IMAGE_ENDINGS)) + ")"
_IMAGE_NAME = re.compile(rf".*{_ENDING}\Z", re.IGNORECASE | re.DOTALL)
_NAME_AND_LABEL = re.compile(rf"(.*?{_ENDING}) +(.*)\Z", re.IGNORECASE | re.DOTALL)
_DRIVE = re.compile(r"[A-Za-z]:/")

OnError = Callable[[DataError], None]


class Listing(NamedTuple):
    """What a list holds, in its order."""

    path: Path
    """The file."""
    names: PackedStrings
    """Names of images."""
    texts: PackedStrings | None
    """Their labels; None where the list has none."""
    entry: str
    """Where record number {} stands in a JSON document; empty for a file with a record a line."""


def _raise(error: DataError) -> None:
    raise error


def read_annotations(
    path: Path, on_error: OnError = _raise, format: Format = "auto", image_field: str = "", text_field: str = ""
) -> Listing:
    """Image names and labels of a list, see above for its forms.

    ``image_field`` and ``text_field`` name the fields of JSON records; without them they are those of ``IMAGE_FIELDS``
    and ``TEXT_FIELDS`` that the first record has, which must be one of each. A backslash in a name is read as a slash,
    as Windows writes paths.

    Raises ``DataError`` with the line or entry number for anything else, ``OutsideError`` for a name that leads out of
    its folder (absolute, or with a ``..`` part), and ``OSError`` where the file cannot be read.

    With ``on_error`` reading goes on: it is called with each error but the last kind, and all other records are given,
    of a document that is not valid JSON those before the damage.
    """
    fields = _Fields(image_field, text_field)
    collected = _Collected(on_error)
    entry = ""
    try:
        found = _told_format(path, fields) if format == "auto" else format
    except DataError as error:
        on_error(error)
        return Listing(path, *collected.finish(), entry)
    if found == "json":
        text = path.read_bytes().decode("utf-8-sig", errors="surrogateescape")
        # Broken UTF-8 has become lone surrogates, which the record that holds them is then refused for.
        if text.lstrip().startswith("["):
            entry = "[{}]"
            _read_entries(path, text, entry, fields, collected)
        elif first_value_is_text(text) and '"data_list"' not in text:
            entry = "entry {}"
            _read_entries(path, text, entry, None, collected)
        else:
            entry = "data_list[{}]"
            _read_data_list(path, text, collected)
    else:
        _read_lines(path, found, fields, collected)
    names, texts = collected.finish()
    return Listing(path, names, None if found == "names" else texts, entry)


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
    first, second = _first_lines(path)
    if path.suffix.lower() == ".jsonl":
        return "jsonl"
    if _JSON_START.match(first) or path.suffix.lower() == ".json":
        return "jsonl" if _is_record(first, second, fields) else "json"
    text = b"\0" not in first
    if text and (b"\t" in first or not first):
        return "tab"
    line = first.decode("utf-8", errors="replace").rstrip()
    if text and _IMAGE_NAME.match(line):
        return "names"
    if text and _NAME_AND_LABEL.match(line):
        return "space"
    forms = ", ".join(f"{name} ({form})" for name, form in _FORMS.items())
    raise DataError(
        f"{path}: its first line {line[:60]!r} is of no known form; give an annotation file, or set format to one of "
        f"{forms}"
    )


def _first_lines(path: Path) -> tuple[bytes, bytes]:
    """The first two lines that are not empty, without a byte order mark and, as JSON is often one line, not whole."""
    found: list[bytes] = []
    with path.open("rb") as file:
        while len(found) < 2 and (line := file.readline(_LONGEST_LINE)):
            line = line.removeprefix(_BYTE_ORDER_MARK)
            if line.strip():
                found.append(line)
    return (*found, b"", b"")[:2]  # type: ignore[return-value]


def _is_record(first: bytes, second: bytes, fields: "_Fields") -> bool:
    """Whether the first line of a file is a whole record."""
    try:
        record = json.loads(first)
    except (ValueError, RecursionError):
        return False
    if not isinstance(record, dict) or "data_list" in record:
        return False
    return fields.has_image(record) or second.lstrip().startswith(b"{")


class _Fields:
    """Which fields of JSON records hold the name of the image and the label: as set, or as the first record tells."""

    def __init__(self, image: str, text: str) -> None:
        self._image, self._text = image, text

    def has_image(self, record: dict) -> bool:
        return self._image in record if self._image else any(field in record for field in IMAGE_FIELDS)

    def read(self, record: object) -> tuple[object, object]:
        if not isinstance(record, dict):
            raise TypeError("is no JSON object")
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
            raise ValueError(f"has none of the fields {_quoted(fields)} but {_quoted(record)}: name it by {setting}")
        if len(found) > 1:
            raise ValueError(f"has the fields {_quoted(found)}: say which it is by {setting}")
        return found[0]


def _quoted(fields: dict | list | tuple) -> str:
    return ", ".join(repr(str(field)[:40]) for field in list(fields)[:10]) or "none"


class _Collected:
    """Names and labels so far, and where errors go."""

    def __init__(self, on_error: OnError) -> None:
        self.on_error = on_error
        self._names, self._texts = StringPacker(), StringPacker()

    def add(self, name: object, text: object) -> None:
        """Take a record, or raise one of ``_REFUSED``."""
        if not (isinstance(name, str) and isinstance(text, str)):
            raise TypeError("name and text must be strings")
        if "\\" in name:
            name = name.replace("\\", "/")
        if not name or "\0" in name:
            raise ValueError(f"{name!r} is no file name")
        if name.startswith("/") or (".." in name and ".." in name.split("/")) or (":" in name and _DRIVE.match(name)):
            raise OutsideError(f"the name {name!r} leaves the dataset's folder")
        # Names and labels must stay in step where one of them cannot be encoded.
        if not name.isascii():
            name.encode()
        self._texts.append(text)
        self._names.append(name)

    def refuse(self, place: str, error: Exception, form: str) -> None:
        """Tell of a record that cannot be taken."""
        kind = OutsideError if isinstance(error, OutsideError) else DataError
        self.on_error(kind(f"{place}: {_problem(error)}; expected {form}"))

    def finish(self) -> tuple[PackedStrings, PackedStrings]:
        return self._names.finish(), self._texts.finish()


def _read_lines(path: Path, format: str, fields: _Fields, collected: _Collected) -> None:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                if not text.strip():
                    continue
                collected.add(*(fields.read(json.loads(text)) if format == "jsonl" else _split(text, format)))
            except _REFUSED as error:
                collected.refuse(f"{path}:{number}", error, _FORMS[format])


def _split(line: str, format: str) -> tuple[str, str]:
    """Name and label of a line of text."""
    line = line.removesuffix("\n").removesuffix("\r")
    if format == "names":
        if "\t" in line:
            raise ValueError("has a tab")
        if not _IMAGE_NAME.match(line.rstrip()):
            raise ValueError(f"does not end as image files do ({' '.join(IMAGE_ENDINGS)})")
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


def _read_entries(path: Path, text: str, entry: str, fields: _Fields | None, collected: _Collected) -> None:
    """A list of records whose ``fields`` are given, or without these an object from names to labels."""
    number = -1
    try:
        for number, (key, value) in enumerate(entries_of(text)):
            try:
                collected.add(*((key, value) if fields is None else fields.read(value)))
            except _REFUSED as error:
                form = '{"path": "label", ...}' if fields is None else f"[{_ELEMENT_FORM}, ...]"
                collected.refuse(f"{path}: {entry.format(number)}", error, form)
    except json.JSONDecodeError as error:
        collected.refuse(f"{path}:{error.lineno}", error, "a list of records or an object in JSON")
    except RecursionError as error:
        collected.refuse(f"{path}: {entry.format(number + 1)}", error, "a list of records or an object in JSON")


def _read_data_list(path: Path, text: str, collected: _Collected) -> None:
    taken = 0

    def take(record: dict) -> dict | None:
        # Called as soon as an object has been parsed: what is taken here never piles up as Python objects.
        nonlocal taken
        if "img_path" not in record and "instances" not in record:
            return record
        taken += 1
        try:
            (instance,) = record["instances"]
            collected.add(record["img_path"], instance["text"])
        except _REFUSED as error:
            collected.refuse(f"{path}: data_list[{taken - 1}]", error, _ENTRY_FORM)
        return None

    try:
        document = json.loads(text, object_hook=take)
    except (ValueError, RecursionError) as error:
        line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        collected.refuse(f"{path}{line}", error, "an mmocr 1.0 annotation file")
        return
    entries = document.get("data_list") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        form = f'{{"metainfo": ..., "data_list": [{_ENTRY_FORM}, ...]}}'
        present = f", but {_quoted(document)}" if isinstance(document, dict) else ""
        collected.on_error(DataError(f'{path}: has no "data_list"{present}; expected {form}'))
        return
    for number, entry in enumerate(entries):
        if entry is not None:
            collected.on_error(DataError(f'{path}: data_list[{number}]: has no "img_path"; expected {_ENTRY_FORM}'))
    if entries.count(None) != taken:
        form = f"expected it in {_ENTRY_FORM} only"
        collected.on_error(DataError(f'{path}: has "img_path" outside of "data_list"; {form}'))


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
