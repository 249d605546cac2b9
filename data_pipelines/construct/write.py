"""Write lists of words as data sets in Union14M's layout: ``python -m data_pipelines.construct write LISTS --out``."""

import json
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro

from data_pipelines.command import main_of
from data_pipelines.construct.images import is_labelled, read_images
from data_pipelines.construct.lmdb_writer import write_lmdb
from data_pipelines.construct.pictures import write_file
from data_pipelines.construct.records import Span, Word, spans_of
from data_pipelines.construct.steps import Outcome, Running, make, run_step
from data_pipelines.errors import DataError
from data_pipelines.prepare import PrepareArguments, prepare
from data_pipelines.sources.archives import ENDING
from data_pipelines.storage import checksum

_PART = 1000  # words

Output = Literal["annotations", "lmdb", "records"]


@dataclass(frozen=True)
class WriteArguments(Running):
    """Write lists of words as data sets that check, prepare, train and evaluate read, in Union14M's layout.

    annotations: OUT/full_images, and lists in OUT/train_annos for mmocr 0.x and 1.0; lmdb: OUT/LIST_lmdb, without
    labels for unlabelled words; records: ArrayRecord shards in OUT/prepared (always made on this machine).

    Each set has the name of its list: train_easy.jsonl to train_challenging.jsonl and val_annos.jsonl are found by it.

    Repeat a stopped command to resume it.
    """

    lists: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="LISTS")]
    """Lists of words, as crop and other steps write them."""
    out: str
    """Folder of the data set; other sets may be in it."""
    outputs: tuple[Output, ...] = ("annotations",)
    """What to write: annotations, lmdb, records."""


def _copy_images(out: str, folder: str, span: Span) -> Outcome:
    """Copy the images of a span's words to ``out/folder``; words have a name and a label then."""
    words, counts = [], Counter[str]()
    for word, image in read_images(True, span, counts):
        name = f"{folder}/{word.filename.replace(f'{ENDING}/', '/')}"  # the folder of an archive's files
        write_file(Path(out, name), image)
        words.append(Word(filename=name, text=word.text))
    return Outcome(words, counts)


def _write_annotations(spans: list[Span], labelled: bool, plan: dict, arguments: WriteArguments) -> None:
    """Write images and lists; names count from the data set's folder."""
    out, path = Path(arguments.out).absolute(), spans[0].path
    if not labelled:
        raise DataError(f"{path}: its words have no labels, so they can be written as --outputs lmdb only")
    lines = out / "train_annos/mmocr-0.x" / f"{path.stem}.jsonl"
    copy = partial(_copy_images, str(out), f"full_images/{path.stem}")
    run_step(copy, lambda _: spans, lines, plan, arguments)
    document = out / "train_annos/mmocr1.0" / f"{path.stem}.json"
    document.parent.mkdir(exist_ok=True)
    fresh = document.with_name(f".{document.name}.new")
    with lines.open(encoding="utf-8") as words, fresh.open("w", encoding="utf-8") as file:
        file.write('{"metainfo": {"dataset_type": "TextRecogDataset", "task_name": "textrecog"}, "data_list": [')
        for number, line in enumerate(words):
            word = json.loads(line)
            entry = {"img_path": word["filename"], "instances": [{"text": word["text"]}]}
            file.write(("" if number == 0 else ", ") + json.dumps(entry, ensure_ascii=False))
        file.write("]}\n")
    fresh.replace(document)


def _write_records(path: Path, arguments: WriteArguments) -> int:
    out, workers = f"{arguments.out}/prepared", arguments.workers
    return prepare(PrepareArguments(str(path.parent), out, sources=(path.name,), workers=workers, max_invalid=1.0))


def write(arguments: WriteArguments) -> int:
    """Write each list in each form; returns the exit status, that of ``prepare`` where it left records out."""
    paths = [Path(name) for name in arguments.lists]
    if not paths:
        raise DataError("give the lists of words to write")
    if twice := [stem for stem, number in Counter(path.stem for path in paths).items() if number > 1]:
        raise DataError(f"two lists have the name {twice[0]}, which their sets would have: write them to two folders")
    status = 0
    for path in paths:
        plan = {"step": "write", "list": checksum(path)}
        spans = spans_of(path, _PART)
        if not spans:
            raise DataError(f"{path}: holds no words")
        labelled = is_labelled(spans[0])
        if "annotations" in arguments.outputs:
            _write_annotations(spans, labelled, plan, arguments)
        if "lmdb" in arguments.outputs:
            place = Path(arguments.out) / f"{path.stem}_lmdb"
            make(partial(write_lmdb, spans, labelled), place, plan, arguments)
        if "records" in arguments.outputs:
            status = max(status, _write_records(path, arguments))
    return status


main = main_of(WriteArguments, write, "data_pipelines.construct write")
