"""Reading the entries of a large JSON list or object one by one, without holding them all as Python objects."""

import json
import re
from collections.abc import Iterator

_MARK = re.compile(r"[ \t\r\n]*([\[\]{},:])[ \t\r\n]*")


def entries_of(text: str) -> Iterator[tuple[str | None, object]]:
    """Keys and values of the JSON object, or None and the values of the JSON list, that ``text`` is, in its order.

    Keys that stand twice come twice. Raises ``json.JSONDecodeError`` where the text is not valid JSON or is neither,
    after the entries before that place, and ``RecursionError`` for an entry that is nested too deeply.
    """
    decode = json.JSONDecoder().raw_decode
    place, key = 0, None

    def pass_over(marks: str) -> str:
        nonlocal place
        found = _MARK.match(text, place)
        if found is None or found[1] not in marks:
            raise json.JSONDecodeError(f"Expecting {' or '.join(map(repr, marks))}", text, place)
        place = found.end()
        return found[1]

    closing = "]" if pass_over("[{") == "[" else "}"
    if text[place : place + 1] == closing:
        pass_over(closing)
    else:
        mark = ","
        while mark == ",":
            if closing == "}":
                if text[place : place + 1] != '"':
                    raise json.JSONDecodeError("Expecting '\"'", text, place)
                key, place = decode(text, place)
                pass_over(":")
            value, place = decode(text, place)
            yield key, value
            mark = pass_over("," + closing)
    if place < len(text):
        raise json.JSONDecodeError("Extra data", text, place)
