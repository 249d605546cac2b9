"""Verdicts on readings: word accuracies and edit distance, as the reference computes them, over any number of words."""

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field

from rapidfuzz.distance import Levenshtein

from data_pipelines.charset import without_symbols

_NOT_ALPHANUMERIC = re.compile("[^a-z0-9]")


def all_letters(text: str) -> str:
    """What ``without_symbols`` keeps, and the letters, marks and digits of all scripts."""
    if text.isascii():
        return without_symbols(text)
    return "".join(c for c in text.lower() if _is_letter(c) or without_symbols(c))


def _is_letter(character: str) -> bool:
    kind = unicodedata.category(character)
    return kind[0] in "LM" or kind == "Nd"


def alphanumeric(text: str) -> str:
    """Lower-cased, with only the 36 ASCII letters and digits kept: how newer work compares words."""
    return _NOT_ALPHANUMERIC.sub("", text.lower())


def edit_similarity(reading: str, truth: str) -> float:
    """1 - NED: one minus the edit distance of the texts without symbols over the longer length; 1 if both are empty."""
    return Levenshtein.normalized_similarity(without_symbols(reading), without_symbols(truth))


METRICS = {
    "word_accuracy": "WA",
    "word_accuracy_ignore_case": "WAIC",
    "word_accuracy_ignore_case_symbols": "WAICS",
    "word_accuracy_36_characters": "36 chars",
    "edit_similarity": "1-NED",
    "word_accuracy_all_letters": "all letters",
}
"""The verdicts on a reading, in the order of tables, and what they are called there."""

HEADLINE = "word_accuracy_ignore_case_symbols"
"""The metric that the paper reports."""

ALL_LETTERS = "word_accuracy_all_letters"
"""``HEADLINE`` with the letters of all scripts: both are the same where texts have no others than it knows."""

_KEPT = {
    "word_accuracy_ignore_case_symbols": without_symbols,
    "word_accuracy_36_characters": alphanumeric,
    "edit_similarity": without_symbols,
}


def dropped_by(truth: str) -> list[str]:
    """The metrics that leave out letters, marks or digits of a label."""
    if truth.isascii():
        return []
    whole = all_letters(truth).replace("^", "")
    return [metric for metric, kept in _KEPT.items() if kept(truth).replace("^", "") != whole]


def verdicts(reading: str | None, truth: str) -> dict[str, float]:
    """Each of ``METRICS`` for one word, 0 to 1. None, for an image that could not be read, is wrong in all of them.

    So "" for an image whose label has symbols only is right without symbols, but None is not.
    """
    if reading is None:
        return dict.fromkeys(METRICS, 0.0)
    if reading == truth:
        return dict.fromkeys(METRICS, 1.0)
    return {
        "word_accuracy": 0.0,
        "word_accuracy_ignore_case": float(reading.lower() == truth.lower()),
        "word_accuracy_ignore_case_symbols": float(without_symbols(reading) == without_symbols(truth)),
        "word_accuracy_36_characters": float(alphanumeric(reading) == alphanumeric(truth)),
        "edit_similarity": edit_similarity(reading, truth),
        "word_accuracy_all_letters": float(all_letters(reading) == all_letters(truth)),
    }


@dataclass
class Scores:
    """Running totals over (reading, truth) pairs."""

    words: int = 0
    totals: dict[str, float] = field(default_factory=lambda: dict.fromkeys(METRICS, 0.0))
    dropped: Counter[str] = field(default_factory=Counter)
    """Of how many labels each metric leaves out letters."""
    cases: set[str] = field(default_factory=set)
    """Whether labels have letters in "upper" and in "lower" case."""

    def add(self, reading: str | None, truth: str) -> None:
        """Count one word, None as one that could not be read."""
        self.words += 1
        for name, value in verdicts(reading, truth).items():
            self.totals[name] += value
        self.dropped.update(dropped_by(truth))
        if truth != truth.lower():
            self.cases.add("upper")
        if truth != truth.upper():
            self.cases.add("lower")

    def means(self) -> dict[str, float]:
        """The mean of each verdict, 0 to 1, in the order of ``METRICS``; without any words all are 0."""
        return {name: total / max(self.words, 1) for name, total in self.totals.items()}

    def summary(self) -> dict[str, float]:
        """``words`` and ``means``."""
        return {"words": float(self.words)} | self.means()
