"""Running the command that prepares sets, for tests."""

import hashlib

from data_pipelines.command import run_command
from data_pipelines.prepare import PrepareArguments, prepare

LINES = "set/train_annos/mmocr1.0/train.jsonl"
SET = "set_train_annos_mmocr1_0_train"


def run(root, *arguments):
    flags = ["--out", root / "out", "--workers", 0, *arguments]
    return run_command(PrepareArguments, prepare, "prepare", [str(root), *map(str, flags)])


def tree(folder):
    """Checksums of all files in a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def told(capsys):
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    return error
