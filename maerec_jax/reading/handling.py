"""How images go into a recogniser and words come out, without the recogniser itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from data_pipelines.charset import Charset
from data_pipelines.errors import UserError
from data_pipelines.images.buckets import Shape
from data_pipelines.images.resizing import Interpolation, KeepRatio
from data_pipelines.images.views import view_image
from maerec_jax.reading.lexicon import Lexicon
from maerec_jax.reading.settings import ReadingConfig
from maerec_jax.reading.word import Word, word_of


@dataclass(frozen=True)
class Handling:
    """What is done on the host: before the step of a ``Reader``, and with what it returns."""

    kind: str
    """The kind of model."""
    has_attention: bool
    """Whether the model has attention maps."""
    has_lists: bool
    """Whether it can be told which characters to read."""
    charset: Charset
    """The characters that it reads."""
    shapes: tuple[Shape, ...]
    """Image sizes (height, width) to choose from for each image."""
    interpolation: Interpolation
    """How images are resized."""
    keep_ratio: KeepRatio | None
    """How they keep their aspect ratio; None where they do not."""
    turn: bool
    """Whether tall images are also read turned left and right."""
    reading: ReadingConfig
    """How words are read."""
    lexicon: Lexicon | None = None
    """The only words that may be read."""

    def __post_init__(self) -> None:
        self.allowed(None, None)  # raises where the settings list what cannot be read

    @cached_property
    def _allowed_as_set(self) -> np.ndarray:
        return self.allowed(None, None)

    def allowed(self, characters: str | None, blocklist: str | None) -> np.ndarray:
        """The classes that may be read, bool (classes): all, only those of ``characters`` if there are any, and none of
        ``blocklist``; None for what the settings say. With either, the end of a text stays allowed, but not the class
        of unknown characters. Of a letter that the charset has in parts its parts count.

        Raises:
          UserError: for characters that the model does not know, none that are left, or a model or lexicon that has no
            such lists.
        """
        charset, reading = self.charset, self.reading
        only = reading.characters if characters is None else characters
        without = reading.blocklist if blocklist is None else blocklist
        allowed_C = np.ones(charset.n_classes, bool)
        if not only and not without:
            return allowed_C
        if not self.has_lists:
            raise UserError(f"a model of kind {self.kind!r} cannot be told which characters to read")
        if self.lexicon is not None:
            raise UserError("give either a lexicon or lists of characters, not both")
        allowed_C[:] = not only
        for name, listed, value in (("characters", only, True), ("blocklist", without, False)):
            spelt = charset.spell(listed.lower() if charset.lower_case else listed)
            if outside := [c for c in dict.fromkeys(spelt) if c not in charset.characters]:
                raise UserError(f"{name}: the model cannot write {', '.join(map(repr, outside[:8]))}")
            allowed_C[[charset.characters.index(c) for c in spelt]] = value
        if not allowed_C[: charset.start_end].any():
            raise UserError("blocklist: no character is left to be read")
        allowed_C[[charset.start_end, charset.padding, charset.unknown]] = True, False, False
        return allowed_C

    def columns(
        self, names: Sequence[str | None], allowed: Sequence[np.ndarray | None] | None = None
    ) -> dict[str, np.ndarray]:
        """What a batch needs beside its images: each image's word list by its name (None for rows without an image),
        and the classes that may be read in it, by default those of the settings.

        Raises:
          UserError: where the lexicon has no words for one of them.
        """
        columns: dict[str, np.ndarray] = {}
        if self.lexicon is not None:
            roots = [0 if name is None else self.lexicon.root_of(name) for name in names]
            columns["root"] = np.array(roots, np.int32)
        if self.has_lists:
            rows = allowed or [None] * len(names)
            columns["allowed"] = np.stack([self._allowed_as_set if row is None else row for row in rows])
        return columns

    def prepare(self, pixels: np.ndarray, shape: Shape) -> tuple[np.ndarray, int]:
        """Resize uint8 RGB pixels (h, w, 3) to ``shape``: (H, W, 3), or (V, H, W, 3) where there are V > 1 views.

        And how many of its columns are picture: fewer than all where the model keeps the aspect ratio.
        """
        height, width = shape
        if (keep_ratio := self.keep_ratio) is not None:
            width = keep_ratio.width(pixels.shape[:2], *shape, training=False)
        views = np.zeros((self.reading.views, *shape, 3), np.uint8)
        view_image(pixels, self.reading.views, height, width, self.interpolation, views[:, :, :width])
        return (views if self.reading.views > 1 else views[0]), width

    def word_and_votes(self, made: Mapping[str, np.ndarray], row: int) -> tuple[Word, float]:
        """What ``step`` has read in an image, and how much speaks for it: the sum of its probabilities in the views
        that read so. The word is as the first of these views shows it; what others read is among its alternatives.
        """
        word, votes = self._best(made, row)
        doubtful = word.text != "" and word.confidence < self.reading.doubtful_below
        return (replace(word, doubtful=True) if doubtful else word), votes

    def _best(self, made: Mapping[str, np.ndarray], row: int) -> tuple[Word, float]:
        if self.reading.views == 1:
            word = word_of(made, row, self.charset, self.lexicon)
            return word, word.probability
        seen = {name: value[row] for name, value in made.items()}
        seen["turns"] = np.repeat(seen["turns"], self.reading.views)
        words: dict[str, Word] = {}
        votes: dict[str, float] = {}
        for view in range(self.reading.views):
            word = word_of(seen, view, self.charset, self.lexicon)
            words.setdefault(word.text, word)
            votes[word.text] = votes.get(word.text, 0.0) + word.probability
        first, *others = sorted(votes, key=votes.__getitem__, reverse=True)
        best = words[first]
        # Views that read otherwise come before what a beam found beside the best.
        known = {first, *others}
        rest = (*(words[text] for text in others), *(w for w in best.alternatives if w.text not in known))
        return replace(best, alternatives=tuple(replace(w, alternatives=()) for w in rest)), votes[first]
