"""Pictures whose words are found first: detection in threads of its own, the words in the batches of everybody."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.images.crops import Crops, crop
from maerec_jax.reading.recognizer import Prepared
from maerec_jax.reading.word import Word
from maerec_jax.scenes.placing import in_picture
from maerec_jax.scenes.regions import Detector, Region
from maerec_jax.serving.bodies import Upload
from maerec_jax.serving.limits import Places
from maerec_jax.serving.service import Result, Service


class Scenes:
    """Finds and reads the words of the pictures of requests; ``threads`` threads call the detector."""

    def __init__(self, service: Service, detector: Detector, crops: Crops = "box", threads: int = 1) -> None:
        if threads < 1:
            raise UserError(f"detect_threads must be at least 1, not {threads}")
        self._service, self._detector, self._crops = service, detector, crops
        most = service.limits.scenes
        self.places = Places(most, "scenes_full", f"{most} pictures are accepted at a time: try again later")
        self._pool = ThreadPoolExecutor(threads, "detecting")
        service.closing.callback(self._pool.shutdown)

    async def scene(self, upload: Upload, allowed_C: np.ndarray) -> Result:
        """Find and read the words of a picture, in the classes that are allowed."""
        (height, width), regions, prepared = await asyncio.wrap_future(self._pool.submit(self._find, upload, allowed_C))
        words: list[Word] = []
        step = self._service.recognizer.batch_sizes[-1]
        # A batch at a time: a page full of words does not keep single words waiting until it is read.
        for start in range(0, len(prepared), step):
            futures = map(self._service.batcher.submit, prepared[start : start + step])
            words += await asyncio.gather(*map(asyncio.wrap_future, futures))
        found = [
            {
                "polygon": [(round(float(x), 1), round(float(y), 1)) for x, y in region.polygon_N2],
                "detection_confidence": region.confidence,
                **in_picture(word, (height, width), region.polygon_N2, self._crops).described(),
            }
            for region, word in zip(regions, words, strict=True)
        ]
        return {"width": width, "height": height, "words": found}

    def _find(self, upload: Upload, allowed_C: np.ndarray) -> tuple[tuple[int, int], list[Region], list[Prepared]]:
        """Height and width of a picture, where its words are, and the words as the model gets them."""
        pixels = self._service.decode(upload)
        with self._service.metrics.stage_seconds.labels("detect").time():
            regions = self._detector.detect(pixels)
            # One at a time, as the boxes of long slanting words may all be as large as the picture.
            crops = (crop(pixels, region.polygon_N2, self._crops) for region in regions)
            prepared = [self._service.recognizer.prepare_pixels(each, upload.name, allowed_C) for each in crops]
        return (pixels.shape[0], pixels.shape[1]), regions, prepared
