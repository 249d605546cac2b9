"""Measure finding and reading the words of scenes: python scripts/benchmarks/scenes.py --checkpoint runs/maerec_s"""

import json
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import cv2
import numpy as np

from data_pipelines.command import run_command
from data_pipelines.images.buckets import Shape
from data_pipelines.images.crops import Crops
from data_pipelines.images.decoding import pixels_of
from data_pipelines.rendering import RenderedWords
from data_pipelines.rendering.scene import compose_scene
from data_pipelines.sources.files import Annotations
from data_pipelines.sources.records import Source
from maerec_jax.reading.recognizer import Recognizer
from maerec_jax.reading.scoring import HEADLINE, verdicts
from maerec_jax.scenes.detection import load_detector
from maerec_jax.scenes.regions import DetectionConfig
from maerec_jax.scenes.scene_reader import SceneReader

_CROPS: tuple[Crops, ...] = ("box", "rectified")


@dataclass(frozen=True)
class ScenesArguments:
    """Compose pictures of labelled words, find and read their words, and print a line of JSON per picture size.

    A word counts as found if a region overlaps it with an intersection over union of at least 0.5.

    Accuracies (WAICS) are over the words found: for their own images, for boxes, and for rectified crops.
    """

    checkpoint: str = ""
    """Recogniser, as in maerec_jax.predict."""
    list: str = ""
    """Annotation list of word images; default: rendered words."""
    root: str = "."
    """Data root that the list and its images are relative to."""
    sizes: tuple[tuple[int, int], ...] = ((480, 640), (1080, 1920), (3000, 4000))
    """Heights and widths of pictures."""
    pictures: int = 10
    """Pictures of each size."""
    words: int = 20
    """Words per picture, at most."""
    slant: float = 25.0
    """Largest rotation of words, in degrees."""
    fade: float = 0.5
    """Soft edge of the words, as a fraction of their height; 0 for none."""
    detection: DetectionConfig = field(default_factory=DetectionConfig)
    """How words are found."""


def measure(arguments: ScenesArguments) -> int:
    detector = load_detector(config=arguments.detection)
    recognizer = Recognizer.load(arguments.checkpoint or None)
    readers: dict[str, SceneReader] = {how: SceneReader(recognizer, detector, how) for how in _CROPS}
    spec = Annotations(path=arguments.list) if arguments.list else RenderedWords(split="validation")
    source = spec.open(Path(arguments.root))
    for size in arguments.sizes:
        print(json.dumps(measure_size(arguments, recognizer, readers, source, size)), flush=True)
    return 0


def measure_size(
    arguments: ScenesArguments, alone: Recognizer, readers: dict[str, SceneReader], source: Source, size: Shape
) -> dict[str, float]:
    """All numbers of pictures of a size."""
    (height, width), rng, box = size, np.random.default_rng(0), readers["box"]
    seconds, right = defaultdict[str, list[float]](list), defaultdict[str, float](float)
    shown = found = regions = 0
    for turn in range(arguments.pictures + 1):
        records = [source[int(i)] for i in rng.choice(len(source), arguments.words)]
        # Words of a twelfth of the picture's height look alike in all sizes.
        images = [pixels_of(record) for record in records]
        images = [_enlarged(image, height / 12 / image.shape[0] * rng.uniform(0.6, 1.4)) for image in images]
        scene = compose_scene(images, height, width, rng, arguments.slant, arguments.fade)
        start = time.perf_counter()
        prepared = box.prepare(scene.image)
        middle = time.perf_counter()
        (boxes,) = box.read_prepared([prepared])
        end = time.perf_counter()
        if not turn:  # programs are compiled in the first
            continue
        seconds["finding"].append(middle - start)
        seconds["reading"].append(end - middle)
        rectified = readers["rectified"].read(scene.image)
        own = alone.read([images[number] for number in scene.words])
        shown, regions = shown + len(scene.words), regions + len(boxes.words)
        for polygon, number, word in zip(scene.polygons, scene.words, own, strict=True):
            overlaps = [_overlap(polygon, region.polygon_N2) for region in boxes.words]
            if max(overlaps, default=0.0) < 0.5:
                continue
            found, place = found + 1, int(np.argmax(overlaps))
            readings = {"alone": word, "box": boxes.words[place].word, "rectified": rectified.words[place].word}
            for how, reading in readings.items():
                right[how] += verdicts(reading.text, records[number].text or "")[HEADLINE]
    numbers: dict[str, float] = {"height": height, "width": width, "words": shown, "found": found, "regions": regions}
    numbers |= {f"seconds_{what}": round(median(each), 3) for what, each in seconds.items()}
    return numbers | {f"accuracy_{how}": round(right[how] / max(found, 1), 3) for how in ("alone", *readers)}


def _enlarged(image: np.ndarray, factor: float) -> np.ndarray:
    way = cv2.INTER_CUBIC if factor > 1 else cv2.INTER_AREA
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=way)


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Area that two convex polygons share over the area of both."""
    shared = float(cv2.intersectConvexConvex(one, other)[0])
    return shared / max(cv2.contourArea(one) + cv2.contourArea(other) - shared, 1e-9)


if __name__ == "__main__":
    sys.exit(run_command(ScenesArguments, measure, "python scripts/benchmarks/scenes.py"))
