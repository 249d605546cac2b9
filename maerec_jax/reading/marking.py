"""Texts of others shown to people: nothing invisible in them, and what differs between two of them."""

from rapidfuzz.distance import Levenshtein

Span = tuple[str, bool]
"""A piece of a text, and whether it differs."""


def printable(text: str) -> str:
    """``text`` with characters that cannot be seen, or change what stands beside them, written as escapes.

    Control characters could drive a terminal, and marks of direction turn the rest of a line around.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def differing(truth: str, reading: str) -> tuple[list[Span], list[Span]]:
    """Pieces of the truth, and whether they were not read; pieces of the reading, and whether they are not true.

    Case is ignored.
    """
    codes = Levenshtein.opcodes(_lower(truth), _lower(reading))
    truths = [(truth[c.src_start : c.src_end], c.tag != "equal") for c in codes if c.tag != "insert"]
    readings = [(reading[c.dest_start : c.dest_end], c.tag != "equal") for c in codes if c.tag != "delete"]
    return truths, readings


def _lower(text: str) -> str:
    """Lower-cased, each character in its place: of a few the lower case is two characters long."""
    lower = text.lower()
    return lower if len(lower) == len(text) else "".join(c if len(c.lower()) > 1 else c.lower() for c in text)
