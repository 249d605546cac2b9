"""ICDAR's competitions of 2013, 2015 and 2017 (MLT, and that of 2019): a folder with a text file for each picture."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from data_pipelines.construct.readers.pictures import MarkedWord, Picture, box_corners, corners, form_checked
from data_pipelines.errors import DataError

_UPRIGHT = re.compile(r'([^\s,]+)[\s,]+([^\s,]+)[\s,]+([^\s,]+)[\s,]+([^\s,]+)[\s,]+"(.*)"')


def read_icdar2013(path: Path) -> Iterator[Picture]:
    """Upright boxes, with blanks or commas between numbers: left top right bottom "text"."""
    return _read(path, _icdar2013_word, 'left top right bottom "text"')


def read_icdar2015(path: Path) -> Iterator[Picture]:
    """Four corners and the text, which is all after the eighth comma."""
    return _read(path, _icdar2015_word, "x1,y1,x2,y2,x3,y3,x4,y4,text")


def read_icdar2017(path: Path) -> Iterator[Picture]:
    """Four corners, the script, and the text, which is all after the ninth comma."""
    return _read(path, _icdar2017_word, "x1,y1,x2,y2,x3,y3,x4,y4,script,text")


def _read(folder: Path, word_of: Callable[[str], MarkedWord], form: str) -> Iterator[Picture]:
    """``gt_NAME.txt`` or ``NAME.txt`` has the words of the picture NAME."""
    files = sorted(folder.glob("*.txt"))
    if not files:
        raise DataError(f"{folder}: has no text files; give the folder of the files gt_*.txt")
    for file in files:
        words = []
        with form_checked(str(file), "UTF-8"):
            lines = file.read_text("utf-8-sig").splitlines()
        for number, line in enumerate(lines, 1):
            if line.strip():
                with form_checked(f"{file}:{number}", form):
                    words.append(word_of(line))
        yield Picture(file.stem.removeprefix("gt_"), words)


def _icdar2013_word(line: str) -> MarkedWord:
    if not (found := _UPRIGHT.fullmatch(line.strip())):
        raise ValueError(f"{line!r} is no box with a text in quotation marks")
    left, top, right, bottom, text = found.groups()
    return MarkedWord(box_corners(float(left), float(top), float(right), float(bottom)), text)


def _icdar2015_word(line: str) -> MarkedWord:
    *numbers, text = line.split(",", 8)
    return MarkedWord(_four_corners(numbers), text)


def _icdar2017_word(line: str) -> MarkedWord:
    *numbers, _script, text = line.split(",", 9)
    return MarkedWord(_four_corners(numbers), text)


def _four_corners(numbers: list[str]) -> list[list[float]]:
    if len(numbers) != 8:
        raise ValueError(f"has {len(numbers)} numbers before its text")
    return corners([float(number) for number in numbers])
