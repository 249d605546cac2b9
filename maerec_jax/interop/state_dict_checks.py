"""Whether the tensors of a state dict are those of a model; whatever is not is told by name."""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from itertools import groupby

import numpy as np

Wanted = Mapping[str, tuple[str, tuple[int, ...]]]
"""For each key the path of our parameter, which copies share, and the shape (``state_dicts.state_dict_shapes``)."""


def drop_constants(state: dict[str, np.ndarray], constants: Mapping[str, np.ndarray], notes: list[str]) -> None:
    """Take out what is computed, such as position tables. Raises ``ValueError`` where it is another."""
    for name in constants.keys() & state.keys():
        found, ours = state.pop(name), constants[name]
        # Half precision rounds it by up to 0.002 (bfloat16); another table differs by about 1.
        if found.shape != ours.shape or not np.allclose(found, ours, rtol=0, atol=4e-3):
            raise ValueError(f"{name} {found.shape} is not the table {ours.shape} that the model computes")
        notes.append(f"{name} is computed, not stored (largest difference {np.abs(found - ours).max():.1g})")


def compare(shapes: Mapping[str, tuple[int, ...]], wanted: Wanted, aside: Collection[str] = ()) -> None:
    """Raises ``ValueError`` naming all tensors that are missing, left over but for those aside, or of another shape."""
    there = {path for name, (path, _) in wanted.items() if name in shapes}
    missing = [name for name, (path, _) in wanted.items() if path not in there]
    left_over = [name for name in shapes if name not in wanted and name not in aside]
    other = [
        f"{name} {shapes[name]} instead of {shape}"
        for name, (_, shape) in wanted.items()
        if name in shapes and tuple(shapes[name]) != shape
    ]
    found = [("missing", grouped(missing)), ("left over", grouped(left_over)), ("of another shape", ", ".join(other))]
    told = [f"{what}: {names}" for what, names in found if names]
    if told:
        raise ValueError(f"its tensors do not match the model that they look like: {'; '.join(told)}")


def compare_copies(state: dict[str, np.ndarray], wanted: Wanted, notes: list[str]) -> None:
    """Tell where the copies of a tensor differ, or one is not there."""
    copies = defaultdict(list)
    for name, (path, _) in wanted.items():
        copies[path].append(name)
    alone, unlike = [], []
    for first, *others in copies.values():
        for name in others:
            if name not in state or first not in state:
                alone.append(first if name in state else name)
            elif not np.array_equal(state[first], state[name]):
                unlike.append(f"{first}, {name}")
    if alone:
        notes.append(f"one of two copies is missing: {grouped(alone)}")
    if unlike:
        notes.append(f"copies differ, and the first counts: {', '.join(unlike)}")


def note_dropped(notes: list[str], names: Iterable[str]) -> None:
    """Tell what an encoder does without: parts of a model, and how many tensors each has."""
    parts = Counter(name.split(".")[0] for name in names)
    if parts:
        told = ", ".join(part if count == 1 else f"{part} ({count} tensors)" for part, count in parts.items())
        notes.append(f"not needed for an encoder, and dropped: {told}")


def grouped(names: Iterable[str]) -> str:
    """Names in a line; those that differ in one number only become one: ``blocks.{0-11}.norm1.bias``."""
    numbers: dict[tuple[str, str], list[int]] = defaultdict(list)
    for name in names:
        found = re.search(r"\.(\d+)\.", name)
        key = (name, "") if found is None else (name[: found.start(1)], name[found.end(1) :])
        numbers[key] += [int(found[1])] if found else []
    return ", ".join(start + _ranges(sorted(found)) + end for (start, end), found in numbers.items())


def _ranges(numbers: list[int]) -> str:
    runs = [[n for _, n in run] for _, run in groupby(enumerate(numbers), lambda placed: placed[1] - placed[0])]
    text = ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
    return f"{{{text}}}" if len(numbers) > 1 else text
