"""Reading mmocr annotation files: 0.x ``.jsonl`` and 1.0 ``.json``, as Union14M-L ships them."""

import json
from pathlib import Path

from data_pipelines.packed_strings import PackedStrings, StringPacker
from data_pipelines.records import DataError

_LONGEST_LINE = 100_000
_LINE_FORM = '{"filename": "...", "text": "..."}'
_ENTRY_FORM = '{"img_path": "...", "instances": [{"text": "..."}]}'


def read_annotations(path: Path) -> tuple[PackedStrings, PackedStrings]:
    """Image names and labels of an annotation file, in file order.

    A ``.jsonl`` file, or one whose first line is a whole ``{"filename": ..., "text": ...}`` object, is read as mmocr
    0.x, one record a line (empty lines are skipped); any other as mmocr 1.0, one JSON object with a ``data_list``.

    Raises ``DataError`` with the line or entry number for anything else, and for a name that leads out of its folder
    (absolute, or with a ``..`` part).
    """
    with path.open("rb") as file:
        first_line = file.readline(_LONGEST_LINE)  # an mmocr 1.0 file is often a single line of many megabytes
    return _read_lines(path) if path.suffix == ".jsonl" or _is_record(first_line) else _read_data_list(path)


def _is_record(line: bytes) -> bool:
    try:
        return "filename" in json.loads(line)
    except (ValueError, TypeError):
        return False


def _read_lines(path: Path) -> tuple[PackedStrings, PackedStrings]:
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
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"{path}:{number}: {_problem(error)}; expected {_LINE_FORM}") from error
    return names.finish(), texts.finish()


def _read_data_list(path: Path) -> tuple[PackedStrings, PackedStrings]:
    names, texts = StringPacker(), StringPacker()

    def take(record: dict) -> dict | None:
        # Called as soon as an object has been parsed: what is taken here never piles up as Python objects.
        if "img_path" not in record:
            return record
        try:
            (instance,) = record["instances"]
            _append(names, texts, record["img_path"], instance["text"])
        except (ValueError, KeyError, TypeError) as error:
            place = f"{path}: data_list[{len(names)}]"
            raise DataError(f"{place}: {_problem(error)}; expected {_ENTRY_FORM}") from error
        return None

    try:
        document = json.loads(path.read_bytes(), object_hook=take)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: {_problem(error)}; expected an mmocr 1.0 annotation file") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: {_problem(error)}; expected an mmocr 1.0 annotation file in UTF-8") from error
    entries = document.get("data_list") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise DataError(f'{path}: has no "data_list"; expected {{"metainfo": ..., "data_list": [{_ENTRY_FORM}, ...]}}')
    for number, entry in enumerate(entries):
        if entry is not None:
            raise DataError(f'{path}: data_list[{number}]: has no "img_path"; expected {_ENTRY_FORM}')
    if len(entries) != len(names):
        raise DataError(f'{path}: has "img_path" outside of "data_list"; expected it in {_ENTRY_FORM} only')
    return names.finish(), texts.finish()


def _append(names: StringPacker, texts: StringPacker, name: str, text: str) -> None:
    if not (isinstance(name, str) and isinstance(text, str)):
        raise TypeError("name and text must be strings")
    if not name or "\0" in name:
        raise ValueError(f"{name!r} is no file name")
    if name.startswith("/") or (".." in name and ".." in name.split("/")):
        raise ValueError(f"the name {name!r} leaves the dataset's folder")
    # Encode the label first: when it fails, names and labels are still in step.
    texts.append(text)
    names.append(name)


def _problem(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"has no {error.args[0]!r}"
    if isinstance(error, json.JSONDecodeError):
        return f"is not valid JSON ({error.msg} at column {error.colno})"
    if isinstance(error, UnicodeError):
        return f"is not valid UTF-8 ({error.reason})"  # type: ignore[attr-defined]
    return str(error)
