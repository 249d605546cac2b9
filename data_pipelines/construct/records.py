"""What the steps hand to each other: a list of words, a JSON object per line, beside the folder of their images."""

import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, BaseModel, FiniteFloat, ValidationError

from data_pipelines.errors import DataError


def inside(name: str) -> str:
    """The name of a file, which must be within its folder. Raises ``ValueError`` for one that leads out of it."""
    if not name or "\0" in name or name.startswith("/") or ".." in name.split("/"):
        raise ValueError(f"the name {name!r} does not lead to a file within its folder")
    return name


class Word(BaseModel, frozen=True, extra="allow"):
    """A word in a list. Fields that it has beside these are kept; steps add their own (``model_copy(update=...)``).

    A list of labelled words is an annotation list as well: all commands read it.
    """

    filename: Annotated[str, AfterValidator(inside)]
    """The image of the word: a path relative to the folder of the list."""
    text: str | None
    """The label as it was given; None where there is none."""
    source: str = ""
    """The data set that the picture is from."""
    picture: str = ""
    """The picture that the word was cut out of: a path relative to the root of the source's pictures."""
    polygon: tuple[tuple[FiniteFloat, FiniteFloat], ...] = ()
    """The corners of the word in the picture, (x, y) in pixels."""


class Span(NamedTuple):
    """Lines of a list that stand together: what one call of a step works on."""

    path: Path
    """The list."""
    start: int
    """Where the first of them begins, in bytes."""
    first: int
    """The number of the first line, from 0."""
    lines: int
    """How many there are."""


def spans_of(path: Path, lines: int) -> list[Span]:
    """The whole of a list in spans of ``lines`` lines, the last of which may have fewer."""
    path = path.absolute()  # machines of a cluster have other working folders
    spans, start, first = [], 0, 0
    with path.open("rb") as file:
        while block := list(islice(file, lines)):
            spans.append(Span(path, start, first, len(block)))
            start, first = start + sum(map(len, block)), first + len(block)
    return spans


def read_lines(span: Span) -> Iterator[tuple[str, bytes]]:
    """Place (``file:line``) and bytes of each line of a span."""
    with span.path.open("rb") as file:
        file.seek(span.start)
        for number, line in enumerate(islice(file, span.lines), span.first + 1):
            yield f"{span.path}:{number}", line


def read_words(span: Span) -> Iterator[Word]:
    """The words of a span. Raises ``DataError`` with file, line and field for what is none."""
    for place, line in read_lines(span):
        try:
            yield Word.model_validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"])) or "JSON"
            form = '{"filename": ..., "text": ..., "source": ..., "picture": ..., "polygon": ...}'
            raise DataError(f"{place}: {field}: {first['msg']}; expected {form}, a word per line") from error


def words_as_lines(words: Iterable[BaseModel]) -> Iterator[bytes]:
    """The lines of a list of words or the like, each with its end; fields that say nothing are left out."""
    return (word.model_dump_json(exclude_defaults=True).encode() + b"\n" for word in words)


def folder_of(lists: Iterable[Path], out: Path) -> Path:
    """The folder that the names of lists and of a new list ``out`` are relative to.

    Raises ``DataError`` where the lists are in other folders.
    """
    folder = os.path.realpath(out.parent)
    for path in lists:
        if os.path.realpath(path.parent) != folder:
            raise DataError(f"{path}: is not in the folder of {out}: names of images count from there; move one list")
    return out.parent
