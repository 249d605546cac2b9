"""Pictures whose words are found first: detection in threads of its own, the words in the batches of everybody."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from data_pipelines.errors import UserError
from maerec_jax.reading.reader import Word
from maerec_jax.reading.recognizer import Prepared
from maerec_jax.scenes.crops import Crops, crop
from maerec_jax.scenes.regions import Detector, Region
from maerec_jax.scenes.scene_reader import SceneWord
from maerec_jax.serving.answers import SceneReading, SceneReadings, SceneWordReading
from maerec_jax.serving.bodies import Upload
from maerec_jax.serving.limits import Places
from maerec_jax.serving.service import Service

_NO_PIXELS = np.zeros((0, 0, 3), np.uint8)


class _Found(NamedTuple):
    """What is kept of a picture while its words are read."""

    width: int
    height: int
    regions: list[Region]
    prepared: list[Prepared]


class Scenes:
    """Finds and reads the words of the pictures of requests.

    Args:
      service: what reads the words.
      detector: what finds them; several threads call it.
      crops: how they are cut out.
      threads: in how many pictures words are looked for at the same time.
    """

    def __init__(self, service: Service, detector: Detector, crops: Crops = "box", threads: int = 1) -> None:
        if threads < 1:
            raise UserError(f"detect_threads must be at least 1, not {threads}")
        self._service, self._detector, self._crops = service, detector, crops
        most = service.limits.scenes
        self.places = Places(most, "scenes_full", f"{most} pictures are accepted at a time: try again later")
        self._pool = ThreadPoolExecutor(threads, "detecting")
        service.on_close(self._pool.shutdown)

    async def scenes(self, uploads: list[Upload]) -> SceneReadings:
        """Find and read the words of pictures."""
        return SceneReadings(results=await asyncio.gather(*map(self._scene, uploads)))

    async def _scene(self, upload: Upload) -> SceneReading:
        service = self._service
        try:
            found = await asyncio.wrap_future(self._pool.submit(self._find, upload))
            words: list[Word] = []
            step = service.recognizer.batch_sizes[-1]
            # A batch at a time: a page full of words does not keep single words waiting until it is read.
            for start in range(0, len(found.prepared), step):
                futures = map(service.batcher.submit, found.prepared[start : start + step])
                words += await asyncio.gather(*map(asyncio.wrap_future, futures))
        except Exception as error:
            return SceneReading(file=upload.name, error=service.failure(error, "a picture"))
        service.metrics.images.labels("read").inc()
        read = zip(found.regions, words, found.prepared, strict=True)
        described = [SceneWord(r.polygon_N2, r.confidence, word, _NO_PIXELS, p).described() for r, word, p in read]
        return SceneReading(
            file=upload.name,
            width=found.width,
            height=found.height,
            words=[SceneWordReading.model_validate(word) for word in described],
        )

    def _find(self, upload: Upload) -> _Found:
        recognizer, metrics = self._service.recognizer, self._service.metrics
        with metrics.timed("decode"):
            pixels = self._service.decode(upload)
            recognizer.reader.columns([upload.name])  # the lexicon may have no words for it
        with metrics.timed("detect"):
            regions = self._detector.detect(pixels)
            # One at a time, as the boxes of long slanting words may all be as large as the picture.
            prepared = [
                recognizer.prepare_pixels(crop(pixels, r.polygon_N2, self._crops), upload.name) for r in regions
            ]
        return _Found(pixels.shape[1], pixels.shape[0], regions, prepared)
