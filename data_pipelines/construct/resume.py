"""Doing a step part by part, so that a killed one goes on where it was.

While ``words.jsonl`` is made, ``.words.unfinished`` beside it holds ``plan.json``, what the step was begun with, and a
file for each finished part, which appears under its name when it is whole.
"""

import gc
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from etils import epath

from data_pipelines.construct.engine import Results
from data_pipelines.errors import DataError
from data_pipelines.storage import held, write_whole

Part = TypeVar("Part")

_LONG = 64  # characters of a value that tells nobody anything: a checksum


def as_noted(plan: Mapping[str, Any]) -> dict[str, Any]:
    """A plan as it is read back from JSON; paths become text."""
    return json.loads(json.dumps(plan, default=str))


def refuse_differences(noted: Mapping[str, Any], plan: Mapping[str, Any], out: Path, made: Path) -> None:
    """Raise ``DataError`` where ``made``, which is ``out`` or its finished parts, was made by another plan than now."""
    now = as_noted(plan)
    changed = [
        f"{key}: {noted.get(key)!r}, now {now.get(key)!r}" if len(str(now.get(key))) < _LONG else f"{key} has changed"
        for key in {**noted, **now}
        if noted.get(key) != now.get(key)
    ]
    if changed:
        told = "; ".join(changed)
        raise DataError(f"{out}: was made with other settings ({told}): give another --out, or delete {made}")


def work_folder(out: Path) -> Path:
    """Where the parts of ``out`` are while it is made."""
    return out.with_name(f".{out.name.removesuffix('.jsonl')}.unfinished")


@contextmanager
def unfinished(out: Path, plan: Mapping[str, Any]) -> Iterator[Path]:
    """The folder for the parts of ``out``; it is removed when the block ends without error.

    ``plan`` is all that the result depends on, as JSON holds it. Raises ``DataError`` where parts of ``out`` were made
    by another plan, or it is being made by another process.
    """
    folder = work_folder(out)
    folder.mkdir(parents=True, exist_ok=True)
    with held(epath.Path(folder)):
        noted = folder / "plan.json"
        if (folder / "made").exists() or any(folder.glob("*-??????")):
            refuse_differences(json.loads(noted.read_text()), plan, out, folder)
        elif not noted.exists() or json.loads(noted.read_text()) != as_noted(plan):
            # Nothing was finished by another plan, which was probably a mistake.
            for leftover in set(folder.iterdir()) - {folder / "lock"}:
                leftover.unlink()
            write_whole(epath.Path(noted), json.dumps(as_noted(plan), indent=1) + "\n")
        yield folder
    shutil.rmtree(folder)


def finish_parts(
    folder: Path,
    phase: str,
    work: Callable[[Part], Iterable[bytes]],
    parts: Sequence[Part],
    results: Results,
    advance: Callable[[Part], None],
) -> list[Path]:
    """The files of all parts, in order; those that an earlier run has finished are not made again.

    ``work`` is a pure, picklable function: what it yields for a part becomes the part's file. A step with several
    passes names them by ``phase``. ``advance`` is told of each part that is finished.
    """
    files = [folder / f"{phase}-{number:06d}" for number in range(len(parts))]
    calls = [(work, part, file) for part, file in zip(parts, files, strict=True) if not file.exists()]
    made = results(_write_part, calls)
    waiting = {file for _, _, file in calls}
    for part, file in zip(parts, files, strict=True):
        if file in waiting:
            next(made)
        advance(part)
    return files


def _write_part(work: Callable[[Part], Iterable[bytes]], part: Part, file: Path) -> None:
    # Where a cluster takes a node for dead that is not, two may write the same part.
    fresh = file.with_name(f"{file.name}.{os.uname().nodename}-{os.getpid()}.new")
    try:
        with _no_collections(), fresh.open("wb") as opened:
            opened.writelines(work(part))
        fresh.replace(file)
    except OSError as error:  # where a disk is full, it does not tell of which file
        raise DataError(
            f"{error.filename or file}: {error.strerror}; repeat the command when that is mended"
        ) from error


@contextmanager
def _no_collections() -> Iterator[None]:
    """Records are many objects without cycles: looking through them for cycles takes as long as the votes on them."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def join(files: Iterable[Path], out: Path, skip: int) -> None:
    """Put files end to end, less the first ``skip`` lines of each."""
    with out.open("wb") as joined:
        for file in files:
            with file.open("rb") as opened:
                for _ in range(skip):
                    opened.readline()
                shutil.copyfileobj(opened, joined)
