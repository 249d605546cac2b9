"""Which sets are measured: those of the catalogue that a data root holds, or what the user names."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from data_pipelines.errors import UserError
from data_pipelines.packed_strings import PackedStrings
from data_pipelines.prepared import Records
from data_pipelines.sources.combining import compose_labels
from data_pipelines.sources.files import Annotations, LmdbWords
from data_pipelines.union14m.catalogue import BENCHMARK, CATALOGUE, COMMON, Place, kind_at, locate
from maerec_jax.config import SourceConfig

GROUPS = {"benchmark": BENCHMARK, "common": COMMON}
"""Names for all sets of a collection together."""

_NAMES = {word_set.name.lower() for collection in CATALOGUE for word_set in collection.sets} | GROUPS.keys()

# A set that is there in several forms is read from its original files.
_FORMS: dict[str, Callable[..., SourceConfig]] = {"annotations": Annotations, "lmdb": LmdbWords, "records": Records}


def find_sets(
    root: Path, names: Sequence[str], message: Callable[[str], None], image_field: str = "", text_field: str = ""
) -> dict[str, SourceConfig]:
    """Find sets of labelled words, each to be measured as a whole.

    Args:
      root: the data root.
      names: names of the catalogue's sets (``curve``, ``IC13_857``; their case does not matter), ``benchmark`` or
        ``common`` for all of a collection, or paths: of an annotation file, an LMDB, a prepared set, or a folder that
        holds such. Without any, all of Union14M-Benchmark and of the common benchmarks that are there.
      message: is told what was decided.
      image_field: names the image in the JSON records of annotation files that are named by their paths.
      text_field: holds the label in them. The usual fields where they are "".

    Returns:
      Where each set is, by what tables call it: its name in the catalogue, or its path.

    Raises:
      UserError: where there are none, or one of the names is not found.
    """
    if not root.is_dir():
        raise UserError(f"no such data root: {root}")
    if not names:
        places = [place for place in locate(root)[0] if place.collection in GROUPS.values()]
        if not places:
            raise UserError(
                f"{root} holds no known benchmark (python -m data_pipelines.check lists what is there): "
                "name annotation files, LMDBs or folders with --sets"
            )
        return dict(_sets(root, places, message))
    known = locate(root)[0] if any(name.lower() in _NAMES for name in names) else []
    found: list[tuple[str, SourceConfig]] = []
    for name in names:
        wanted, title = name.lower(), name.rstrip("/")
        if not title.strip():
            raise UserError(f"--sets: {name!r} names no set; . is all that the data root holds")
        places = [p for p in known if wanted == p.word_set.name.lower() or GROUPS.get(wanted) is p.collection]
        if places:
            found += _sets(root, places, message)
        elif (kind := kind_at(root / name)) == "annotations":
            found.append((title, Annotations(path=name, image_field=image_field, text_field=text_field)))
        elif kind is not None:
            found.append((title, _FORMS[kind](path=name)))
        else:
            found += _in_folder(root, title, message)
    if twice := sorted(name for name, times in Counter(name for name, _ in found).items() if times > 1):
        raise UserError(f"named twice: {', '.join(twice)}")
    return dict(found)


def _in_folder(root: Path, name: str, message: Callable[[str], None]) -> list[tuple[str, SourceConfig]]:
    """The sets in a folder."""
    path = root / name
    if not path.is_dir():
        if name.lower() in _NAMES:
            what = f"no set of {GROUPS[name.lower()].name}" if name.lower() in GROUPS else f"no {name}"
            raise UserError(f"{root} holds {what}: python -m data_pipelines.check {root} lists what is there")
        groups = ", ".join(GROUPS)
        raise UserError(f"{name} is neither a set found in {root} nor a path in it; {groups} name whole collections")
    places, extra = locate(path)
    places = [replace(place, paths=tuple(f"{name}/{inner}" for inner in place.paths)) for place in places]
    found = list(_sets(root, places, message))
    for inner in (f"{name}/{inner}" for inner in extra):
        found.append((inner, _FORMS["lmdb" if (root / inner).is_dir() else "annotations"](path=inner)))
    if not found:
        raise UserError(f"{path} holds no list of labels, LMDB or prepared set: name the annotation file itself")
    return found


def _sets(root: Path, places: Sequence[Place], message: Callable[[str], None]) -> Iterator[tuple[str, SourceConfig]]:
    """Sets of the catalogue, each once; and again for each list that gives other labels."""
    by_set: dict[tuple[str, str], list[Place]] = {}
    for place in places:
        if place.word_set.labelled:
            by_set.setdefault((place.collection.name, place.word_set.name), []).append(place)
    for (_, name), forms in by_set.items():
        first, *others = sorted(forms, key=lambda place: list(_FORMS).index(place.kind))
        if others:
            message(f"{name}: read from {first.paths[0]}, not from {', '.join(place.paths[0] for place in others)}")
        if first.kind != "annotations":
            yield name, _FORMS[first.kind](path=first.paths[0])
            continue
        seen: list[PackedStrings | None] = []
        for path in first.paths:
            stored = getattr(Annotations(path=path).open(root), "labels", None)
            labels = stored and compose_labels(stored)[0]
            if labels not in seen:
                yield name if not seen else f"{name} ({Path(path).name})", Annotations(path=path)
            seen.append(labels)
