"""Noticing that the data of a run has changed since it began: what its sources hold is written beside its config."""

from collections.abc import Mapping

from etils import epath
from pydantic import TypeAdapter, ValidationError

from data_pipelines.errors import UserError
from data_pipelines.sources.combining import Sources
from data_pipelines.sources.contents import Contents, contents_of
from data_pipelines.storage import write_whole
from maerec_jax.config import TrainConfig
from maerec_jax.training.data import needed_labels, source_names

DATA_FILE = "data.json"

Held = dict[str, Contents]
"""What each source of a run holds, by what messages call it."""

_ADAPTER = TypeAdapter(Held)


def held_by(config: TrainConfig, training: Sources, validation: Sources | None) -> Held:
    """What the sources of a run hold."""
    labelled, data = needed_labels(config) is not None, config.data
    held = dict(zip(source_names(data.train), training.sources, strict=True))
    if validation is not None:
        held |= zip(source_names(data.validation, "data.validation"), validation.sources, strict=True)
    return {name: contents_of(source, labelled) for name, source in held.items()}


def check_data(workdir: epath.Path, held: Held, resumes: bool, allowed: bool, write: bool) -> list[str]:
    """Compare what the sources hold with what they held when the run in ``workdir`` began, and write it down.

    Returns a line where it has changed and that is ``allowed``. Raises ``UserError`` where it is not.
    """
    file, told = workdir / DATA_FILE, ""
    if resumes and file.exists():  # runs of earlier versions have none
        try:
            told = "; ".join(_changes(_ADAPTER.validate_json(file.read_bytes()), held))
        except ValidationError as error:
            raise UserError(f"{file}: is damaged: remove it, if the data is what it was when the run began") from error
        if not told:
            return []
        if not allowed:
            raise UserError(
                f"{workdir} holds a run on other data ({told}): put the data back, choose another --workdir, or go on "
                "with the data as it is now by --resume-changed-data"
            )
    if write:
        write_whole(file, _ADAPTER.dump_json(held, indent=2).decode() + "\n")
    return [f"the data has changed: {told}; epochs and what follows them are those of the new data"] if told else []


def _changes(before: Mapping[str, Contents], now: Mapping[str, Contents]) -> list[str]:
    """What has changed in each source."""
    told = []
    for name, new in now.items():
        old = before.get(name)
        if old is None:
            told.append(f"{name}: is new")
        elif old.records != new.records:
            told.append(f"{name}: {old.records:,} -> {new.records:,} images")
        elif old.names != new.names:
            told.append(f"{name}: other images")
        elif old.labels != new.labels:
            told.append(f"{name}: other labels")
    return told
