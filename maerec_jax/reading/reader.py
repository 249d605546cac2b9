"""How words are read: the settings, and the step that runs on the devices."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.sharding import Mesh

from data_pipelines.errors import UserError
from data_pipelines.images.buckets import Shape
from data_pipelines.images.views import VIEWS, view_image
from maerec_jax.config import TrainConfig, compute_dtype
from maerec_jax.distributed.sharding import put_whole, replicated
from maerec_jax.models.beam import beam_read
from maerec_jax.models.int8 import quantize
from maerec_jax.models.interface import RecogniserConfig, normalize, widths
from maerec_jax.reading.lexicon import Lexicon, Words
from maerec_jax.reading.word import Word, greedy_step, word_of

Array = jax.Array

DOUBTFUL_BELOW = 0.85
"""The confidence below which most readings of ``maerec_tiny`` are wrong, by the report on real words."""


@dataclass(frozen=True)
class ReadingConfig:
    """How words are read."""

    beam: int = 1
    """Beam width: candidates kept while decoding. 1 is greedy decoding; more takes longer and gives alternatives."""
    length_normalisation: float = 0.5
    """Beam search divides log probabilities by length to this power; 1 favours longer texts than 0."""
    lexicon: str = ""
    """Read only words in this file: .txt, a word per line; .jsonl, "file" and "words". Best with --beam 5."""
    match_case: bool = False
    """Match the case of lexicon words; without it, "Exit" in the lexicon also allows "EXIT"."""
    characters: str = ""
    """Read only these characters, such as 0123456789; all of the model's by default."""
    blocklist: str = ""
    """Never read these characters."""
    turn: bool | None = None
    """Also read tall images turned left and right, and keep the likeliest reading; default: as in training."""
    views: int = 1
    """Views of each image, 1 to 10 (whole, tilted ...): the likeliest text wins. N times the work."""
    boxes: bool = False
    """Also tell where each character is, by where the model looked: up to twice the work."""
    dtype: Literal["auto", "float32", "bfloat16"] | None = None
    """Dtype of the computation: auto is bfloat16 on GPU and TPU, float32 on CPU. Default: as in the run."""
    int8: bool = False
    """Store the weights of linear layers as 8-bit integers: a quarter of the memory (see docs/reading.md)."""
    doubtful_below: float = DOUBTFUL_BELOW
    """Mark readings with a lower confidence as doubtful; evaluate --report measures where most are wrong."""

    def __post_init__(self) -> None:
        if self.beam < 1:
            raise UserError(f"beam must be at least 1, not {self.beam}")
        if not 1 <= self.views <= len(VIEWS):
            raise UserError(f"views must be from 1 to {len(VIEWS)}, not {self.views}")
        if not 0 <= self.doubtful_below <= 1:
            raise UserError(f"doubtful_below must be from 0 to 1, not {self.doubtful_below}")
        if self.length_normalisation < 0:
            raise UserError(f"length_normalisation must not be negative, but is {self.length_normalisation}")


@dataclass(frozen=True, kw_only=True)
class ReadingArguments:
    """What the commands that read have in common."""

    checkpoint: str = ""
    """Workdir, checkpoint, .safetensors file, or built-in model (docs/weights.md); default: maerec_tiny."""
    adapters: str = ""
    """LoRA adapters (.safetensors); --checkpoint is then the model that they were trained from."""
    reading: Annotated[ReadingConfig, tyro.conf.arg(name="")] = field(default_factory=ReadingConfig)
    batch_size: int = 32
    """Images read at once. Smaller batches are padded to one of a few sizes."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"--batch-size must be at least 1, not {self.batch_size}")


class Reader:
    """A recogniser on the devices of a mesh, and how it reads.

    Adapters among the parameters, NumPy arrays, are merged into the weights beside them. All devices hold all of them,
    and divide the rows of a batch. ``words``, instead of those of a file, and ``tell`` are those of ``Recognizer``.

    Raises:
      UserError: for a lexicon that cannot be used.
    """

    def __init__(
        self,
        config: TrainConfig,
        params: Any,
        reading: ReadingConfig,
        mesh: Mesh,
        words: Words | None = None,
        tell: Callable[[str], Any] = warnings.warn,
    ) -> None:
        assert isinstance(config.model, RecogniserConfig)
        merged, params = config.model.merged(params)
        assert isinstance(merged, RecogniserConfig)
        self.config = merged
        self.data, self.reading, self.mesh = config.data, reading, mesh
        self.turn = config.data.turn_vertical if reading.turn is None else reading.turn
        self.shapes: tuple[Shape, ...] = config.data.buckets or (self.config.image_size,)
        self.lexicon: Lexicon | None = None
        how = self.config.charset, self.config.max_length - 2, not reading.match_case, tell
        if words is not None and reading.lexicon:
            raise UserError(f"give either words or the lexicon file {reading.lexicon}, not both")
        if words is not None:
            self.lexicon = Lexicon.of(words, *how)
        elif reading.lexicon:
            self.lexicon = Lexicon.read(reading.lexicon, *how)
        if not self.config.has_beams and (reading.beam > 1 or self.lexicon is not None):
            raise UserError(
                f"a model of kind {self.config.kind!r} has no beam search or lexicon: leave out --beam and --lexicon"
            )
        if reading.int8 and not self.config.has_int8:
            raise UserError(f"a model of kind {self.config.kind!r} has no 8-bit weights: leave out --int8")
        if reading.boxes and not self.config.has_attention:
            raise UserError(f"a model of kind {self.config.kind!r} has no attention maps: leave out --boxes")
        self._allowed_C = self.allowed(reading.characters, reading.blocklist)
        self.dtype = compute_dtype(reading.dtype or config.dtype)
        weights = {"params": quantize(params) if reading.int8 else params}
        if self.lexicon is not None:
            weights["trie"] = self.lexicon.trie
        self.weights = put_whole(weights, replicated(mesh))  # what ``step`` needs, on the devices

    def step(self, weights: Any, batch: dict[str, Array]) -> dict[str, Array]:
        """Read a batch, for use under jit: from ``image`` (and ``root``, see ``columns``, and ``width``, see
        ``prepare``) to what ``word_and_votes`` takes, beside ``turns``.

        With several views images are (B, V, H, W, 3), and results have an axis V after B. One view is read after the
        other, so that a batch takes no more memory than with one.
        """
        if self.reading.views == 1:
            return self._read(weights, batch)
        image_VBHWC = jnp.moveaxis(batch["image"], 1, 0)
        found = jax.lax.map(lambda image_BHWC: self._read(weights, batch | {"image": image_BHWC}), image_VBHWC)
        return {name: jnp.moveaxis(value, 0, 1) for name, value in found.items()}

    def _read(self, weights: Any, batch: dict[str, Array]) -> dict[str, Array]:
        if self.reading.beam == 1 and self.lexicon is None:
            return greedy_step(self.config, weights["params"], batch, self.dtype)
        found = beam_read(
            self.config.module(self.dtype),
            weights["params"],
            normalize(batch["image"], self.config),
            self.reading.beam,
            self.reading.length_normalisation,
            weights.get("trie"),
            batch.get("root"),
            batch.get("allowed"),
            **widths(batch),
        )
        return found._asdict()

    def attention(self, weights: Any, batch: dict[str, Array]) -> Array:
        """Attention maps of ``image`` and the ``tokens`` that were read, under jit."""
        image_BHWC = normalize(batch["image"], self.config)
        return self.config.attention(weights["params"], image_BHWC, batch["tokens"], self.dtype, **widths(batch))

    def allowed(self, characters: str | None, blocklist: str | None) -> np.ndarray:
        """The classes that may be read, bool (classes): all, only those of ``characters`` if there are any, and none of
        ``blocklist``; None for what the settings say. With either, the end of a text stays allowed, but not the class
        of unknown characters. Of a letter that the charset has in parts its parts count.

        Raises:
          UserError: for characters that the model does not know, none that are left, or a model or lexicon that has no
            such lists.
        """
        charset, reading = self.config.charset, self.reading
        only = reading.characters if characters is None else characters
        without = reading.blocklist if blocklist is None else blocklist
        allowed_C = np.ones(charset.n_classes, bool)
        if not only and not without:
            return allowed_C
        if not self.config.has_lists:
            raise UserError(f"a model of kind {self.config.kind!r} cannot be told which characters to read")
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
        if self.config.has_lists:
            rows = allowed or [None] * len(names)
            columns["allowed"] = np.stack([self._allowed_C if row is None else row for row in rows])
        return columns

    def prepare(self, pixels: np.ndarray, shape: Shape) -> tuple[np.ndarray, int]:
        """Resize uint8 RGB pixels (h, w, 3) to ``shape``: (H, W, 3), or (V, H, W, 3) where there are V > 1 views.

        And how many of its columns are picture: fewer than all where the model keeps the aspect ratio.
        """
        height, width = shape
        if (keep_ratio := self.config.keep_ratio) is not None:
            width = keep_ratio.width(pixels.shape[:2], *shape, training=False)
        views = np.zeros((self.reading.views, *shape, 3), np.uint8)
        view_image(pixels, self.reading.views, height, width, self.data.interpolation, views[:, :, :width])
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
            word = word_of(made, row, self.config.charset, self.lexicon)
            return word, word.probability
        seen = {name: value[row] for name, value in made.items()}
        seen["turns"] = np.repeat(seen["turns"], self.reading.views)
        words: dict[str, Word] = {}
        votes: dict[str, float] = {}
        for view in range(self.reading.views):
            word = word_of(seen, view, self.config.charset, self.lexicon)
            words.setdefault(word.text, word)
            votes[word.text] = votes.get(word.text, 0.0) + word.probability
        first, *others = sorted(votes, key=votes.__getitem__, reverse=True)
        best = words[first]
        # Views that read otherwise come before what a beam found beside the best.
        known = {first, *others}
        rest = (*(words[text] for text in others), *(w for w in best.alternatives if w.text not in known))
        return replace(best, alternatives=tuple(replace(w, alternatives=()) for w in rest)), votes[first]
