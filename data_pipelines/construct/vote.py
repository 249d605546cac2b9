"""Levels of difficulty: how many recognisers read a word right. ``python -m data_pipelines.construct vote``"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated

import tyro

from data_pipelines.charset import composed, without_symbols
from data_pipelines.command import main_of, tell
from data_pipelines.construct.readings import ReadPart, read_parts, stamps
from data_pipelines.construct.records import Word, folder_of, read_words
from data_pipelines.construct.report import IN, OUT
from data_pipelines.construct.steps import Outcome, Running, run_step
from data_pipelines.errors import DataError, UserError
from data_pipelines.images.decoding import DecodeError, decode_image
from data_pipelines.rendering.sheet import sheet_of
from data_pipelines.sources.archives import read_file

LEVELS = {"challenging": 0, "hard": 4, "medium": 7, "normal": 10, "easy": 13}
"""Of 13 recognisers, how many read the words of each level right at most (Union14M, section 3.2)."""

_OF = 13
_ON_SHEET, _COLUMNS = 100, 5


@dataclass(frozen=True)
class VoteArguments(Running):
    """Sort labelled words by difficulty, as Union14M's five levels are.

    A word is easy, normal, medium, hard or challenging by the share of recognisers that read it right: letter case and
    symbols do not count.

    Writes the list --out, in which each word has its level and "right", the number of recognisers; beside it
    train_LEVEL.jsonl, an annotation list a level; and OUT.contradicted.jsonl and .png: words that all recognisers read
    in one other way, whose labels are often wrong.
    """

    words: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="WORDS")]
    """List of labelled words: of an earlier step, or mmocr's jsonl."""
    readings: tuple[Path, ...]
    """A file for each recogniser: of evaluate --predictions, read --format jsonl, or lines of name, tab, text."""
    out: Path
    """List to write, in the folder of the other, for example words/voted.jsonl."""


def level_of(right: int, recognisers: int) -> str:
    """The level of a word that so many of the ``recognisers`` read right."""
    return next(level for level, most in LEVELS.items() if right * _OF <= most * recognisers)


def _vote(part: ReadPart) -> Outcome:
    """Count the votes on the words of a part."""
    words = list(read_words(part.span))
    names = [word.filename for word in words]
    if unlabelled := next((word.filename for word in words if word.text is None), None):
        raise DataError(f"{part.span.path}: {unlabelled} has no label: vote needs labelled words")
    labels = [composed(word.text or "") for word in words]
    compared = [without_symbols(label) for label in labels]
    right, others = [0] * len(words), [set[str]() for _ in words]
    for file in part.readings:
        for row, (text, _) in enumerate(file.told(part.span, names)):
            if text == labels[row]:
                right[row] += 1
            elif text is None:
                others[row].add("")
            elif (read := without_symbols(text)) == compared[row]:
                right[row] += 1
            else:
                others[row].add(read)
    number = len(part.readings)
    voted = []
    for word, votes, wrong in zip(words, right, others, strict=True):
        agreed = votes == 0 and number > 1 and len(wrong) == 1 and "" not in wrong
        told = {"contradicted": wrong.pop()} if agreed else {}
        for field in ("contradicted", "right", "level"):  # of an earlier vote
            (word.model_extra or {}).pop(field, None)
        voted.append(word.model_copy(update={**told, "right": votes, "level": level_of(votes, number)}))
    return Outcome(voted, Counter({IN: len(words), OUT: len(words)}))


def run(arguments: VoteArguments) -> int:
    """Vote, write the lists, print the report and how many words each level has; returns the exit status."""
    if not arguments.readings:
        raise UserError("--readings needs a file for each recogniser")
    folder, out = folder_of([arguments.words], arguments.out), arguments.out
    lists = {level: folder / f"train_{level}.jsonl" for level in LEVELS}
    if not out.exists() and (other := next(filter(Path.exists, lists.values()), None)):
        raise UserError(f"{other}: is there, and vote would write its own: move it, or vote in another folder")
    plan = {"step": "vote", **stamps([arguments.words, *arguments.readings])}
    parts = partial(read_parts, arguments.words, arguments.readings)
    run_step(_vote, parts, out, plan, arguments)
    contradicted = out.with_suffix(".contradicted.jsonl")
    counts = _sort(out, lists, contradicted)
    for level, path in lists.items():
        print(f"{counts[level]:>12,}  {path}")
    print(f"{counts['contradicted']:>12,}  {contradicted}: read otherwise by all recognisers: look at their labels")
    if counts["contradicted"]:
        _draw(contradicted, folder)
    return 0


def _sort(out: Path, paths: Mapping[str, Path], contradicted: Path) -> Counter[str]:
    """Deal the lines of a list out to the lists of its levels, and of the words that all contradict."""
    counts = Counter[str]()
    fresh = {path: path.with_name(f".{path.name}.new") for path in (*paths.values(), contradicted)}
    files = {path: name.open("wb") for path, name in fresh.items()}
    with out.open("rb") as voted:
        for line in voted:
            level = line.rsplit(b'"', 2)[1].decode()  # the last field
            files[paths[level]].write(line)
            counts[level] += 1
            if b'"contradicted":' in line:  # quotes in texts have a backslash
                files[contradicted].write(line)
                counts["contradicted"] += 1
    for path, name in fresh.items():
        files[path].close()
        name.replace(path)
    return counts


def _draw(listed: Path, folder: Path) -> None:
    """Draw a sheet of the first words of a list, each with its label and what was read."""
    cells, missing = {}, list[str]()
    with listed.open("rb") as file:
        for number, line in enumerate(islice(file, _ON_SHEET)):
            word = Word.model_validate_json(line)
            try:
                pixels = decode_image(read_file(str(folder / word.filename)))
                cells[divmod(number, _COLUMNS)] = pixels, f"{word.text} | {json.loads(line)['contradicted']}"
            except (OSError, DecodeError) as error:
                missing.append(f"{word.filename}: {error}")
    if missing:
        tell(f"{len(missing)} words are not on the sheet, the first is {missing[0]}")
    if cells:
        sheet_of(cells, _COLUMNS).save(listed.with_suffix(".png"))


main = main_of(VoteArguments, run, "data_pipelines.construct vote")
