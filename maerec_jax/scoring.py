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


@dataclass
class Scores:
    """Running totals over (reading, truth) pairs."""

    words: int = 0
    totals: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_VERDICTS, 0.0))

    def add(self, reading: str, truth: str) -> None:
        """Count one word."""
        self.words += 1
        for name, verdict in _VERDICTS.items():
            self.totals[name] += float(verdict(reading, truth))

    def summary(self) -> dict[str, float]:
        """``words`` and the mean of each verdict, 0 to 1, in the order WA, WAIC, WAICS, 36 characters, 1 - NED.

        Without any words all are 0.
        """
        return {"words": float(self.words)} | {name: total / max(self.words, 1) for name, total in self.totals.items()}
