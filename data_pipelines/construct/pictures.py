"""Finding and decoding whole pictures, and saving the words that are cut out of them."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal
from zipfile import ZipFile, ZipInfo

import cv2
import numpy as np

from data_pipelines.construct.records import inside
from data_pipelines.construct.resume import work_folder
from data_pipelines.freed_memory import keep_freed_memory
from data_pipelines.images.decoding import DecodeError, decode_image
from data_pipelines.sources.archives import ENDING
from data_pipelines.sources.records import IMAGE_ENDINGS

_ENDINGS = (*IMAGE_ENDINGS, *map(str.upper, IMAGE_ENDINGS))
_FOLDER = 1000  # pictures whose words share a folder
_QUALITY = 95  # of JPEG

Images = Literal["files", "archives"]
"""How the images of words are kept, beside their list."""
SaveWord = Callable[[np.ndarray, int, int], str]
"""Saves a word, uint8 RGB, as JPEG, by the numbers of its picture and of its place there; returns its name."""


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
    keep_freed_memory()  # of pictures: cutting words out of them takes a third less time beside decoding
    try:
        path = find_picture(folder, name)
        return "picture not found" if path is None else decode_image(Path(path).read_bytes())
    except (DecodeError, cv2.error, OSError):
        return "picture cannot be read"
    except ValueError:
        return "picture outside of the folder of pictures"


@contextmanager
def word_images(out: Path, images: Images, first: int) -> Iterator[SaveWord]:
    """What saves the words of a part of the pictures, of which ``first`` is the first, beside the list ``out``.

    Names are made of two numbers: that of the picture in the annotations, and that of the word in the picture. An
    archive is there when it is whole.
    """

    def save_file(word_HWC: np.ndarray, picture: int, place: int) -> str:
        name = f"{out.stem}/{picture // _FOLDER:06d}/{picture:09d}_{place:04d}.jpg"
        write_file(out.parent / name, _as_jpeg(word_HWC))
        return name

    if images == "files":
        yield save_file
        return
    path = out.with_suffix("") / f"{first:09d}{ENDING}"
    fresh = work_folder(out) / f"{path.name}.{os.uname().nodename}-{os.getpid()}.new"
    with ZipFile(fresh, "w") as archive:

        def save_member(word_HWC: np.ndarray, picture: int, place: int) -> str:
            name = f"{picture:09d}_{place:04d}.jpg"
            archive.writestr(ZipInfo(name), _as_jpeg(word_HWC))  # with no time: made again, it is the same archive
            return f"{out.stem}/{path.name}/{name}"

        yield save_member
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh.replace(path)


def _as_jpeg(word_HWC: np.ndarray) -> bytes:
    image = cv2.cvtColor(word_HWC, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, _QUALITY))[1].tobytes()


def write_file(path: Path, data: bytes) -> None:
    """Write a file, and make its folder where that is not there yet."""
    try:
        path.write_bytes(data)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
