"""Opening the sources that a run names, without what cannot be used of them."""

from collections.abc import Callable, Sequence
from pathlib import Path

from data_pipelines.errors import DataError
from data_pipelines.overlaps.list_file import leave_out, read_list
from data_pipelines.sources.combining import Labels, Mixing, Sources, SourceSpec, drop_unknown_characters


def open_sources(
    specs: Sequence[SourceSpec],
    root: Path,
    message: Callable[[str], None],
    labels: Labels | None = None,
    mixing: Mixing = "by_size",
    exclude: Sequence[str] = (),
) -> Sources:
    """Open sources under a root, which their paths and those of ``exclude`` are relative to.

    Args:
      specs: the sources.
      root: the data root.
      message: told, in lines, what was decided and what is left out.
      labels: what labels have to be like; None where none are needed.
      mixing: how sources without a weight divide the images.
      exclude: lists of records to leave out; for training data only.

    Raises ``DataError`` for a source or list that cannot be used, and for one without labels that are needed.
    """
    sources = Sources.open(tuple(specs), root, mixing)
    for source in sources.sources:
        for note in getattr(source, "notes", ()):
            message(note)
    if labels is not None:
        for source in sources.sources:
            if source.text(0) is None:
                raise DataError(
                    f"{source.name(0)} has no label, and a recogniser needs labels: choose labelled sources, or write "
                    "a list where only the names of files tell them (docs/damaged_data.md)"
                )
        sources, report = drop_unknown_characters(sources, labels)
        if report.unknown or report.empty or report.unreadable or report.composed or report.longer:
            message(str(report))
    if not exclude:
        return sources
    # Last, so that all labels could be looked at in one piece.
    names = {overlap.train for name in exclude for overlap in read_list(root / name)}
    sources, count, unknown = leave_out(sources, names)
    message(f"{count:,} records left out by {', '.join(exclude)}")
    if unknown:
        message(f"{len(unknown):,} of {len(names):,} excluded names are in no training source, such as {min(unknown)}")
    return sources
