"""Reading mmocr annotation files: 0.x ``.jsonl`` and 1.0 ``.json``, as Union14M-L ships them."""

import json
from collections.abc import Callable
from pathlib import Path

from data_pipelines.packed_strings import PackedStrings, StringPacker
from data_pipelines.records import DataError, OutsideError

_LONGEST_LINE = 100_000
_REFUSED = (ValueError, KeyError, TypeError, RecursionError, OutsideError)
_LINE_FORM = '{"filename": "...", "text": "..."}'
_ENTRY_FORM = '{"img_path": "...", "instances": [{"text": "..."}]}'


OnError = Callable[[DataError], None]


def _raise(error: DataError) -> None:
    raise error


def read_annotations(path: Path, on_error: OnError = _raise) -> tuple[PackedStrings, PackedStrings]:
    """Image names and labels of an annotation file, in file order.

    A ``.jsonl`` file, or one whose first line is a whole ``{"filename": ..., "text": ...}`` object, is read as mmocr
    0.x, one record a line (empty lines are skipped); any other as mmocr 1.0, one JSON object with a ``data_list``.

    Raises ``DataError`` with the line or entry number for anything else, ``OutsideError`` for a name that leads out of
    its folder (absolute, or with a ``..`` part), and ``OSError`` where the file cannot be read.

    With ``on_error`` reading goes on: it is called with each error but the last kind, and all other records are given,
    of a 1.0 file that is not valid JSON those before the damage.
    """
    with path.open("rb") as file:
        first_line = file.readline(_LONGEST_LINE)  # an mmocr 1.0 file is often a single line of many megabytes
    lines = path.suffix == ".jsonl" or _is_record(first_line)
    return _read_lines(path, on_error) if lines else _read_data_list(path, on_error)


def _is_record(line: bytes) -> bool:
    try:
        return "filename" in json.loads(line)
    except (ValueError, TypeError, RecursionError):
        return False


def _read_lines(path: Path, on_error: OnError) -> tuple[PackedStrings, PackedStrings]:
    names, texts = StringPacker(), StringPacker()
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line_text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                if not line_text:
                    continue
                record = json.loads(line_text)
                name, text = record["filename"], record["text"]
                _append(names, texts, name, text)
            except _REFUSED as error:
                on_error(_refusal(f"{path}:{number}", error, _LINE_FORM))
    return names.finish(), texts.finish()


def _read_data_list(path: Path, on_error: OnError) -> tuple[PackedStrings, PackedStrings]:
    names, texts = StringPacker(), StringPacker()
    taken = 0

    def take(record: dict) -> dict | None:
        # Called as soon as an object has been parsed: what is taken here never piles up as Python objects.
        nonlocal taken
        if "img_path" not in record and "instances" not in record:
            return record
        taken += 1
        try:
            (instance,) = record["instances"]
            _append(names, texts, record["img_path"], instance["text"])
        except _REFUSED as error:
            on_error(_refusal(f"{path}: data_list[{taken - 1}]", error, _ENTRY_FORM))
        return None

    try:
        # Broken UTF-8 becomes lone surrogates, which the record that holds them is then refused for.
        document = json.loads(path.read_bytes().decode("utf-8-sig", errors="surrogateescape"), object_hook=take)
    except (ValueError, RecursionError) as error:
        line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        on_error(_refusal(f"{path}{line}", error, "an mmocr 1.0 annotation file"))
        return names.finish(), texts.finish()
    entries = document.get("data_list") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        form = f'{{"metainfo": ..., "data_list": [{_ENTRY_FORM}, ...]}}'
        on_error(DataError(f'{path}: has no "data_list"; expected {form}'))
        return names.finish(), texts.finish()
    for number, entry in enumerate(entries):
        if entry is not None:
            on_error(DataError(f'{path}: data_list[{number}]: has no "img_path"; expected {_ENTRY_FORM}'))
    if entries.count(None) != taken:
        on_error(DataError(f'{path}: has "img_path" outside of "data_list"; expected it in {_ENTRY_FORM} only'))
    return names.finish(), texts.finish()


def _append(names: StringPacker, texts: StringPacker, name: str, text: str) -> None:
    if not (isinstance(name, str) and isinstance(text, str)):
        raise TypeError("name and text must be strings")
    if not name or "\0" in name:
        raise ValueError(f"{name!r} is no file name")
    if name.startswith("/") or (".." in name and ".." in name.split("/")):
        raise OutsideError(f"the name {name!r} leaves the dataset's folder")
    # Names and labels must stay in step where one of them cannot be encoded.
    if not name.isascii():
        name.encode()
    texts.append(text)
    names.append(name)


def _refusal(place: str, error: Exception, form: str) -> DataError:
    kind = OutsideError if isinstance(error, OutsideError) else DataError
    return kind(f"{place}: {_problem(error)}; expected {form}")


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
