"""List the words that a detector finds in pictures: ``python -m maerec_jax.detect PICTURES --out words.jsonl``."""

import hashlib
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import tyro

from data_pipelines.command import keep_compiled_programs, main_of, tell
from data_pipelines.construct.detections import Detections
from data_pipelines.construct.records import Span, read_lines, spans_of
from data_pipelines.construct.report import IN, OUT
from data_pipelines.construct.steps import Outcome, Running, Work, run_step
from data_pipelines.errors import DataError
from data_pipelines.images.decoding import DecodeError, decode_image
from data_pipelines.sources.files import Folder
from maerec_jax.scenes.detection import load_detector
from maerec_jax.scenes.regions import DetectionConfig, Region

_PART = 64  # pictures


@dataclass(frozen=True)
class DetectArguments(Running):
    """Find the words of many pictures, for data_pipelines.construct find-unlabelled.

    Writes a line of JSON a picture: {"img", "polygons", "scores"}. Pictures that cannot be read have a "problem".

    Repeat a stopped command to resume it. Needs: pip install -e '.[detect]'
    """

    pictures: Annotated[str, tyro.conf.Positional]
    """Folder of pictures (with subfolders)."""
    out: str
    """List to write, for example first.jsonl."""
    detection: DetectionConfig = field(default_factory=DetectionConfig)
    """How words are found."""
    workers: int = field(default=0, kw_only=True)
    """Worker processes; 0 for none, as one process already uses all cores, or the accelerator."""
    takes_device: ClassVar[bool] = True


@cache
def _detect_all(config: DetectionConfig) -> Callable[[Iterable[np.ndarray]], Iterable[list[Region]]]:
    """What finds the words of pictures, those that a device takes together at a time; loaded once in a process."""
    keep_compiled_programs()
    detector = load_detector(config=config)
    return getattr(detector, "detect_all", partial(map, detector.detect))


def _detect(folder: str, config: DetectionConfig, span: Span) -> Outcome:
    """Search some pictures, each of which has a line with its name."""
    names = [line.decode().rstrip("\n") for _, line in read_lines(span)]
    pictures, problems = dict[str, np.ndarray](), dict[str, str]()
    for name in names:
        try:
            pictures[name] = decode_image(Path(folder, name).read_bytes())
        except (DecodeError, OSError) as error:
            problems[name] = " ".join(str(error).split())
    found = dict(zip(pictures, _detect_all(config)(pictures.values()), strict=True))
    lines = [
        Detections(
            img=name,
            polygons=[each.polygon_N2.astype(float).round(1).tolist() for each in found.get(name, ())],
            scores=[round(each.confidence, 4) for each in found.get(name, ())],
            problem=problems.get(name, ""),
        )
        for name in names
    ]
    return Outcome(lines, Counter({IN: len(lines), OUT: len(found), "picture cannot be read": len(problems)}))


def detect(arguments: DetectArguments) -> int:
    """Search all pictures, write the list and the report; returns 1 if a picture could not be read, else 0."""
    out, folder = Path(arguments.out), Path(arguments.pictures).absolute()
    if not folder.is_dir():
        raise DataError(f"{folder}: is no folder: give the folder of the pictures")
    source = Folder(path=".").open(folder)
    for note in getattr(source, "notes", ()):
        tell(note)
    # Machines of a cluster have other working folders.
    detector = arguments.detection.detector and os.path.abspath(arguments.detection.detector)
    config = replace(arguments.detection, detector=detector)
    _detect_all(config)  # tells now what is wrong with it
    names = "".join(f"{source.name(i)}\n" for i in range(len(source))).encode()
    plan = {"step": "detect", "pictures": hashlib.sha256(names).hexdigest(), **asdict(config)}

    def parts(work: Work) -> list[Span]:
        listed = work.folder / "pictures"
        listed.write_bytes(names)
        return spans_of(listed, _PART)

    report = run_step(partial(_detect, str(folder), config), parts, out, plan, arguments)
    return int(bool(report.dropped))


main = main_of(DetectArguments, detect, "maerec_jax.detect")

if __name__ == "__main__":
    sys.exit(main())
