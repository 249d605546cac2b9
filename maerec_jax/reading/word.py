"""Words: what is read in an image, and how it comes out of what the devices return."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.charset import Charset
from maerec_jax.models.interface import RecogniserConfig, normalize, widths
from maerec_jax.reading.boxes import Box
from maerec_jax.reading.lexicon import Lexicon


def probability_of(character_confidences: Sequence[float]) -> float:
    """The probability of a text with such characters, their product; 0 for a text without any."""
    return math.prod(character_confidences) if character_confidences else 0.0


@dataclass(frozen=True)
class Word:
    """What was read in an image."""

    text: str
    """The text."""
    confidence: float
    """Mean of the character confidences, 0 to 1; 0 where nothing was read. It is how sure the model was on its way, not
    the probability that the text is right, which ``probability`` comes closer to. Of several views it is that of the
    first in which this was read, however many others agree."""
    character_confidences: tuple[float, ...]
    """The model's probability of each character, given those before it; ``<UKN>`` counts as one character."""
    turns: int = 0
    """By how many times 90 degrees the image was turned against the clock before it was read so."""
    tokens: tuple[int, ...] = field(default=(), repr=False)
    """The classes that were written, without the end: one for each character, several for one that the charset has in
    parts, and perhaps padding, which is none."""
    alternatives: tuple["Word", ...] = field(default=(), repr=False)
    """Other texts: those of other views, the most votes first, then those that the beam search found, best first."""
    doubtful: bool = False
    """Its confidence is below ``ReadingConfig.doubtful_below``: most such readings are wrong."""
    cut: bool = False
    """It is as long as the model can write, without an end: the image may show more."""

    character_boxes: tuple[Box, ...] = field(default=(), repr=False)
    """Where each character is in the image as it was given, whichever way it was turned: with
    ``ReadingConfig.boxes``."""

    @property
    def box(self) -> Box | None:
        """Where the word is: the box around those of its characters, None without any."""
        if not self.character_boxes:
            return None
        left, top, right, bottom = zip(*self.character_boxes, strict=True)
        return min(left), min(top), max(right), max(bottom)

    @property
    def probability(self) -> float:
        """How likely the text is by the model, 0 to 1: the product of the character confidences; 0 where nothing was
        read. ``evaluate --report`` shows how near it comes to the share of words that are right."""
        return probability_of(self.character_confidences)

    @property
    def remark(self) -> str:
        """What its marks say to people, to be written after it: " (doubtful)", or "" without any."""
        marks = [name for name in ("doubtful", "cut") if getattr(self, name)]
        return f" ({', '.join(marks)})" if marks else ""

    def described(self) -> dict[str, Any]:
        """The word as JSON can hold it; turns, marks and alternatives only where there are some."""
        found = self._summary
        found["character_confidences"] = self.character_confidences
        if self.turns:
            found["turns"] = self.turns
        found |= {name: True for name in ("doubtful", "cut") if getattr(self, name)}
        if self.box:
            found |= {"box": _tenths(self.box), "character_boxes": [_tenths(box) for box in self.character_boxes]}
        if self.alternatives:
            found["alternatives"] = [w._summary for w in self.alternatives]
        return found

    @property
    def _summary(self) -> dict[str, Any]:
        return {"text": self.text, "confidence": self.confidence, "probability": self.probability}


def _tenths(box: Box) -> tuple[float, ...]:
    return tuple(round(edge, 1) for edge in box)


NOTHING = Word("", 0.0, ())
"""What is read in an image that cannot be used."""


def greedy_step(
    model: RecogniserConfig, params: Any, batch: Mapping[str, jax.Array], dtype: Any = jnp.float32
) -> dict[str, jax.Array]:
    """Read ``image`` of a batch, uint8 RGB (B, H, W, 3), greedily, computing in ``dtype``; only the classes that are
    ``allowed``, bool (B, classes), if the batch has that.

    Returns:
      ``tokens_BKT`` int32 and ``probability_BKT`` float32, for ``word_of``; here K is 1.
    """
    read: Any = model.read  # which takes what there is
    lists = {"allowed_BC": batch["allowed"]} if "allowed" in batch else {}
    reading = read(params, normalize(batch["image"], model), dtype, **lists, **widths(batch))
    return {"tokens_BKT": reading.tokens_BT[:, None], "probability_BKT": reading.probability_BT[:, None]}


def word_of(made: Mapping[str, np.ndarray], row: int, charset: Charset, lexicon: Lexicon | None = None) -> Word:
    """What a step has read in image ``row``: the best of its texts, with the others as alternatives.

    ``made`` holds ``tokens_BKT`` and ``probability_BKT``, the best of K readings first; ``score_BK`` and ``node_BK`` of
    a beam search; and ``turns`` of the images.
    """
    words: dict[str, Word] = {}
    for place, (tokens_T, probability_T) in enumerate(
        zip(made["tokens_BKT"][row], made["probability_BKT"][row], strict=True)
    ):
        if "score_BK" in made and made["score_BK"][row, place] == -np.inf:
            continue
        text, places = charset.decode(tokens_T)
        cut = int(tokens_T[-1]) not in (charset.start_end, charset.padding)
        if lexicon is not None:
            text, cut = lexicon.word(int(made["node_BK"][row, place])), False
        confidences = probability_T[places].astype(float)
        confidence = float(confidences.mean()) if len(places) else 0.0
        tokens = tuple(tokens_T[: places[-1] + 1].tolist()) if len(places) else ()
        word = Word(text, confidence, tuple(confidences.tolist()), int(made["turns"][row]), tokens, cut=cut)
        words.setdefault(text, word)
    best, *others = words.values()
    return replace(best, alternatives=tuple(others))
