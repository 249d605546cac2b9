"""Reading sets of labelled words, on the mesh, into predictions."""

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.images.batch_decoder import BatchDecoder
from data_pipelines.images.decoding import DecodeError, pixels_of
from data_pipelines.images.views import VIEWS
from data_pipelines.opening import Labels, open_sources
from data_pipelines.sources.combining import Sources
from data_pipelines.sources.records import OUTCOMES, Batch
from data_pipelines.unusable import InvalidImages
from maerec_jax.config import SourceConfig
from maerec_jax.evaluation.predictions import Prediction
from maerec_jax.reading.passes import Passes
from maerec_jax.reading.reader import Reader
from maerec_jax.reading.word import NOTHING


class SetReader:
    """A set of labelled words, and how it is read.

    Every labelled word counts, those with characters that the model cannot write too: it reads them wrong. Records
    with an empty label are left out and counted. A step has ``batch_size`` images, over all devices.

    Raises:
      DataError: where it cannot be used.
      UserError: where the lexicon has no words for one of the images.
    """

    def __init__(
        self,
        name: str,
        spec: SourceConfig,
        root: Path,
        reader: Reader,
        batch_size: int,
        workers: int,
        message: Callable[[str], None],
    ) -> None:
        self.name, self._reader = name, reader
        # What LMDBs tell begins with their path, which is often the name.
        self._message = lambda text: message(text if text.startswith(f"{name}: ") else f"{name}: {text}")
        labels = Labels(reader.config.charset.written, reader.config.max_length - 2, "keep", cut=False)
        self.source: Sources = open_sources((spec,), root, self._message, labels)
        handling = reader.handling
        if handling.lexicon is not None:
            for index in range(len(self.source)):  # rather than after hours
                handling.lexicon.root_of(self.source.name(index))
        ratio, views = handling.keep_ratio, reader.reading.views
        self._passes = Passes(
            reader.step,
            self.source,
            BatchDecoder(*reader.config.image_size, handling.interpolation, keep_ratio=ratio, views=views),
            batch_size,
            workers,
            reader.mesh,
            reader.data.buckets,
            (lambda made, row: handling.word_and_votes(made, row)[1]) if handling.turn else None,
            lambda batch: handling.columns([self.source.name(i) if i >= 0 else None for i in batch["index"].tolist()]),
        )

    def described(self) -> dict[str, Any]:
        """What is read, as JSON can hold it."""
        lines = (f"{self.source.name(i)}\0{self.source.text(i)}\n".encode() for i in range(len(self.source)))
        return {"words": len(self.source), "names and labels": _checksum(lines)}

    def read(self, done: np.ndarray) -> Iterator[list[Prediction]]:
        """Read what is not ``done``, bool (images), a batch at a time.

        Images that cannot be used are named, and read as "".
        """
        records = np.flatnonzero(~done)
        if not len(records):
            return
        invalid = InvalidImages(self.source, self._message, [self.name])
        for told, made in self._passes(self._reader.weights, records):
            invalid.tell(told)
            invalid.count(invalid.outcomes_of(told))
            rows = np.flatnonzero(told["index"] >= 0).tolist()
            yield [self._predict(told, made, row) for row in rows]
        for line in invalid.summary():
            self._message(line)

    def _predict(self, told: Batch, made: dict[str, np.ndarray], row: int) -> Prediction:
        index, usable = int(told["index"][row]), bool(told["valid"][row])
        word = self._reader.handling.word_and_votes(made, row)[0] if usable else NOTHING
        height, width = told["size"][row].tolist()
        file, truth, outcome = self.source.name(index), self.source.text(index) or "", OUTCOMES[told["outcome"][row]]
        read = word.text, word.confidence, word.character_confidences
        return Prediction(self.name, index, file, truth, *read, height=height, width=width, outcome=outcome)

    def picture(self, prediction: Prediction) -> np.ndarray | None:
        """The image of one of the predictions, uint8 RGB; None where it cannot be read."""
        try:
            return pixels_of(self.source[prediction.index])
        except (DataError, DecodeError):
            return None


def made_with(reader: Reader, params: Any, step: int, sets: Mapping[str, SetReader]) -> dict[str, Any]:
    """What decides about the readings, as JSON can hold it: the weights, how they read, and the words."""
    reading = reader.reading
    weights = _checksum(np.ascontiguousarray(leaf).tobytes() for leaf in jax.tree.leaves(params))
    found: dict[str, Any] = {"step": step, "weights": weights, "dtype": str(reader.dtype)}
    found |= {"beam": reading.beam, "turn": reader.handling.turn, "int8": reading.int8}
    found |= {name: value for name in ("characters", "blocklist") if (value := getattr(reading, name))}
    if reading.views > 1:
        found["views"] = [list(view) for view in VIEWS[: reading.views]]
    if reading.beam > 1:
        found["length_normalisation"] = reading.length_normalisation
    if (lexicon := reader.handling.lexicon) is not None:
        listed = (list(lexicon.words), lexicon.roots and dict(lexicon.roots))
        found["lexicon"] = f"{len(lexicon.words):,} words, {_checksum([repr(listed).encode()])}"
        found["match_case"] = reading.match_case
    return found | {"sets": {name: each.described() for name, each in sets.items()}}


def _checksum(parts: Iterable[bytes]) -> str:
    digest = 0
    for part in parts:
        digest = zlib.crc32(part, digest)
    return f"crc32 {digest:08x}"
