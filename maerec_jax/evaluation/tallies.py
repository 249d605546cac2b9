"""What a report counts: accuracy by length and shape, calibration, confused characters, and the worst errors."""

import heapq
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

from rapidfuzz.distance import Levenshtein

from data_pipelines.sources.records import OUTCOMES
from maerec_jax.evaluation.intervals import wilson
from maerec_jax.evaluation.predictions import Prediction
from maerec_jax.reading.scoring import HEADLINE, verdicts

LENGTHS = (*range(1, 11), 11, 13, 16, 21)
"""Where bins of the number of characters in the truth begin."""
ASPECTS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
"""Where bins of width over height begin."""
CONFIDENCE_BINS = 10
"""Bins of equal width from 0 to 1."""
DOUBT_STEPS = 20
"""Confidences from 0 to 1 among which that is found below which readings are doubtful."""
SIMILAR = 0.5
"""How similar a reading has to be to the truth for its single characters to be compared: further off, chance aligns."""

_WORST_OF_A_SET = 12
_WORST_IN_ALL = 144  # a page with the pictures stays below 3 MB
_UNUSABLE_SHOWN = 100


@dataclass
class Tally:
    """How many words, and how many of them read right."""

    words: int = 0
    right: int = 0
    confidence_sum: float = 0.0
    label: str = ""  # which words

    def add(self, right: bool, confidence: float) -> None:
        """Count a word."""
        self.words += 1
        self.right += right
        self.confidence_sum += confidence

    @property
    def accuracy(self) -> float:
        """Share of words read right; 0 without any."""
        return self.right / max(self.words, 1)

    @property
    def confidence(self) -> float:
        """Their mean confidence; 0 without any."""
        return self.confidence_sum / max(self.words, 1)

    def bounds(self) -> tuple[float, float]:
        """95 % interval of the accuracy (Wilson's), where there are words."""
        return wilson(self.accuracy, self.words)


class Calibration:
    """Words by how sure the model was of them, in ``CONFIDENCE_BINS`` bins."""

    def __init__(self) -> None:
        self.bins = [Tally(label=f"{10 * i} to {10 * (i + 1)} %") for i in range(CONFIDENCE_BINS)]

    def add(self, right: bool, confidence: float) -> None:
        """Count a word."""
        self.bins[min(int(confidence * CONFIDENCE_BINS), CONFIDENCE_BINS - 1)].add(right, confidence)

    @property
    def error(self) -> float:
        """Expected calibration error: mean distance of accuracy and confidence over bins, weighted by their words."""
        words = sum(one.words for one in self.bins)
        return sum(one.words * abs(one.accuracy - one.confidence) for one in self.bins) / max(words, 1)


@dataclass
class Confusions:
    """What characters were read as, case ignored."""

    words: int = 0  # whose characters were compared
    left_out: int = 0  # words that were read too differently
    occurrences: Counter[str] = field(default_factory=Counter)  # of each character in the truths of the words compared
    # How often each (in the truth, in the reading) differed: "" in the reading for one that was missed, "" in the truth
    # for one that was added.
    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, truth: str, reading: str) -> None:
        """Compare a word."""
        truth, reading = truth.lower(), reading.lower()
        if truth != reading:
            if Levenshtein.normalized_similarity(truth, reading) < SIMILAR:
                self.left_out += 1
                return
            for step in Levenshtein.editops(truth, reading):
                there = "" if step.tag == "insert" else truth[step.src_pos]
                self.pairs[there, "" if step.tag == "delete" else reading[step.dest_pos]] += 1
        self.words += 1
        self.occurrences.update(truth)

    def most_confused(self, number: int) -> list[str]:
        """The characters that are in most confusions, sorted."""
        involved: Counter[str] = Counter()
        for pair, count in sorted(self.pairs.items()):
            involved.update(dict.fromkeys(filter(None, pair), count))
        return sorted(character for character, _ in involved.most_common(number))

    def commonest(self, number: int, in_truth: bool, in_reading: bool) -> list[tuple[tuple[str, str], int]]:
        """The commonest pairs with how often, by whether there is a character in the truth, and in the reading."""
        found = [item for item in self.pairs.items() if (item[0][0] != "", item[0][1] != "") == (in_truth, in_reading)]
        return sorted(found, key=lambda item: (-item[1], item[0]))[:number]


class Tallies:
    """Counts over predictions, taken one by one; of the predictions themselves only the worst are kept.

    Right is what is right by ``metric``. The ``sets`` that the predictions are of share the room for worst errors.
    Those of ``unscored`` sets, of which no image could be used, are only named.
    """

    def __init__(
        self,
        predictions: Iterable[Prediction],
        sets: int,
        metric: str = HEADLINE,
        unscored: Collection[str] = (),
    ) -> None:
        self._metric, self._unscored = metric, unscored
        # By ``LENGTHS``; a truth without any character is in none.
        self.lengths = [Tally(label=str(a) if a + 1 == b else f"{a}\u2013{b - 1}") for a, b in pairwise(LENGTHS)]
        self.lengths.append(Tally(label=f"{LENGTHS[-1]} or more"))
        # By ``ASPECTS``; images that cannot be used are in none, nor in what follows.
        self.aspects = [Tally(label=f"{a:g} to {b:g}" if a else f"below {b:g}") for a, b in pairwise(ASPECTS)]
        self.aspects.append(Tally(label=f"{ASPECTS[-1]:g} or more"))
        self.calibration = Calibration()  # of confidences
        self.probabilities = Calibration()  # of ``Prediction.probability``
        self._more_wrong = [0] * DOUBT_STEPS  # wrong readings less right ones, by confidence
        self.confusions = Confusions()
        self.wrong = 0
        self.case_only = self.symbols_only = 0  # of the words read right, those in another case, and with other symbols
        self.unusable: list[Prediction] = []  # the first images that cannot be used
        self._keep = max(1, min(_WORST_OF_A_SET, _WORST_IN_ALL // max(sets, 1)))
        self._worst: dict[str, list[tuple[float, int, Prediction]]] = {}
        for number, prediction in enumerate(predictions):
            self._add(number, prediction)

    def _add(self, number: int, prediction: Prediction) -> None:
        found = verdicts(prediction.judged_reading, prediction.truth)
        right, confidence = found[self._metric] == 1, prediction.confidence
        if prediction.truth and prediction.set not in self._unscored:
            self.lengths[bisect_right(LENGTHS, len(prediction.truth)) - 1].add(right, confidence)
        if prediction.outcome != OUTCOMES[0]:
            if len(self.unusable) < _UNUSABLE_SHOWN:
                self.unusable.append(prediction)
            return
        if prediction.height and prediction.width:
            self.aspects[bisect_right(ASPECTS, prediction.width / prediction.height) - 1].add(right, confidence)
        self.calibration.add(right, confidence)
        self.probabilities.add(right, prediction.probability)
        self._more_wrong[min(int(confidence * DOUBT_STEPS), DOUBT_STEPS - 1)] += -1 if right else 1
        self.confusions.add(prediction.truth, prediction.reading)
        if right:
            self.case_only += found["word_accuracy"] < found["word_accuracy_ignore_case"]
            self.symbols_only += found["word_accuracy_ignore_case"] < 1
            return
        self.wrong += 1
        heap = self._worst.setdefault(prediction.set, [])
        # The earlier of two with the same confidence; predictions themselves cannot be ordered.
        heapq.heappush(heap, (confidence, -number, prediction))
        if len(heap) > self._keep:
            heapq.heappop(heap)

    @property
    def doubtful_below(self) -> float:
        """The confidence below which most readings are wrong: where the wrong ones below are most in excess."""
        below = [0, *accumulate(self._more_wrong)]
        return below.index(max(below)) / DOUBT_STEPS

    @property
    def worst(self) -> dict[str, list[Prediction]]:
        """Of each set the wrong readings with the highest confidences, highest first."""
        kept = {name: [entry[2] for entry in sorted(heap, reverse=True)] for name, heap in self._worst.items()}
        # More sets than there is room for: those whose errors are surest.
        names = sorted(kept, key=lambda name: -kept[name][0].confidence)[:_WORST_IN_ALL]
        return {name: kept[name] for name in kept if name in set(names)}
