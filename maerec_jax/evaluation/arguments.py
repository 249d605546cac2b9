"""The arguments of evaluations; what takes long to import has no part in ``--help``."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from maerec_jax.distributed.cluster import Cluster
from maerec_jax.reading.settings import ReadingArguments


@dataclass(frozen=True)
class EvaluateArguments(ReadingArguments):
    """Measure word accuracy on labelled sets, compare two evaluations, or make one table of several models.

    By default, measures Union14M-Benchmark and the common benchmarks, as far as --data holds them.

    Every labelled word counts, also those with unusable images or characters outside the charset.

    With --json or --predictions, repeat a stopped command to resume it.
    """

    data: str = ""
    """Data root: the folder that holds the sets. Without it, the run's own validation data are measured."""
    sets: tuple[str, ...] = ()
    """Sets to measure: names (curve, IC13_857 ...), benchmark, common, or lists, LMDBs and folders in the data root."""
    image_field: str = ""
    """JSON field with the image name in annotation lists given by path, if it is not a common one."""
    text_field: str = ""
    """JSON field with the label in these lists, if it is not a common one."""
    follow_links: bool = False
    """Also read images behind links out of the data root."""
    json: str = ""
    """Write the table to this JSON file, and the predictions beside it unless --predictions is given."""
    csv: str = ""
    """Write the table to this CSV file."""
    predictions: str = ""
    """Write the reading of each image to this .jsonl file while reading; repeat the command to resume."""
    report: str = ""
    """Write an HTML report: table, accuracy by length and shape, calibration, confusions, worst errors."""
    overwrite: bool = False
    """Start over if the predictions file exists, instead of resuming."""
    compare: tuple[str, ...] = ()
    """Compare two evaluations instead of measuring: their --json or --predictions files."""
    models: tuple[str, ...] = ()
    """Measure several and print one table, beside published results: checkpoints, or --json files of evaluations."""
    batch_size: int = 256
    """Images per step, over all devices."""
    workers: int = 0
    """Worker processes that read and decode images, per process; 0 for none."""
    cluster: Annotated[Cluster, tyro.conf.arg(name="")] = field(default_factory=Cluster)

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {self.batch_size}")
        if self.compare and len(self.compare) != 2:
            raise ValueError(f"--compare takes two evaluations, not {len(self.compare)}")
        if self.compare and (self.csv or self.predictions or self.report):
            raise ValueError("--compare writes --json only: leave out --csv, --predictions and --report")
        if self.models and (self.compare or self.checkpoint or self.adapters or self.report):
            raise ValueError("--models names all models: leave out --checkpoint, --adapters, --compare and --report")
        if self.models and self.json and not self.json.endswith(".json"):
            raise ValueError("--json with --models names the common table (FILE.json); those of the models go to FILE/")
        if not self.data and not all(map(is_table, self.models)):
            raise ValueError("--models needs --data, the folder with the sets that all are measured on")
        if self.json.endswith(".jsonl"):
            raise ValueError("--json writes a table (FILE.json); for predictions use --predictions FILE.jsonl")
        if self.sets and not self.data:
            raise ValueError("--sets needs --data, the data root that its paths are relative to")

    @property
    def predictions_file(self) -> str:
        """Where the predictions go; "" for nowhere."""
        return self.predictions or (self.json and str(Path(self.json).with_suffix(".jsonl")))


def is_table(model: str) -> bool:
    """Whether one of --models is the table of an earlier evaluation."""
    return model.lower().endswith(".json")
