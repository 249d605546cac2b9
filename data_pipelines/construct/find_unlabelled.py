"""Words without labels, where detectors agree: ``python -m data_pipelines.construct find-unlabelled PICTURES ...``."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import tyro

from data_pipelines.command import main_of
from data_pipelines.construct.agreement import agreements
from data_pipelines.construct.cutting import cut_out, fault_of
from data_pipelines.construct.detections import Detections, parse_detections
from data_pipelines.construct.matched_lines import MatchedLines
from data_pipelines.construct.pictures import Images, SaveWord, decode_picture, word_images
from data_pipelines.construct.records import Span, Word, read_lines, spans_of
from data_pipelines.construct.report import IN, OUT
from data_pipelines.construct.steps import Outcome, Running, Work, run_step
from data_pipelines.errors import DataError, UserError
from data_pipelines.storage import checksum

_PART = 64  # pictures


@dataclass(frozen=True)
class FindArguments(Running):
    """Cut out the words of pictures that several detectors found in the same place.

    A word is kept where each two of the detectors' polygons have an intersection over union above 0.7. It is cut out
    by the smallest upright rectangle around all of them, saved as JPEG beside the list, and listed without a label.

    Each detector has a file with a line a picture: {"img": "a.jpg", "polygons": [[[x, y], ...], ...], "scores": [...]}.
    maerec detect writes such files. Needs: pip install -e '.[detect]'

    Example: photos --detections first.jsonl second.jsonl third.jsonl --out words/photos.jsonl
    """

    pictures: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PICTURES")]
    """Folder of the pictures."""
    detections: tuple[str, ...]
    """The file of each detector, with a line for every picture, also for one without words."""
    out: str
    """List to write, for example words/photos.jsonl; the images go to the folder words/photos."""
    min_scores: tuple[float, ...] = ()
    """Leave out what a detector is less sure of: a number for each detector. Default: take all that the files have."""
    min_side: int = 8
    """Leave out words whose crop has a side of fewer pixels."""
    images: Images = "files"
    """How the words' images are kept: each in a file, or those of 64 pictures in a ZIP archive, which is faster."""
    source: str = ""
    """Name of the data set, kept with each word; default: the name of the list."""


@dataclass(frozen=True)
class _Finding:
    """What one call of the step has to know; picklable."""

    pictures: str
    out: str
    min_scores: tuple[float, ...]
    min_side: int
    images: Images
    source: str


class _Part(NamedTuple):
    span: Span  # of the file of the first detector
    others: tuple[MatchedLines[Detections], ...]

    @property
    def lines(self) -> int:
        return self.span.lines


def _found_in(part: _Part) -> Iterator[tuple[Detections, ...]]:
    """What all detectors found in each picture of a part."""
    first = [_parsed(place, line) for place, line in read_lines(part.span)]
    others = [file.told(part.span, [found.img for found in first]) for file in part.others]
    yield from zip(first, *others, strict=True)


def _parsed(place: str, line: bytes) -> Detections:
    try:
        return parse_detections(line)[1]
    except ValueError as error:
        raise DataError(f"{place}: {error}") from error


def _find(how: _Finding, part: _Part) -> Outcome:
    """Cut the words that all detectors found out of the pictures of a part, and save their images."""
    with word_images(Path(how.out), how.images, part.span.first) as save:
        return _cut(how, part, save)


def _cut(how: _Finding, part: _Part, save: SaveWord) -> Outcome:
    words, counts, number = list[Word](), Counter[str](), len(how.min_scores)
    for picture, found in enumerate(_found_in(part), part.span.first):
        agreed = agreements(
            [
                [polygon for polygon, score in zip(each.polygons, each.scores, strict=True) if score >= least]
                for each, least in zip(found, how.min_scores, strict=True)
            ]
        )
        counts[IN] += len(agreed)
        for k in range(1, number):
            counts[f"found by {k} of {number} detectors"] += sum(len(word.polygons) == k for word in agreed)
        taken = [word for word in agreed if len(word.polygons) == number]
        image = decode_picture(how.pictures, found[0].img) if taken else "no words"
        if isinstance(image, str):
            counts[image] += len(taken)
            continue
        for place, word in enumerate(taken):
            outline = np.concatenate([np.array(polygon) for polygon in word.polygons.values()])
            crop = None if (fault := fault_of(outline, *image.shape[:2])) else cut_out(image, outline, "box")
            if crop is None or min(crop.shape[:2]) < how.min_side:
                counts[fault or f"a side of less than {how.min_side} pixels"] += 1
                continue
            words.append(
                Word(
                    filename=save(crop, picture, place),
                    text=None,
                    source=how.source,
                    picture=found[0].img,
                    polygon=_rectangle(outline),
                )
            )
    counts[OUT] = len(words)
    return Outcome(words, counts)


def _rectangle(outline_N2: np.ndarray) -> tuple[tuple[float, float], ...]:
    (left, top), (right, bottom) = outline_N2.min(axis=0).tolist(), outline_N2.max(axis=0).tolist()
    return (left, top), (right, top), (right, bottom), (left, bottom)


def find(arguments: FindArguments) -> int:
    """Cut out and list the words, print the report, and return the exit status."""
    out, paths, number = Path(arguments.out), [Path(path) for path in arguments.detections], len(arguments.detections)
    if number < 2:
        raise UserError("--detections needs the files of at least two detectors")
    if arguments.min_scores and len(arguments.min_scores) != number:
        raise UserError(f"--min-scores needs a number for each of the {number} detectors")
    if missing := next((path for path in paths if not path.is_file()), None):
        raise DataError(f"{missing}: no such file: give a list of detections")
    how = _Finding(
        pictures=os.path.abspath(arguments.pictures),
        out=os.path.abspath(out),
        min_scores=arguments.min_scores or (0.0,) * number,
        min_side=arguments.min_side,
        images=arguments.images,
        source=arguments.source or out.stem,
    )

    def parts(work: Work) -> list[_Part]:
        spans = spans_of(paths[0], _PART)
        if not spans:
            raise DataError(f"{paths[0]}: holds no pictures")
        first = [_parsed(*next(read_lines(span))).img for span in spans]
        others = tuple(
            MatchedLines.match(path, parse_detections, spans, first, work.folder / f"index-{number}.npy")
            for number, path in enumerate(paths[1:])
        )
        if extra := next((file for file in others if file.others > 0), None):
            raise DataError(f"{extra.path}: has {extra.others:,} pictures that {paths[0]} has no line about")
        return [_Part(span, others) for span in spans]

    plan = {"step": "find-unlabelled", "detections": [checksum(path) for path in paths], **asdict(how)}
    run_step(partial(_find, how), parts, out, plan, arguments)
    return 0


main = main_of(FindArguments, find, "data_pipelines.construct find-unlabelled")
