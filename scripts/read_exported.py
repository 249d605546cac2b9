"""Read words with an exported file: python scripts/read_exported.py maerec.onnx IMAGE ...

An example to start from. It needs numpy and opencv-python-headless; onnxruntime for ONNX; for StableHLO, on whatever
JAX runs on, jax and flatbuffers; for PyTorch torch and maerec_jax/interop/pytorch_*.py. It needs nothing else of this
project: what it has to know of the model is in the file.
"""

import io
import json
import math
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from unicodedata import normalize

import cv2
import numpy as np

Read = Callable[..., Sequence[np.ndarray]]
"""uint8 RGB (B, H, W, 3), in one of the model's sizes, to classes and their probabilities, each (B, places). Models
that keep the aspect ratio also take how many columns of each image are picture, int32 (B)."""


def open_onnx(path: str, threads: int = 0) -> tuple[dict, Read]:
    """What is known of the model, and what reads with it, in so many threads; 0 leaves their number to onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    about = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    inputs = ("image", "width")
    return about, lambda *given: session.run(["tokens", "probabilities"], dict(zip(inputs, given, strict=False)))


def open_stablehlo(path: str) -> tuple[dict, Read]:
    """The same of StableHLO, which is compiled for each shape that it is given."""
    import jax
    import jax.export

    with zipfile.ZipFile(path) as archive:
        about = json.loads(archive.read("about.json"))
        weights = jax.device_put(dict(np.load(io.BytesIO(archive.read("weights.npz")))))
        programs = {}
        for height, width in about["image_sizes"]:
            program = jax.export.deserialize(bytearray(archive.read(f"programs/{height}x{width}")))
            programs[height, width] = jax.jit(program.call)

    def read(image: np.ndarray, *width: np.ndarray) -> Sequence[np.ndarray]:
        made = jax.device_get(programs[image.shape[1:3]](weights, image, *width))
        return made["tokens"], made["probabilities"]

    return about, read


def open_pytorch(path: str) -> tuple[dict, Read]:
    """The same of a file for PyTorch, whose model takes images of one size."""
    import torch

    from maerec_jax.interop.pytorch_baselines import KINDS
    from maerec_jax.interop.pytorch_twin import MAERec, load

    model = load(path, kinds={"maerec": MAERec, **KINDS})
    about = json.loads(model.about or "{}").get("reading")
    if about is None:
        sys.exit(f"{path} does not say how its model reads: write it with maerec export --format pytorch")

    def read(*given: np.ndarray) -> Sequence[np.ndarray]:
        image, *width = map(torch.from_numpy, given)
        reading = model.read(model.pixels(image), *width)
        return reading.tokens_BT.numpy(), reading.probability_BT.numpy()

    return about, read


OPENERS = {".onnx": open_onnx, ".stablehlo": open_stablehlo, ".pth": open_pytorch, ".pt": open_pytorch}


def prepare(image: np.ndarray, about: dict) -> tuple[np.ndarray, ...]:
    """What the model takes of uint8 RGB (height, width, 3): resized to the one of its sizes that is nearest in shape.

    If the model keeps the aspect ratio, the image is filled up with black, and its width there is returned, too.
    """
    sizes = sorted(about["image_sizes"], key=lambda size: size[1] / size[0])
    ratios = np.log([width / height for height, width in sizes])
    borders = (ratios[1:] + ratios[:-1]) / 2
    height, width = sizes[np.searchsorted(borders, np.log(image.shape[1] / image.shape[0]))]
    if (keep := about["keep_ratio"]) is None:
        return (resized(image, height, width, about)[None],)
    step, whole = keep["reading_divisor"], math.ceil(height / image.shape[0] * image.shape[1])
    whole = min(max(whole, keep["smallest"]), width)
    whole = whole if whole % step == 0 else round(whole / step) * step
    filled = np.zeros((1, height, width, 3), np.uint8)
    filled[0, :, :whole] = resized(image, height, whole, about)
    return filled, np.array([whole], np.int32)


def resized(image: np.ndarray, height: int, width: int, about: dict) -> np.ndarray:
    """An image in the size that is asked for, as the model has learnt to see it."""
    if about["interpolation"] == "area":  # the mean over all pixels along the sides that shrink
        smaller = min(image.shape[1], width), min(image.shape[0], height)
        image = cv2.resize(image, smaller, interpolation=cv2.INTER_AREA)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def text_of(tokens: np.ndarray, probabilities: np.ndarray, about: dict) -> tuple[str, float, float]:
    """The text of a row of the output, its confidence (mean over its characters) and its probability (product)."""
    text, confidences = "", []
    for token, probability in zip(tokens.tolist(), probabilities.tolist(), strict=True):
        if token == about["start_end"]:
            break
        if token != about["padding"]:
            text += about["unknown_text"] if token == about["unknown"] else about["characters"][token]
            confidences.append(probability)
    # Letters and the marks on them may be characters of their own.
    mean, product = (float(np.mean(confidences)), math.prod(confidences)) if confidences else (0.0, 0.0)
    return normalize("NFC", text), mean, product


def main(model: str, *files: str) -> int:
    """Read the words in image files, and print the confidence, text and name of each."""
    if Path(model).suffix not in OPENERS:
        sys.exit(f"{model}: its name must end in one of {[*OPENERS]}")
    about, read = OPENERS[Path(model).suffix](model)
    if about["interpolation"] == "bicubic":
        sys.exit("the model wants images resized as Pillow does it, Image.resize(size, BICUBIC)")
    failed = False
    for file in files:
        image = cv2.imread(file, cv2.IMREAD_COLOR_RGB)
        if image is None:
            print(f"not read: {file}", file=sys.stderr)
            failed = True
            continue
        turns = (0, 1, 3) if about["turn_vertical"] and image.shape[0] > image.shape[1] else (0,)
        found = []
        for turn in turns:  # images of one size can also be read at once
            tokens, probabilities = read(*prepare(np.ascontiguousarray(np.rot90(image, turn)), about))
            found.append(text_of(tokens[0], probabilities[0], about))
        text, confidence, _ = max(found, key=lambda word: word[2])
        print(f"{confidence:6.1%}  {text:<24}  {file}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]) if len(sys.argv) > 2 else __doc__)
