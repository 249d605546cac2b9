"""Measure finding and reading the words of scenes: python scripts/benchmarks/scenes.py --checkpoint runs/maerec_s"""

import json
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import cv2
import numpy as np

from data_pipelines.command import run_command
from maerec_jax.scenes.crops import Crops
from maerec_jax.scenes.detection import load_detector
from maerec_jax.scenes.regions import DetectionConfig, Detector

if TYPE_CHECKING:
    from data_pipelines.sources.records import Source
    from maerec_jax.reading.recognizer import Recognizer


@dataclass(frozen=True)
class ScenesArguments:
    """Compose pictures of labelled words on a background, find and read their words, and print a line of JSON a size.

    A word is found where a region covers half of what either of the two covers. Accuracies (WAICS) are over the words
    that were found: of their own images, of boxes, and of rectified crops.
    """

    checkpoint: str = ""
    """The recogniser, as for predict."""
    list: str = ""
    """List of labelled word images, in any form that training reads; by default rendered words."""
    root: str = "."
    """Folder that the list, and the images in it, are relative to."""
    sizes: tuple[tuple[int, int], ...] = ((480, 640), (1080, 1920), (3000, 4000))
    """Heights and widths of pictures."""
    pictures: int = 10
    """Pictures of each size."""
    words: int = 20
    """The most words of a picture."""
    slant: float = 25.0
    """The most degrees by which words are turned."""
    fade: float = 0.5
    """How softly words pass into the background, in shares of their heights; 0 leaves the edges of their images."""
    detection: DetectionConfig = field(default_factory=DetectionConfig)
    """How words are found."""


def measure(arguments: ScenesArguments) -> int:
    """Measure and print."""
    from data_pipelines.rendering import RenderedWords
    from data_pipelines.sources.files import Annotations
    from maerec_jax.reading.recognizer import Recognizer

    detector = load_detector(config=arguments.detection)
    recognizer = Recognizer.load(arguments.checkpoint)
    spec = Annotations(path=arguments.list) if arguments.list else RenderedWords(split="validation")
    source = spec.open(Path(arguments.root))
    for height, width in arguments.sizes:
        print(json.dumps(_measure_size(arguments, detector, recognizer, source, height, width)), flush=True)
    return 0


def _measure_size(
    arguments: ScenesArguments, detector: Detector, recognizer: "Recognizer", source: "Source", height: int, width: int
) -> dict[str, float]:
    from data_pipelines.images.decoding import pixels_of
    from data_pipelines.rendering.scene import compose_scene
    from maerec_jax.reading.scoring import HEADLINE, verdicts
    from maerec_jax.scenes.scene_reader import SceneReader

    rng = np.random.default_rng(0)
    readers = {how: SceneReader(recognizer, detector, how) for how in get_args(Crops)}
    seconds: dict[str, list[float]] = {"finding": [], "reading": []}
    right = dict.fromkeys(("alone", *readers), 0.0)
    shown = found = regions = 0
    for turn in range(arguments.pictures + 1):
        records = [source[int(i)] for i in rng.choice(len(source), arguments.words)]
        # Words of a twelfth of the picture's height look alike in all sizes.
        images = [pixels_of(record) for record in records]
        images = [_enlarged(image, height / 12 / image.shape[0] * rng.uniform(0.6, 1.4)) for image in images]
        scene = compose_scene(images, height, width, rng, arguments.slant, arguments.fade)
        start = time.perf_counter()
        prepared = readers["box"].prepare(scene.image)
        middle = time.perf_counter()
        (boxes,) = readers["box"].read_prepared([prepared])
        end = time.perf_counter()
        if not turn:  # programs are compiled in the first
            continue
        seconds["finding"].append(middle - start)
        seconds["reading"].append(end - middle)
        rectified = readers["rectified"].read(scene.image)
        alone = recognizer.read([images[number] for number in scene.words])
        shown, regions = shown + len(scene.words), regions + len(boxes.words)
        for polygon, number, own in zip(scene.polygons, scene.words, alone, strict=True):
            overlaps = [_overlap(polygon, word.polygon_N2) for word in boxes.words]
            place = int(np.argmax(overlaps)) if overlaps else 0
            if not overlaps or overlaps[place] < 0.5:
                continue
            found += 1
            readings = {"alone": own, "box": boxes.words[place].word, "rectified": rectified.words[place].word}
            for how, word in readings.items():
                right[how] += verdicts(word.text, records[number].text or "")[HEADLINE]
    return {
        "height": height,
        "width": width,
        "words": shown,
        "found": found,
        "regions": regions,
        **{f"seconds_{what}": round(statistics.median(each), 3) for what, each in seconds.items()},
        **{f"accuracy_{how}": round(count / max(found, 1), 3) for how, count in right.items()},
    }


def _enlarged(image: np.ndarray, factor: float) -> np.ndarray:
    way = cv2.INTER_CUBIC if factor > 1 else cv2.INTER_AREA
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=way)


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Area that two convex polygons share over the area of both."""
    shared = float(cv2.intersectConvexConvex(one, other)[0])
    return shared / max(cv2.contourArea(one) + cv2.contourArea(other) - shared, 1e-9)


if __name__ == "__main__":
    sys.exit(run_command(ScenesArguments, measure, "python scripts/benchmarks/scenes.py"))
