"""Verdicts on readings: word accuracies and edit distance, as the reference computes them, over any number of words."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from rapidfuzz.distance import Levenshtein

_SYMBOLS = re.compile("[^A-Z^a-z0-9\u4e00-\u9fa5]")
_NOT_ALPHANUMERIC = re.compile("[^a-z0-9]")


def without_symbols(text: str) -> str:
    """Lower-cased, with only ASCII letters, digits, carets (as the reference has it) and CJK U+4E00-U+9FA5 kept."""
    return _SYMBOLS.sub("", text.lower())


def alphanumeric(text: str) -> str:
    """Lower-cased, with only the 36 ASCII letters and digits kept: how newer work compares words."""
    return _NOT_ALPHANUMERIC.sub("", text.lower())


def edit_similarity(reading: str, truth: str) -> float:
    """1 - NED: one minus the edit distance of the texts without symbols over the longer length; 1 if both are empty."""
    return Levenshtein.normalized_similarity(without_symbols(reading), without_symbols(truth))


_VERDICTS: dict[str, Callable[[str, str], float]] = {
    "word_accuracy": lambda reading, truth: reading == truth,
    "word_accuracy_ignore_case": lambda reading, truth: reading.lower() == truth.lower(),
    "word_accuracy_ignore_case_symbols": lambda reading, truth: without_symbols(reading) == without_symbols(truth),
    "word_accuracy_36_characters": lambda reading, truth: alphanumeric(reading) == alphanumeric(truth),
    "edit_similarity": edit_similarity,
}


METRICS = {
    "word_accuracy": "WA",
    "word_accuracy_ignore_case": "WAIC",
    "word_accuracy_ignore_case_symbols": "WAICS",
    "word_accuracy_36_characters": "36 chars",
    "edit_similarity": "1-NED",
}
"""The verdicts on a reading, in the order of tables, and what they are called there."""

HEADLINE = "word_accuracy_ignore_case_symbols"
"""The metric that the paper reports."""


def verdicts(reading: str | None, truth: str) -> dict[str, float]:
    """Each of ``METRICS`` for one word, 0 to 1. None, for an image that could not be read, is wrong in all of them.

    So "" for an image whose label has symbols only is right without symbols, but None is not.
    """
    if reading is None:
        return dict.fromkeys(METRICS, 0.0)
    if reading == truth:
        return dict.fromkeys(METRICS, 1.0)
    return {name: float(verdict(reading, truth)) for name, verdict in _VERDICTS.items()}


@dataclass
class Scores:
    """Running totals over (reading, truth) pairs."""

    words: int = 0
    totals: dict[str, float] = field(default_factory=lambda: dict.fromkeys(METRICS, 0.0))

    def add(self, reading: str | None, truth: str) -> dict[str, float]:
        """Count one word, None as one that could not be read; returns its ``verdicts``."""
        self.words += 1
        found = verdicts(reading, truth)
        for name, value in found.items():
            self.totals[name] += value
        return found

    def summary(self) -> dict[str, float]:
        """``words`` and the mean of each verdict, 0 to 1, in the order of ``METRICS``.

        Without any words all are 0.
        """
        return {"words": float(self.words)} | {name: total / max(self.words, 1) for name, total in self.totals.items()}
