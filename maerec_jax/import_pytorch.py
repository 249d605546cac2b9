"""Import PyTorch weights: ``python -m maerec_jax.import_pytorch maerec_s.pth runs/imported``."""

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from data_pipelines.command import main_of
from data_pipelines.errors import UserError
from maerec_jax.interop.import_options import ImportOptions


@dataclass(frozen=True)
class ImportArguments:
    """Convert PyTorch weights to a workdir for predict, evaluate and train (--init-from), detectors to one file.

    Takes .safetensors, .pth and .pt files. PyTorch is not needed, and no code in the file is run.

    Models: masked autoencoders and recognisers of the original code; ViTs (timm, DeiT) to train from.

    Detectors: DBNet++ with the ResNet-50 of oCLIP, as MMOCR publishes it (docs/scenes.md).

    Model and sizes are detected from the tensors; the options below override or add to that.
    """

    file: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """File of weights."""
    out: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Workdir to make: a new or empty folder. For a detector: a new file whose name ends in .safetensors."""
    options: Annotated[ImportOptions, tyro.conf.arg(name="")] = field(default_factory=ImportOptions)


def import_pytorch(arguments: ImportArguments) -> int:
    """Read, write, and print what was found, what to do now, and what was done to it."""
    from rich.console import Console

    from maerec_jax.interop.detector_import import ImportedDetector
    from maerec_jax.interop.import_summary import told_of, told_of_detector
    from maerec_jax.interop.importing import import_weights
    from maerec_jax.weights.checkpoint import check_free, write_run
    from maerec_jax.weights.detector_files import write_detector
    from maerec_jax.weights.shipped_files import ENDING

    check_free(arguments.out)
    one_file = arguments.out.endswith(ENDING)
    with Console(stderr=True).status(f"reading {Path(arguments.file).name}") as status:
        found = import_weights(Path(arguments.file), arguments.options)
        status.update(f"writing {arguments.out}")
        if isinstance(found, ImportedDetector):
            if not one_file:
                raise UserError(f"{arguments.file} is a text detector, which becomes a file: end OUT in {ENDING}")
            write_detector(Path(arguments.out), found.tensors)
            told = told_of_detector(arguments.out, found)
        else:
            if one_file:
                raise UserError(f"{arguments.file} is no detector, so OUT is a folder: it cannot end in {ENDING}")
            write_run(replace(found.config, workdir=arguments.out), found.params)
            told = told_of(arguments.options, found, arguments.out)
    for name, value in told.items():
        print(f"{name:<14}{value}")
    for note in found.notes:
        print(f"- {note}")
    return 0


main = main_of(ImportArguments, import_pytorch, "maerec_jax.import_pytorch")

if __name__ == "__main__":
    sys.exit(main())
