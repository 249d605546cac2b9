"""What a prepared set is on disk: a folder with shards, an index, TFDS's description of them, and a manifest.

train_easy/
  train_easy-train.array_record-00000-of-00064   tf.train.Examples: image, text, name, height, width
  index/names.utf8 names.npy                     names of the original records, and where each starts
  index/labels.utf8 labels.npy                   labels, where the set has any, in the same form
  index/sizes.npy                                int32 (records, 2): height and width
  dataset_info.json features.json                for tfds.builder_from_directory
  statistics.json                                counts, sizes, lengths, what was left out
  records.json                                   the manifest: what it was made from, and checksums; written last
  .unfinished/                                   while it is made: what is known of finished shards
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from etils import epath
from pydantic import Field, TypeAdapter, ValidationError

from data_pipelines.errors import DataError
from data_pipelines.storage import checksum

MANIFEST = "records.json"
UNFINISHED = ".unfinished"

SetName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=200)]
Count = Annotated[int, Field(ge=0)]
IndexFile = Annotated[str, Field(pattern=r"^(names|labels|sizes)\.(utf8|npy)$")]


@dataclass(frozen=True)
class Plan:
    """What the shards of a set depend on. Work goes on in a folder only with the plan that it was begun with."""

    name: SetName  # the set's name: that of its folder, and of the dataset for TFDS
    split: Literal["train", "validation", "test"]  # the split for TFDS
    source: str  # where the records come from: a path relative to the data root
    source_records: Count  # how many records the source has
    fingerprint: str  # a hash of the source's names and labels and of some of its images
    labelled: bool  # whether records have labels
    shard_records: Annotated[int, Field(ge=1)]  # records of the source for each, less those that are left out
    max_height: Count = 0  # earlier versions could store images higher than this as smaller copies
    format: Literal[1] = 1  # the version of the layout

    @property
    def shards(self) -> int:
        """How many shards there are."""
        return -(-self.source_records // self.shard_records)

    def shard_name(self, number: int) -> str:
        """The name of shard ``number``, as TFDS forms it."""
        return f"{self.name}-{self.split}.array_record-{number:05d}-of-{self.shards:05d}"


@dataclass(frozen=True)
class FileSum:
    """What a file is to hold: its size in bytes, and its SHA-256 in hexadecimal."""

    bytes: Count
    sha256: str

    def fault(self, path: Path, contents: bool = False) -> str:
        """What is wrong with the file at ``path``, "" for nothing; reads it only if its ``contents`` count, too."""
        try:
            size = path.stat().st_size
            if size != self.bytes:
                return f"has {size:,} bytes instead of {self.bytes:,}"
            return "its checksum differs" if contents and checksum(path) != self.sha256 else ""
        except OSError as error:
            return f"cannot be read ({error.strerror})"


@dataclass(frozen=True)
class Shard(FileSum):
    """What a shard is to hold, and how many records that are."""

    records: Count


@dataclass(frozen=True)
class Manifest:
    """What a finished set holds."""

    plan: Plan  # what it was made from, and how
    records: Count  # how many records it has
    left_out: Count  # how many records of the source could not be used
    shards: tuple[Shard, ...]  # the shards in order
    index: dict[IndexFile, FileSum]  # the files of the index, in its folder

    def __post_init__(self) -> None:
        if len(self.shards) != self.plan.shards or sum(shard.records for shard in self.shards) != self.records:
            raise ValueError("its shards do not add up")


Described = TypeVar("Described", Plan, Manifest)


def write_json(path: Path, value: Plan | Manifest) -> None:
    """Write a plan or manifest to a file."""
    path.write_bytes(TypeAdapter(type(value)).dump_json(value, indent=1) + b"\n")


def read_json(path: Path | epath.Path, kind: type[Described]) -> Described:
    """Read what ``write_json`` wrote. Raises ``OSError``, and ``DataError`` where it is something else."""
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        problem = f"{path}: is not a file of this version ({place or 'JSON'}: {first['msg']})"
        raise DataError(f"{problem}; copy the folder again, or prepare the set again") from error
