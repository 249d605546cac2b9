"""Read words with an exported StableHLO file: python scripts/read_stablehlo.py maerec.stablehlo IMAGE ...

An example to start from, on whatever JAX runs on. It needs jax, flatbuffers, numpy and opencv-python-headless, and
nothing of this project: what it has to know of the model is in the file.
"""

import io
import json
import math
import sys
import zipfile
from collections.abc import Callable

import cv2
import jax
import jax.export
import numpy as np


def load(path: str) -> tuple[dict, Callable]:
    """What is known of the model, and its function of uint8 RGB (B, H, W, 3), compiled for each size it is given."""
    with zipfile.ZipFile(path) as archive:
        about = json.loads(archive.read("about.json"))
        weights = jax.device_put(dict(np.load(io.BytesIO(archive.read("weights.npz")))))
        programs = {}
        for height, width in about["image_sizes"]:
            program = jax.export.deserialize(bytearray(archive.read(f"programs/{height}x{width}")))
            programs[height, width] = jax.jit(program.call)
    return about, lambda image: programs[image.shape[1:3]](weights, image)


def prepare(image: np.ndarray, sizes: list[list[int]]) -> np.ndarray:
    """Resize uint8 RGB (height, width, 3) to the one of the model's sizes whose aspect ratio is the nearest."""
    ratio = math.log(image.shape[1] / image.shape[0])
    height, width = min(sizes, key=lambda size: abs(math.log(size[1] / size[0]) - ratio))
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def text_of(tokens: np.ndarray, probabilities: np.ndarray, about: dict) -> tuple[str, float]:
    """The text of a row of the output, and its confidence: the mean probability of its characters."""
    text, confidences = "", []
    for token, probability in zip(tokens.tolist(), probabilities.tolist(), strict=True):
        if token == about["start_end"]:
            break
        if token != about["padding"]:
            text += about["unknown_text"] if token == about["unknown"] else about["characters"][token]
            confidences.append(probability)
    return text, float(np.mean(confidences)) if confidences else 0.0


def main(model: str, *files: str) -> int:
    """Read the words in image files, and print the confidence, text and name of each."""
    about, read = load(model)
    failed = False
    for file in files:
        image = cv2.imread(file, cv2.IMREAD_COLOR_RGB)
        if image is None:
            print(f"not read: {file}", file=sys.stderr)
            failed = True
            continue
        made = jax.device_get(read(prepare(image, about["image_sizes"])[None]))
        text, confidence = text_of(made["tokens"][0], made["probabilities"][0], about)
        print(f"{confidence:6.1%}  {text:<24}  {file}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]) if len(sys.argv) > 2 else __doc__)
