"""Finding and decoding whole pictures, and saving the words that are cut out of them."""

import os
from pathlib import Path

import cv2
import numpy as np

from data_pipelines.construct.records import inside
from data_pipelines.images.decoding import DecodeError, decode_image
from data_pipelines.sources.records import IMAGE_ENDINGS

_ENDINGS = (*IMAGE_ENDINGS, *map(str.upper, IMAGE_ENDINGS))
_FOLDER = 1000  # pictures whose words share a folder
_QUALITY = 95  # of JPEG


def path_within(folder: str, name: str) -> str:
    """The path of a file by its name in ``folder``. Raises ``ValueError`` where the name or a link leads out of it."""
    path = os.path.join(folder, inside(name))
    if not os.path.realpath(path).startswith(os.path.realpath(folder) + os.sep):
        raise ValueError(f"{path} is a link out of {folder}")
    return path


def find_picture(folder: str, name: str) -> str | None:
    """The path of a picture, by its name in ``folder``, or else by the last part of its name; where the name has no
    ending, with any ending of an image. None where it is not there.

    Raises ``ValueError`` where the name, or a link, leads out of the folder.
    """
    inside(name)
    endings = ("",) if name.lower().endswith(IMAGE_ENDINGS) else _ENDINGS
    for start in dict.fromkeys((name, name.rsplit("/", 1)[-1])):
        for ending in endings:
            if os.path.isfile(os.path.join(folder, start + ending)):
                return path_within(folder, start + ending)
    return None


def decode_picture(folder: str, name: str) -> np.ndarray | str:
    """A picture, uint8 RGB (height, width, 3); or the reason why its words have to be left out."""
    try:
        path = find_picture(folder, name)
        return "picture not found" if path is None else decode_image(Path(path).read_bytes())
    except (DecodeError, cv2.error, OSError):
        return "picture cannot be read"
    except ValueError:
        return "picture outside of the folder of pictures"


def save_word(word_HWC: np.ndarray, out: Path, picture: int, place: int) -> str:
    """Save a word, uint8 RGB, as JPEG beside the list ``out``; returns its name there.

    The name is made of two numbers: that of the picture in the annotations, and that of the word in the picture.
    """
    name = f"{out.stem}/{picture // _FOLDER:06d}/{picture:09d}_{place:04d}.jpg"
    _, data = cv2.imencode(".jpg", cv2.cvtColor(word_HWC, cv2.COLOR_RGB2BGR), (cv2.IMWRITE_JPEG_QUALITY, _QUALITY))
    write_file(out.parent / name, data.tobytes())
    return name


def write_file(path: Path, data: bytes) -> None:
    """Write a file, and make its folder where that is not there yet."""
    try:
        path.write_bytes(data)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
