"""Read words with an exported ONNX file: python scripts/read_onnx.py maerec.onnx IMAGE ...

An example to start from. It needs onnxruntime, numpy and opencv-python-headless, and nothing of this project: what it
has to know of the model is in the metadata of the file.
"""

import json
import math
import sys

import cv2
import numpy as np
import onnxruntime


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
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    about = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    if about["interpolation"] != "bilinear":
        sys.exit("the model wants images resized as Pillow does it, Image.resize(size, BICUBIC)")
    failed = False
    for file in files:
        image = cv2.imread(file, cv2.IMREAD_COLOR_RGB)
        if image is None:
            print(f"not read: {file}", file=sys.stderr)
            failed = True
            continue
        turns = (0, 1, 3) if about["turn_vertical"] and image.shape[0] > image.shape[1] else (0,)
        ways = [prepare(np.ascontiguousarray(np.rot90(image, turn)), about["image_sizes"]) for turn in turns]
        found = []
        for way in ways:  # images of one size can also be read at once
            tokens, probabilities, _ = session.run(None, {"image": way[None]})
            found.append(text_of(tokens[0], probabilities[0], about))
        text, confidence = max(found, key=lambda word: word[1])
        print(f"{confidence:6.1%}  {text:<24}  {file}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]) if len(sys.argv) > 2 else __doc__)
