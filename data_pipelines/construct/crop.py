"""Cut the marked words out of pictures: ``python -m data_pipelines.construct crop ANNOTATIONS --format ...``."""

import hashlib
import json
import os
from collections import Counter
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from data_pipelines.charset import MAEREC_CHARACTERS, characters_of_file, composed
from data_pipelines.command import main_of, tell
from data_pipelines.construct.cutting import Style, cut_out, fault_of
from data_pipelines.construct.pictures import Images, SaveWord, decode_picture, find_picture, word_images
from data_pipelines.construct.readers.forms import READERS, Form
from data_pipelines.construct.readers.pictures import MarkedWord
from data_pipelines.construct.records import Span, Word, read_lines, spans_of
from data_pipelines.construct.report import IN, OUT
from data_pipelines.construct.steps import Outcome, Running, Work, run_step
from data_pipelines.errors import DataError
from data_pipelines.storage import checksum

_PART = 64  # pictures
_LOOKED_FOR = 16  # pictures that are looked for before anything is done

Kept = Literal["drop", "keep"]


@dataclass(frozen=True)
class CropArguments(Running):
    """Cut the words that annotations mark out of pictures, and list them with their labels.

    Words are cut out by the smallest upright rectangle, as in Union14M, and saved as JPEG beside the list.

    Repeat a stopped command to resume it. What is left out is counted by reason, in a report beside the list.

    Example: TextOCR/train.json --format textocr --pictures TextOCR/train_images --out words/textocr.jsonl
    """

    annotations: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ANNOTATIONS")]
    """Annotations of whole pictures: a file, or for ICDAR the folder of text files."""
    format: Form
    """The form of the annotations; docs/construction.md has a table."""
    pictures: str
    """Folder of the pictures. Names in the annotations count from here; else their last part does."""
    out: str
    """List to write, for example words/textocr.jsonl; the images go to the folder words/textocr."""
    source: str = ""
    """Name of the data set, kept with each word; default: the name of the list."""
    style: Style = "box"
    """How words are cut out: by an upright box, turned level (rotated), or straightened (rectified)."""
    images: Images = "files"
    """How the words' images are kept: each in a file, or those of 64 pictures in a ZIP archive, which is faster."""
    ignored: Kept = "drop"
    """What to do with words that are marked to be ignored."""
    illegible: Kept = "drop"
    """What to do with words that nobody could read; kept ones have no label."""
    illegible_marks: tuple[str, ...] = ("###",)
    """Labels that stand for a text that nobody could read."""
    other_characters: Kept = "drop"
    """What to do with words that have characters outside of the charset."""
    charset: str = ""
    """File with the characters of labels; default: ASCII's letters, digits and symbols, and the blank."""


@dataclass(frozen=True)
class Cropping:
    """What one call of the step has to know; picklable."""

    pictures: str  # their folder
    out: str  # the list
    source: str
    style: Style
    images: Images
    kept: frozenset[str]  # marks of words that are kept all the same
    illegible_marks: tuple[str, ...]
    characters: str | None  # the only ones that labels may have; None for any


def crop_pictures(how: Cropping, span: Span) -> Outcome:
    """Cut the words out of the pictures of a span, lines as ``_list_pictures`` writes them, and save their images."""
    with word_images(Path(how.out), how.images, span.first) as save:
        return _crop(how, span, save)


def _crop(how: Cropping, span: Span, save: SaveWord) -> Outcome:
    words, counts = list[Word](), Counter[str]()
    for number, (_, line) in enumerate(read_lines(span), span.first):
        name, marked = json.loads(line)
        counts[IN] += len(marked)
        wanted = [(place, _wanted(MarkedWord(*each), how, counts)) for place, each in enumerate(marked)]
        taken = [(place, word) for place, word in wanted if word is not None]
        image = decode_picture(how.pictures, name) if taken else "no words"
        if isinstance(image, str):
            counts[image] += len(taken)
            continue
        for place, word in taken:
            polygon = np.array(word.polygon, float).reshape(-1, 2)
            if fault := fault_of(polygon, *image.shape[:2]):
                counts[fault] += 1
                continue
            words.append(
                Word(
                    filename=save(cut_out(image, polygon, how.style), number, place),
                    text=word.text,
                    source=how.source,
                    picture=name,
                    polygon=tuple((x, y) for x, y in polygon.round(2).tolist()),
                )
            )
    counts[OUT] = len(words)
    return Outcome(words, counts)


def _wanted(word: MarkedWord, how: Cropping, counts: Counter[str]) -> MarkedWord | None:
    """A word as it is to be cut out; None for one that is left out, which is counted."""
    mark = "illegible" if word.text in how.illegible_marks else word.mark
    if mark and mark not in how.kept:
        counts[f"marked as {mark}"] += 1
    elif mark == "illegible" or word.text is None:
        return word._replace(text=None)
    elif not word.text.strip():
        counts["empty label"] += 1
    elif not _may_be_written(composed(word.text), how.characters):
        counts["characters outside of the charset"] += 1
    else:
        return word
    return None


def _may_be_written(text: str, characters: str | None) -> bool:
    """Whether a label has the given characters only; halves of characters, which JSON can hold, are never right."""
    return set(text) <= set(characters) if characters is not None else not any("\ud800" <= c <= "\udfff" for c in text)


def _list_pictures(arguments: CropArguments, work: Work) -> list[Span]:
    """Write a line for each annotated picture, its name and its words, unless that has been done; in parts.

    Raises ``DataError`` where there are none, or the first ones are not in the folder of pictures.
    """
    path = work.folder / "pictures"
    if not path.exists():
        fresh = work.folder / "pictures.new"
        with fresh.open("w", encoding="utf-8") as file:
            for picture in READERS[arguments.format](Path(arguments.annotations)):
                if not isinstance(picture.name, str):
                    raise DataError(f"{arguments.annotations}: the name of a picture is {picture.name!r}, no text")
                file.write(json.dumps(picture) + "\n")
        fresh.replace(path)
    spans = spans_of(path, _PART)
    names = [json.loads(line)[0] for span in spans[:1] for _, line in read_lines(span)][:_LOOKED_FOR]
    if not names:
        raise DataError(f"{arguments.annotations}: has no pictures")
    if not any(map(partial(_is_there, arguments.pictures), names)):
        raise DataError(
            f"{arguments.annotations}: none of its first pictures ({names[0]}, ...) is in {arguments.pictures}: "
            "give the folder of its pictures with --pictures"
        )
    return spans


def _is_there(folder: str, name: str) -> bool:
    try:
        return find_picture(folder, name) is not None
    except ValueError:
        return False


def _characters(charset: str) -> str:
    if not charset:
        return "".join(sorted({*MAEREC_CHARACTERS, *map(chr, range(0x21, 0x7F))}))
    try:
        return characters_of_file(charset, tell)
    except ValueError as error:
        raise DataError(str(error)) from error


def _fingerprint(annotations: Path) -> str:
    """The checksum of a file; of a folder, one of the checksums of its text files."""
    if not annotations.is_dir():
        return checksum(annotations)
    told = (f"{file.name} {checksum(file)}\n" for file in sorted(annotations.glob("*.txt")))
    return hashlib.sha256("".join(told).encode()).hexdigest()


def crop(arguments: CropArguments) -> int:
    """Cut out and list the words, print the report, and return the exit status."""
    out = Path(arguments.out)
    if out.suffix != ".jsonl":
        raise DataError(f"--out {out}: give the name of a list that ends with .jsonl")
    characters = _characters(arguments.charset)
    how = Cropping(
        pictures=os.path.abspath(arguments.pictures),
        out=os.path.abspath(arguments.out),
        source=arguments.source or out.stem,
        style=arguments.style,
        images=arguments.images,
        kept=frozenset(mark for mark in ("ignored", "illegible") if getattr(arguments, mark) == "keep"),
        illegible_marks=arguments.illegible_marks,
        characters=characters if arguments.other_characters == "drop" else None,
    )
    plan = {"step": "crop", "annotations": _fingerprint(Path(arguments.annotations)), "format": arguments.format}
    plan |= {name: value for name, value in asdict(how).items() if name != "out"} | {"kept": sorted(how.kept)}
    run_step(partial(crop_pictures, how), partial(_list_pictures, arguments), out, plan, arguments)
    return 0


main = main_of(CropArguments, crop, "data_pipelines.construct crop")
