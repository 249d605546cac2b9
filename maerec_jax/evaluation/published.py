"""Published accuracies of models that were trained as the paper's, by kind of model and set.

All are WAICS in % as they are printed; some averages are not exactly the means of their sets. They come from

- table 6 of Jiang et al., *Revisiting Scene Text Recognition: A Data Perspective* (ICCV 2023): models trained on
  Union14M-L, MAERec also after pre-training on Union14M-U;
- the README of https://github.com/Mountchicken/Union14M beside the checkpoints it released: retrained on Union14M-L
  (green there), and the authors' own, trained on rendered words (grey).
"""

from collections.abc import Mapping
from dataclasses import dataclass

PAPER = "paper, table 6"
"""The source of most numbers."""
SCRATCH = "paper, without pre-training"
"""Table 6, too: MAERec that begins with fresh weights."""
RETRAINED = "released, retrained"
"""The README's green numbers."""
ORIGINAL = "released, original"
"""The README's grey numbers."""

_COMMON = ("IIIT5K", "SVT", "IC13", "IC15", "SVTP", "CUTE80", "common six with IC13 1,015 and IC15 2,077")
_SEVEN = ("curve", "multi_oriented", "artistic", "contextless", "salient", "multi_words", "general")
_BENCHMARK = (*_SEVEN, "Union14M-Benchmark", "Incomplete, margin")

_SIZES_DIFFER = 0.1  # how far numbers of parameters are apart at most: other characters change them a little

_VISION, _LANGUAGE = 23_575_774, 36_737_775  # ABINet without and with its language model


@dataclass(frozen=True)
class PublishedResult:
    """What was published of a model."""

    kind: str  # the kind of model, as configs name it
    variant: str  # what the publication calls it
    source: str  # where it was published, and of which training
    parameters: tuple[int, ...]  # the sizes of model that it may be of
    digits: int  # how many there are after the point
    accuracies: Mapping[str, float]  # by sets and averages, in %; the names are those of the catalogue and of groups

    @property
    def rounding(self) -> float:
        """How far a number may be from what was measured then, as a fraction of 1."""
        return 0.005 / 10**self.digits


def published_results(kind: str, parameters: int) -> tuple[PublishedResult, ...]:
    """What was published of models of a kind that have about as many parameters."""
    return tuple(
        result
        for result in PUBLISHED
        if result.kind == kind and any(abs(parameters / size - 1) < _SIZES_DIFFER for size in result.parameters)
    )


def _paper(kind: str, variant: str, parameters: tuple[int, ...], numbers: str, source: str = PAPER) -> PublishedResult:
    accuracies = dict(zip(_COMMON + _BENCHMARK, map(float, numbers.split()), strict=True))
    return PublishedResult(kind, variant, source, parameters, 1, accuracies)


def _released(kind: str, variant: str, parameters: tuple[int, ...], numbers: str, source: str) -> PublishedResult:
    accuracies = dict(zip(_COMMON, map(float, numbers.split()), strict=True))
    return PublishedResult(kind, variant, source, parameters, 2, accuracies)


# fmt: off
_MAEREC_S, _MAEREC_B = ("maerec", "MAERec-S", (35_666_398,)), ("maerec", "MAERec-B", (142_111_582,))
_ASTER, _NRTR = ("aster", "ASTER", (20_985_990,)), ("nrtr", "NRTR", (66_685_534,))
_SATRN, _SAR = ("satrn", "SATRN", (65_640_797,)), ("sar", "SAR", (57_460_063,))
# Which of its two sizes was measured is said of the retrained one only.
_ABINET, _ABINET_RETRAINED = ("abinet", "ABINet", (_VISION, _LANGUAGE)), ("abinet", "ABINet", (_VISION,))

PUBLISHED = (
    _paper(*_MAEREC_S, "98.0 96.8 97.6 87.1 93.2 97.9 95.1  81.4 71.4 72.0 82.0 78.5 82.4 82.5 78.6  2.7"),
    _paper(*_MAEREC_S, "97.4 95.7 97.3 86.7 91.0 96.2 94.1  75.4 66.5 66.0 76.1 72.6 77.0 80.8 73.5  3.5", SCRATCH),
    _paper(*_MAEREC_B, "98.5 97.8 98.1 89.5 94.4 98.6 96.2  88.8 83.9 80.0 85.5 84.9 87.5 85.8 85.2  2.6"),
    _paper(*_MAEREC_B, "97.3 96.6 97.8 87.1 92.6 95.8 94.5  76.5 67.5 65.7 75.5 74.6 77.7 81.8 74.2  3.2", SCRATCH),
    _paper(*_ASTER, "94.3 88.9 92.6 77.7 80.5 86.5 86.7  38.4 13.0 41.8 52.9 31.9 49.8 66.7 42.1  1.3"),
    _released(*_ASTER, "94.37 89.03 93.60 78.57 80.93 90.97 88.07", RETRAINED),
    _released(*_ASTER, "93.57 89.49 92.81 76.65 80.62 85.07 86.37", ORIGINAL),
    _paper(*_ABINET, "97.2 95.7 97.2 87.6 92.1 94.4 94.0  75.0 61.5 65.3 71.1 72.9 59.1 79.4 69.2  2.6"),
    _released(*_ABINET_RETRAINED, "97.30 96.45 95.52 85.36 89.77 94.79 93.20", RETRAINED),
    _released(*_ABINET, "95.23 90.57 93.69 78.86 84.03 84.37 87.79", ORIGINAL),
    _paper(*_NRTR, "96.2 94.0 96.9 80.9 84.8 92.0 90.8  49.3 40.6 54.3 69.6 42.9 75.5 75.2 58.2  1.5"),
    _released(*_NRTR, "96.73 93.20 95.57 80.74 83.57 92.01 90.30", RETRAINED),
    _released(*_NRTR, "91.50 88.25 93.69 72.32 77.83 75.00 83.09", ORIGINAL),
    _paper(*_SATRN, "97.0 95.2 97.9 87.1 91.0 96.2 93.9  74.8 64.7 67.1 76.1 72.2 74.1 75.8 72.1  0.9"),
    _released(*_SATRN, "97.27 95.36 96.85 87.14 90.39 96.18 93.89", RETRAINED),
    _released(*_SATRN, "96.00 91.96 96.06 80.31 88.37 89.93 90.43", ORIGINAL),
    _paper(*_SAR, "96.6 92.4 96.0 82.0 85.7 92.7 90.9  68.9 56.9 60.6 73.3 60.1 74.6 76.0 67.2  2.1"),
    _released(*_SAR, "97.07 93.66 95.76 82.19 86.98 92.01 91.27", RETRAINED),
    _released(*_SAR, "95.33 88.41 93.69 76.02 83.26 90.28 87.83", ORIGINAL),
)
"""All of them; those of a model stand together."""
# fmt: on
