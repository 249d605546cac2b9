"""How words are read: the step that runs on the devices."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from data_pipelines.errors import UserError
from maerec_jax.config import TrainConfig, compute_dtype
from maerec_jax.distributed.sharding import put_whole, replicated
from maerec_jax.models.beam import beam_read
from maerec_jax.models.int8 import quantize
from maerec_jax.models.interface import RecogniserConfig, normalize, widths
from maerec_jax.reading.handling import Handling
from maerec_jax.reading.lexicon import Lexicon, Words
from maerec_jax.reading.settings import ReadingConfig
from maerec_jax.reading.word import greedy_step

Array = jax.Array


@dataclass(frozen=True)
class ReadingStep:
    """How a batch is read, for use under jit: those that are equal share what is compiled (``jitted``)."""

    model: RecogniserConfig
    """The recogniser."""
    dtype: Any
    """Dtype of the computation."""
    views: int
    """Views of each image."""
    beam: int
    """Width of the beam; 0 for greedy reading."""
    length_normalisation: float
    """Of the beam."""

    def __call__(self, weights: Any, batch: dict[str, Array]) -> dict[str, Array]:
        """Read a batch: from ``image`` (and ``root`` and ``width``, see ``Handling``)
        to what ``Handling.word_and_votes`` takes, beside ``turns``.

        With several views images are (B, V, H, W, 3), and results have an axis V after B. One view is read after the
        other, so that a batch takes no more memory than with one.
        """
        if self.views == 1:
            return self._read(weights, batch)
        image_VBHWC = jnp.moveaxis(batch["image"], 1, 0)
        found = jax.lax.map(lambda image_BHWC: self._read(weights, batch | {"image": image_BHWC}), image_VBHWC)
        return {name: jnp.moveaxis(value, 0, 1) for name, value in found.items()}

    def _read(self, weights: Any, batch: dict[str, Array]) -> dict[str, Array]:
        if not self.beam:
            return greedy_step(self.model, weights["params"], batch, self.dtype)
        found = beam_read(
            self.model.module(self.dtype),
            weights["params"],
            normalize(batch["image"], self.model),
            self.beam,
            self.length_normalisation,
            weights.get("trie"),
            batch.get("root"),
            batch.get("allowed"),
            **widths(batch),
        )
        return found._asdict()

    def attention(self, weights: Any, batch: dict[str, Array]) -> Array:
        """Attention maps of ``image`` and the ``tokens`` that were read, under jit."""
        image_BHWC = normalize(batch["image"], self.model)
        return self.model.attention(weights["params"], image_BHWC, batch["tokens"], self.dtype, **widths(batch))


@lru_cache(maxsize=8)
def jitted(step: ReadingStep) -> Callable[..., dict[str, Array]]:
    """The step under jit; what was asked for before is not compiled again."""
    return jax.jit(step)


@lru_cache(maxsize=8)
def jitted_attention(step: ReadingStep) -> Callable[..., Array]:
    """Its attention maps under jit."""
    return jax.jit(step.attention)


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
        self.config, self.data, self.reading, self.mesh = merged, config.data, reading, mesh
        lexicon: Lexicon | None = None
        how = self.config.charset, self.config.max_length - 2, not reading.match_case, tell
        if words is not None and reading.lexicon:
            raise UserError(f"give either words or the lexicon file {reading.lexicon}, not both")
        if words is not None:
            lexicon = Lexicon.of(words, *how)
        elif reading.lexicon:
            lexicon = Lexicon.read(reading.lexicon, *how)
        if not self.config.has_beams and (reading.beam > 1 or lexicon is not None):
            raise UserError(
                f"a model of kind {self.config.kind!r} has no beam search or lexicon: leave out --beam and --lexicon"
            )
        if reading.int8 and not self.config.has_int8:
            raise UserError(f"a model of kind {self.config.kind!r} has no 8-bit weights: leave out --int8")
        if reading.boxes and not self.config.has_attention:
            raise UserError(f"a model of kind {self.config.kind!r} has no attention maps: leave out --boxes")
        self.dtype = compute_dtype(reading.dtype or config.dtype)
        weights = {"params": quantize(params) if reading.int8 else params}
        if lexicon is not None:
            weights["trie"] = lexicon.trie
        data, turn = config.data, config.data.turn_vertical if reading.turn is None else reading.turn
        self.handling = Handling(
            merged.kind, merged.has_attention, merged.has_lists, merged.charset, data.buckets or (merged.image_size,),
            data.interpolation, merged.keep_ratio, turn, reading, lexicon,
        )  # fmt: skip
        self.weights = put_whole(weights, replicated(mesh))  # what ``step`` needs, on the devices
        greedy = reading.beam == 1 and lexicon is None
        beam = 0 if greedy else reading.beam
        self.step = ReadingStep(merged, self.dtype, reading.views, beam, reading.length_normalisation * bool(beam))
