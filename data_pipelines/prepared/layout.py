"""What a prepared set is on disk: a folder with shards, an index, TFDS's description of them, and a manifest.

train_easy/
  train_easy-train.array_record-00000-of-00064   tf.train.Examples: image, text, name, height, width
  index/names.utf8 names.npy                     names of the original records, and where each starts
  index/labels.utf8 labels.npy                   labels, where the set has any, in the same form
  index/sizes.npy                                int32 (records, 2): height and width
  dataset_info.json features.json                for tfds.builder_from_directory
  statistics.json                                counts, sizes, lengths, what was left out, what resizing cost
  records.json                                   the manifest: what it was made from, and checksums; written last
  .unfinished/                                   while it is made: what is known of finished shards
"""

from dataclasses import dataclass, fields
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from data_pipelines.errors import DataError

MANIFEST = "records.json"
STATISTICS = "statistics.json"
UNFINISHED = ".unfinished"
FORMAT = 1
"""The version of this layout."""

SetName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=200)]
Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class Plan:
    """What the shards of a set depend on. Work goes on in a folder only with the plan that it was begun with."""

    name: SetName
    """The set's name: that of its folder, and of the dataset for TFDS."""
    split: Literal["train", "validation", "test"]
    """The split for TFDS."""
    source: str
    """Where the records come from: a path relative to the data root."""
    source_records: Count
    """How many records the source has."""
    fingerprint: str
    """A hash of the source's names and labels and of some of its images."""
    labelled: bool
    """Whether records have labels."""
    shard_records: Annotated[int, Field(ge=1)]
    """How many records of the source become a shard; less those that are left out."""
    max_height: Count
    """Images higher than this are resized (see ``data_pipelines.prepare``); 0 for none."""
    format: Literal[1] = 1
    """The version of the layout."""

    @property
    def shards(self) -> int:
        """How many shards there are."""
        return -(-self.source_records // self.shard_records)

    def shard_name(self, number: int) -> str:
        """The name of shard ``number``, as TFDS forms it."""
        return f"{self.name}-{self.split}.array_record-{number:05d}-of-{self.shards:05d}"

    def differences(self, other: "Plan") -> list[str]:
        """``"field: this, other"`` for each field in which two plans differ."""
        pairs = ((field.name, getattr(self, field.name), getattr(other, field.name)) for field in fields(self))
        return [f"{name}: {mine!r}, now {theirs!r}" for name, mine, theirs in pairs if mine != theirs]


@dataclass(frozen=True)
class FileSum:
    """What a file is to hold."""

    bytes: Count
    """Its size."""
    sha256: str
    """Its checksum, in hexadecimal."""


@dataclass(frozen=True)
class Shard(FileSum):
    """What a shard is to hold."""

    records: Count
    """How many records."""


@dataclass(frozen=True)
class Manifest:
    """What a finished set holds."""

    plan: Plan
    """What it was made from, and how."""
    records: Count
    """How many records it has."""
    left_out: Count
    """How many records of the source could not be used."""
    shards: tuple[Shard, ...]
    """The shards in order."""
    index: dict[str, FileSum]
    """The files of the index, by their names in its folder."""

    def __post_init__(self) -> None:
        if len(self.shards) != self.plan.shards or sum(shard.records for shard in self.shards) != self.records:
            raise ValueError("its shards do not add up")

    def to_json(self) -> bytes:
        """The file ``records.json``."""
        return _MANIFEST.dump_json(self, indent=1) + b"\n"

    @classmethod
    def from_json(cls, data: bytes, path: str) -> "Manifest":
        """Read what ``to_json`` wrote; ``path`` is for messages. Raises ``DataError`` where it is something else."""
        return _read(_MANIFEST, data, path)


def plan_to_json(plan: Plan) -> bytes:
    """A plan as a file."""
    return _PLAN.dump_json(plan, indent=1) + b"\n"


def plan_from_json(data: bytes, path: str) -> Plan:
    """Read what ``plan_to_json`` wrote. Raises ``DataError`` where it is something else."""
    return _read(_PLAN, data, path)


_MANIFEST, _PLAN = TypeAdapter(Manifest), TypeAdapter(Plan)


def _read(adapter: TypeAdapter, data: bytes, path: str):  # noqa: ANN202
    try:
        return adapter.validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        problem = f"{path}: is not what this version writes ({place or 'JSON'}: {first['msg']})"
        raise DataError(f"{problem}; copy the folder anew, or prepare the set again") from error
