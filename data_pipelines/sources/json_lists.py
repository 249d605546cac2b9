"""Reading the entries of a large JSON list or object one by one, without holding them all as Python objects."""

import json
import re
from collections.abc import Iterator
from typing import Any

_SPACE = re.compile(r"[ \t\r\n]*")
_FIRST_VALUE = re.compile(r'\s*\{\s*"(?:[^"\\]|\\.)*"\s*:\s*"')


def first_value_is_text(text: str) -> bool:
    """Whether ``text`` starts as a JSON object does whose first value is a string."""
    return _FIRST_VALUE.match(text) is not None


def entries_of(text: str) -> Iterator[tuple[str | None, Any]]:
    """Keys and values of the JSON object, or None and the values of the JSON list, that ``text`` is, in its order.

    Keys that stand twice come twice. Raises ``json.JSONDecodeError`` where the text is not valid JSON or is neither,
    after the entries before that place, and ``RecursionError`` for an entry that is nested too deeply.
    """
    decode = json.JSONDecoder().raw_decode

    def skip(place: int) -> int:
        found = _SPACE.match(text, place)
        return found.end() if found else place

    def expect(characters: str, place: int) -> str:
        if text[place : place + 1] in tuple(characters):
            return text[place]
        raise json.JSONDecodeError(f"Expecting {' or '.join(map(repr, characters))}", text, place)

    place = skip(0)
    closing = {"[": "]", "{": "}"}[expect("[{", place)]
    place = skip(place + 1)
    ended = text[place : place + 1] == closing
    while not ended:
        key = None
        if closing == "}":
            expect('"', place)
            key, place = decode(text, place)
            place = skip(place)
            expect(":", place)
            place = skip(place + 1)
        value, place = decode(text, place)
        yield key, value
        place = skip(place)
        ended = expect("," + closing, place) == closing
        place = place if ended else skip(place + 1)
    if skip(place + 1) < len(text):
        raise json.JSONDecodeError("Extra data", text, skip(place + 1))
