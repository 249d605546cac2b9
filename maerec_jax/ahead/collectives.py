"""What a compiled program sends between devices, read from its text.

The text is the scheduled HLO that ``Compiled.as_text()`` of a TPU program gives. Three things in it need care. One
collective may be written several times, in the fusions that hide it behind arithmetic: all its copies have one channel.
One inside a loop is carried out at every turn. And between slices nothing is written as a collective: each slice
reduces within itself and hands its part to the host to send.
"""

import math
import re
from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple

_KINDS = (
    "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute",
    "collective-broadcast",
)  # fmt: skip
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (.*?) ([\w\-]+)\(")
_CALLED = r"(?:calls|to_apply|condition|body|true_computation|false_computation|branch_computations)"
_CALLS = re.compile(rf"\b{_CALLED}=(?:%?([\w.\-]+)|\{{([^}}]*)\}})")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_NO_ESTIMATE = 2**62  # for v5p the compiler gives the largest integer for an operation that it cannot judge


@dataclass(frozen=True)
class Collective:
    """Collectives of one kind, dtype and group, as a device takes part in them in one step."""

    kind: str
    """``all-reduce``, ``all-gather``, ``reduce-scatter``, ``all-to-all``, ``collective-permute`` ..."""
    dtype: str
    """HLO's name, such as ``bf16``; joined by ``+`` where an operation has several."""
    group: int
    """Devices that take part together: chips of a slice, or slices where ``between_slices``."""
    count: int
    """How often it is carried out in a step."""
    size: float
    """Bytes in a step, over all of ``count``: of the whole array that is reduced, gathered or scattered; of what a
    device sends in other kinds; of what a device hands to the host where ``between_slices``."""
    between_slices: bool = False
    """Whether it goes over the network between slices instead of the links between chips."""


class _Line(NamedTuple):
    kind: str
    shapes: str
    text: str


def read_program(text: str, devices: int, slices: int = 1, turns: int = 1) -> tuple[tuple[Collective, ...], int]:
    """Find the collectives of a program, the largest first, and the cycles that its compiler expects.

    The cycles are the sum over all operations, one after the other, collectives not counted; 0 where it wrote none.
    All ``devices`` run the program, and ``turns`` times those loops whose count the text does not tell. Raises
    ``ValueError`` naming what cannot be read.
    """
    computations, entry = _computations(text)
    found: dict[tuple[str, str, int, bool], list[float]] = defaultdict(lambda: [0, 0.0])
    seen: set[tuple[str, str]] = set()
    cycles = 0
    for computation, repeats in _times(computations, entry, turns).items():
        for line in computations[computation]:
            cycles += repeats * sum(n for n in map(int, _CYCLES.findall(line.text)) if n < _NO_ESTIMATE)
            between = line.kind == "send" and "is_host_transfer=true" in line.text
            if not between and line.kind.removesuffix("-start") not in _KINDS:
                continue
            name = _attribute(line.text, "_xla_host_transfer_rendezvous" if between else "channel_id")
            if name and (line.kind, name) in seen:
                continue
            seen.add((line.kind, name))
            if between:  # within a step each part goes to the host once; the hosts of the slices do the rest
                kind = _attribute(line.text, "_xla_megascale_transfer_type").lower().replace("_", "-") or "send"
                group = slices
            else:
                kind = line.kind.removesuffix("-start")
                group = _group_size(kind, line.text, devices // slices)
                if kind == "all-reduce" and computation.startswith("all-reduce-scatter"):
                    kind = "reduce-scatter"  # so a fusion is called that keeps a part of what is reduced
            arrays = _given(line)
            size = sum(size for _, size in arrays) * (group if line.kind.startswith("reduce-scatter") else 1)
            total = found[kind, "+".join(sorted({dtype for dtype, _ in arrays})), group, between]
            total[0] += repeats
            total[1] += repeats * size
    collectives = (
        Collective(kind, dtype, group, int(count), size, between)
        for (kind, dtype, group, between), (count, size) in found.items()
        if group > 1
    )
    return tuple(sorted(collectives, key=lambda c: -c.size)), cycles


def _computations(text: str) -> tuple[dict[str, list[_Line]], str]:
    """The instructions of each computation, and the name of the one that is the program."""
    lines: dict[str, list[_Line]] = {}
    entry = current = ""
    for row in text.splitlines():
        if match := _COMPUTATION.match(row):
            current = match[2]
            lines[current] = []
            entry = current if match[1] else entry
        elif current and (match := _INSTRUCTION.match(row)):
            lines[current].append(_Line(match[2], match[1], row))
    if not entry:
        raise ValueError("the text has no ENTRY computation: it is no HLO module")
    return lines, entry


def _times(lines: dict[str, list[_Line]], entry: str, turns: int) -> dict[str, int]:
    """How often each computation is run in a step; a computation called from several places counts as the most."""
    times: dict[str, int] = {}

    def run(name: str, count: int) -> None:
        if times.get(name, 0) >= count or name not in lines:
            return
        times[name] = count
        for line in lines[name]:
            known = _TRIPS.search(line.text)
            inner = count * (int(known[1]) if known else turns) if line.kind == "while" else count
            for one, several in _CALLS.findall(line.text):
                for callee in (one or several).split(","):
                    run(callee.strip().lstrip("%"), inner)

    run(entry, 1)
    return times


def _attribute(text: str, name: str) -> str:
    """The value of ``name=value`` or ``name="value"``; empty where there is none."""
    match = re.search(rf'\b{name}="?([^",\s]*)', text)
    return match[1] if match else ""


def _given(line: _Line) -> list[tuple[str, float]]:
    """dtype and bytes of each array that a collective gives, or hands to the host."""
    # Layouts, such as {1,0:T(8,128)S(1)}, hold no arrays but look a little like them.
    shapes = re.sub(r"\{[^{}]*\}", "", line.shapes)
    arrays = []
    for dtype, sides in _ARRAY.findall(shapes):
        bits = 8 if dtype == "pred" else int(match[1]) if (match := re.match(r"[a-z]+(\d+)", dtype)) else 0
        arrays.append((dtype, math.prod(int(side) for side in sides.split(",") if side) * bits / 8))
    several = re.match(r"\(\(([^()]*)\)", shapes)
    operands = len(_ARRAY.findall(several[1])) if several else 1
    if line.kind == "send":
        return arrays[:operands]
    # Started ones tell their operands first, but for all-reduce.
    after = line.kind.endswith("-start") and line.kind != "all-reduce-start"
    return arrays[operands : 2 * operands] if after else arrays


def _group_size(kind: str, text: str, devices: int) -> int:
    """How many devices take part in a collective together.

    Groups are written as lists, ``{{0,1},{2,3}}``; as the shape of a table of all devices with a group in each row,
    ``[2,4]<=[8]``; or as axes of a mesh or parts of axes, ``mesh['a'=2,'b'=4] {'a','b':(1)2}``.
    """
    if kind == "collective-permute":
        pairs = re.findall(r"\{(\d+),(\d+)\}", (re.search(r"source_target_pairs=\{(.*?)\}\}", text + "}") or [""])[0])
        return 2 if any(source != target for source, target in pairs) else 1
    groups = text.partition("replica_groups=")[2]
    if match := re.match(r"\[(\d+),(\d+)\]<=", groups):
        return int(match[2])
    if match := re.match(r"\{\{([\d,]+)\}", groups):
        return match[1].count(",") + 1
    if match := re.match(r"@?mesh\w*\[([^\]]*)\][^{]*\{([^}]*)\}", groups):
        sides = dict(re.findall(r"('?[\w.\-]+'?)=(\d+)", match[1]))
        axes = re.findall(r"('?[\w.\-]+'?)(?::\((\d+)\)(\d+))?(?:,|$)", match[2])
        if axes and all(name in sides for name, _, _ in axes):
            return math.prod(int(part or sides[name]) for name, _, part in axes)
    if not groups or re.match(r"\{\}", groups):
        return devices
    raise ValueError(f"cannot read the devices of a collective: replica_groups={groups[:80]}")
