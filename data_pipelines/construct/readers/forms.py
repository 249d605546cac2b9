"""The forms of annotations by the names that ``crop --format`` takes."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from data_pipelines.construct.readers.coco_text import read_coco_text, read_textocr
from data_pipelines.construct.readers.hiertext import read_hiertext
from data_pipelines.construct.readers.icdar import read_icdar2013, read_icdar2015, read_icdar2017
from data_pipelines.construct.readers.label_studio import read_label_studio
from data_pipelines.construct.readers.lsvt import read_lsvt
from data_pipelines.construct.readers.mmocr import read_mmocr
from data_pipelines.construct.readers.pictures import Picture
from data_pipelines.construct.readers.ppocr import read_ppocr

Form = Literal[
    "coco_text", "textocr", "hiertext", "icdar2013", "icdar2015", "icdar2017", "lsvt", "art", "mmocr", "label_studio",
    "ppocr",
]  # fmt: skip
"""The form that annotations of pictures are in."""

READERS: dict[Form, Callable[[Path], Iterator[Picture]]] = {
    "coco_text": read_coco_text,
    "textocr": read_textocr,
    "hiertext": read_hiertext,
    "icdar2013": read_icdar2013,
    "icdar2015": read_icdar2015,
    "icdar2017": read_icdar2017,
    "lsvt": read_lsvt,
    "art": read_lsvt,
    "mmocr": read_mmocr,
    "label_studio": read_label_studio,
    "ppocr": read_ppocr,
}
"""Read a file, or for ICDAR a folder. They raise ``DataError`` with the place of what is not in the form."""
