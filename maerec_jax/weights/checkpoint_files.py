"""The files of checkpoints: which of them a checkpoint has to have, and what is to be done where they are not there.

When a checkpoint is written, the sizes of its files are written with it. What a broken disk or an interrupted copy has
left of one is recognised by that.
"""

import json
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import orbax.checkpoint as ocp
from etils import epath

from data_pipelines.storage import is_bucket

_FILES = "files.json"  # in a checkpoint: the sizes of its other files
_CHANGING = "_CHECKPOINT_METADATA"  # Orbax writes the time into it afterwards
_DAMAGED = "damaged"  # beside the checkpoints: those that were cut


def absolute(folder: epath.Path) -> epath.Path:
    """The folder as a path that does not depend on where the program runs."""
    return folder if is_bucket(folder) else epath.Path(os.path.abspath(folder))


def written_steps(folder: epath.Path) -> list[int]:
    """The steps of checkpoints that were written to their end, whatever has become of them since."""
    return sorted(ocp.utils.checkpoint_steps(folder)) if folder.is_dir() else []


def unfinished_steps(folder: epath.Path) -> list[int]:
    """The steps of checkpoints that are being written, or that a killed process has left half-written."""
    names = (re.fullmatch(r"(\d+)(\..*tmp.*)?", path.name) for path in folder.iterdir()) if folder.is_dir() else ()
    return sorted({int(name[1]) for name in names if name} - set(written_steps(folder)))


def size(checkpoint: epath.Path) -> int:
    """The bytes of all files of a checkpoint."""
    return sum(_sizes(checkpoint).values())


def _sizes(folder: epath.Path) -> dict[str, int]:
    """The size of each file in a folder and those below it, by its path in the folder."""
    pending = [folder]
    files: list[epath.Path] = []
    while pending:
        for path in pending.pop().iterdir():
            (pending if path.is_dir() else files).append(path)
    start = len(os.fspath(folder).rstrip("/")) + 1
    with ThreadPoolExecutor(16) as pool:  # of buckets each question takes a while
        lengths = pool.map(lambda path: path.stat().length, files)
        return {os.fspath(path)[start:]: length for path, length in zip(files, lengths, strict=True)}


def note_files(checkpoint: epath.Path) -> None:
    """Write down the sizes of the files of a checkpoint in it."""
    sizes = {name: size for name, size in _sizes(checkpoint).items() if not name.endswith(_CHANGING)}
    (checkpoint / _FILES).write_text(json.dumps(sizes))


def damage(checkpoint: epath.Path) -> str | None:
    """What a checkpoint lacks of what it had when it was written; None for one that is whole."""
    try:
        expected = json.loads((checkpoint / _FILES).read_text())
    except FileNotFoundError:
        return f"{_FILES} is missing"
    except ValueError:
        return f"{_FILES} is cut"
    try:
        found = _sizes(checkpoint)
    except FileNotFoundError:
        return "it is being removed"
    for name, size in expected.items():
        if found.get(name) != size:
            return f"{name} has {found[name]:,} of {size:,} bytes" if name in found else f"{name} is missing"
    return None


def set_aside_damaged(folder: epath.Path, message: Callable[[str], None]) -> None:
    """Move checkpoints that were cut out of the way, so that they are neither read nor taken for saved."""
    for step in written_steps(folder):
        found = damage(folder / str(step))
        if found is not None:
            place = folder.parent / _DAMAGED / str(step)
            number = 1
            while place.exists():
                number += 1
                place = place.with_name(f"{step}-{number}")
            place.parent.mkdir(parents=True, exist_ok=True)
            _move(folder / str(step), place)
            message(f"warning: checkpoint {step} is damaged ({found}) and not used; it is in {place}")


def _move(folder: epath.Path, place: epath.Path) -> None:
    """Rename a folder; in a bucket, file by file."""
    if not is_bucket(folder):
        folder.rename(place)
        return
    for name in _sizes(folder):
        (folder / name).copy(place / name)
    folder.rmtree()
