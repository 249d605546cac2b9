"""Reading sets of labelled words, on the mesh, into predictions."""

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.images.batch_decoder import BatchDecoder
from data_pipelines.images.decoding import DecodeError, pixels_of
from data_pipelines.images.views import VIEWS
from data_pipelines.opening import Labels, open_sources
from data_pipelines.sources.combining import Sources
from data_pipelines.sources.records import OUTCOMES, Batch
from data_pipelines.unusable import InvalidImages
from maerec_jax.config import TrainConfig
from maerec_jax.evaluation.predictions import Prediction
from maerec_jax.evaluation.sets import MeasuredSet
from maerec_jax.reading.passes import Passes
from maerec_jax.reading.reader import Reader
from maerec_jax.reading.word import NOTHING


class SetReader:
    """A set of labelled words, and how it is read.

    Every labelled word counts, those with characters that the model cannot write too: it reads them wrong. Records
    with an empty label are left out and counted.

    Args:
      measured: the set.
      config: the run that the recogniser comes from, with the data root.
      reader: the recogniser.
      batch_size: images a step, over all devices.
      workers: worker processes that read.
      message: prints a line.

    Raises:
      DataError: where it cannot be used.
      UserError: where the lexicon has no words for one of the images.
    """

    def __init__(
        self,
        measured: MeasuredSet,
        config: TrainConfig,
        reader: Reader,
        batch_size: int,
        workers: int,
        message: Callable[[str], None],
    ) -> None:
        self.name, self._reader = measured.name, reader
        self._message = lambda text: message(f"{self.name}: {text}")
        labels = Labels(reader.config.charset.characters, reader.config.max_length - 2, "keep")
        self.source: Sources = open_sources((measured.spec,), Path(config.data.root), self._message, labels)
        if reader.lexicon is not None:
            for index in range(len(self.source)):  # rather than after hours
                reader.lexicon.root_of(self.source.name(index))
        height, width = reader.config.image_size
        self._passes = Passes(
            reader.step,
            self.source,
            BatchDecoder(height, width, reader.data.interpolation, views=reader.reading.views),
            batch_size,
            workers,
            reader.mesh,
            reader.data.buckets,
            (lambda made, row: reader.word_and_votes(made, row)[1]) if reader.turn else None,
            self._columns,
        )

    def _columns(self, batch: Batch) -> dict[str, np.ndarray]:
        return self._reader.columns([self.source.name(i) if i >= 0 else None for i in batch["index"].tolist()])

    def digest(self) -> str:
        """A checksum of the names and labels."""
        digest = 0
        for index in range(len(self.source)):
            digest = zlib.crc32(f"{self.source.name(index)}\0{self.source.text(index)}\n".encode(), digest)
        return f"crc32 {digest:08x}"

    def read(self, done: np.ndarray) -> Iterator[list[Prediction]]:
        """Read what is not ``done``, bool (images), a batch at a time.

        Images that cannot be used are named, and read as "".
        """
        records = np.flatnonzero(~done)
        if not len(records):
            return
        invalid = InvalidImages(self.source, self._message)
        for told, made in self._passes(self._reader.weights, records):
            invalid.tell(told)
            invalid.count(invalid.outcomes_of(told))
            rows = np.flatnonzero(told["index"] >= 0).tolist()
            yield [self._predict(told, made, row) for row in rows]
        for line in invalid.summary():
            self._message(line)

    def _predict(self, told: Batch, made: dict[str, np.ndarray], row: int) -> Prediction:
        index, usable = int(told["index"][row]), bool(told["valid"][row])
        word = self._reader.word(made, row) if usable else NOTHING
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


def describe(reader: Reader) -> dict[str, Any]:
    """How a recogniser reads, as JSON can hold it: what decides, beside its weights, what is read."""
    reading = reader.reading
    described: dict[str, Any] = {"dtype": str(reader.dtype), "beam": reading.beam, "turn": reader.turn}
    described["int8"] = reading.int8
    if reading.views > 1:
        described["views"] = [list(view) for view in VIEWS[: reading.views]]
    if reading.beam > 1:
        described["length_normalisation"] = reading.length_normalisation
    if reader.lexicon is not None:
        listed = (list(reader.lexicon.words), reader.lexicon.roots and dict(reader.lexicon.roots))
        described |= {
            "lexicon": f"{len(reader.lexicon.words):,} words, crc32 {zlib.crc32(repr(listed).encode()):08x}",
            "match_case": reading.match_case,
        }
    return described
