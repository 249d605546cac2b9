"""Labels that recognisers agree on: ``python -m data_pipelines.construct pseudo-label WORDS --readings FILE FILE``."""

from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from data_pipelines.command import main_of
from data_pipelines.construct.readings import Reading, ReadPart, read_parts, stamps
from data_pipelines.construct.records import folder_of, read_words
from data_pipelines.construct.report import IN, OUT
from data_pipelines.construct.steps import Outcome, Running, run_step
from data_pipelines.errors import UserError


@dataclass(frozen=True)
class LabelArguments(Running):
    """Label words by what several recognisers read in them, where all read the same, to the letter.

    The confidences of the recognisers are kept with each word. Words on which they do not agree are left out.

    Example: words/photos.jsonl --readings ours.jsonl theirs.jsonl --out words/labelled.jsonl
    """

    words: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="WORDS")]
    """List of words, as find-unlabelled writes it; labels that it has are not looked at."""
    readings: tuple[Path, ...]
    """A file for each recogniser: of evaluate --predictions, read --format jsonl, or lines of name, tab, text."""
    out: Path
    """List to write, in the folder of the other."""
    min_confidence: float = 0.0
    """Leave out words of which a recogniser is less sure, 0 to 1."""


def _agreed(read: tuple[Reading, ...], least: float) -> str:
    """Why there is no label in what recognisers read; "" where there is one."""
    first = read[0].text
    if any(reading.text is None for reading in read):
        return "image cannot be read"
    if any(reading.text != first for reading in read):
        return "recognisers differ"
    if not first:
        return "nothing was read"
    return f"a confidence below {least:g}" if any((reading.confidence or 0) < least for reading in read) else ""


def _label(least: float, part: ReadPart) -> Outcome:
    """Label the words of a part."""
    words, counts, labelled = list(read_words(part.span)), Counter[str](), []
    names = [word.filename for word in words]
    read = zip(*(file.told(part.span, names) for file in part.readings), strict=True)
    for word, readings in zip(words, read, strict=True):
        counts[IN] += 1
        why = _agreed(readings, least)
        counts[why or OUT] += 1
        if not why:
            told = {"text": readings[0].text, "confidences": [reading.confidence for reading in readings]}
            labelled.append(word.model_copy(update=told))
    return Outcome(labelled, counts)


def label(arguments: LabelArguments) -> int:
    """Label the words, write the list, print the report, and return the exit status."""
    if len(arguments.readings) < 2:
        raise UserError("--readings needs the files of at least two recognisers")
    folder_of([arguments.words], arguments.out)
    files = stamps([arguments.words, *arguments.readings])
    plan = {"step": "pseudo-label", "min_confidence": arguments.min_confidence, **files}
    parts = partial(read_parts, arguments.words, arguments.readings)
    run_step(partial(_label, arguments.min_confidence), parts, arguments.out, plan, arguments)
    return 0


main = main_of(LabelArguments, label, "data_pipelines.construct pseudo-label")
