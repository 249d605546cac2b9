"""The result of compiling ahead of time: as tables for the terminal, as JSON and as a line of Markdown."""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table

from maerec_jax.ahead.compilation import Compiled, Memory
from maerec_jax.ahead.prediction import UTILISATION, Prediction, communication_time, predict
from maerec_jax.config import TrainConfig
from maerec_jax.costs.chips import Topology
from maerec_jax.models.maerec import MAERecConfig

COLUMNS = (
    "config", "topology", "images a chip", "remat", "state", "temporaries", "of memory", "arithmetic", "HBM traffic",
    "communication", "bound", "step, ms", "images/s", "gradients",
)  # fmt: skip
"""Headings of ``markdown_row``."""


@dataclass(frozen=True)
class Report:
    """A training step on a topology: what was asked for, what the compiler said, and what follows."""

    name: str
    """The config file."""
    config: TrainConfig
    """The run."""
    topology: Topology
    """Where."""
    compiled: Compiled
    """What the compiler said."""

    @property
    def prediction(self) -> Prediction | None:
        """The step time; None where the step does not fit."""
        return predict(self.compiled, self.config, self.topology)

    @property
    def filled(self) -> float:
        """Share of the chip's memory that is needed."""
        return self.compiled.memory.total * self.topology.chip.devices / self.topology.chip.hbm

    @property
    def images_a_chip(self) -> float:
        """Images a step and chip."""
        return self.config.batch_size / self.topology.chips

    def title(self) -> str:
        """One line."""
        axes = " x ".join(f"{axis} {size}" for axis, size in self.axes().items() if size > 1) or "one device"
        parts = f", {self.config.accumulation} parts" if self.config.accumulation > 1 else ""
        height, width = self.compiled.image_size
        return (
            f"{self.name} on {self.topology}: {self.topology.chips} chips, {axes}; {self.config.batch_size:,} images "
            f"of {height}x{width} a step, {self.images_a_chip:g} a chip{parts}; remat {self.remat}"
        )

    @property
    def remat(self) -> str:
        """What is recomputed in the backward pass: "on", "off", or the part of the model for which it is on.

        "on, but products" keeps the results of dense layers.
        """
        model = self.config.model
        parts: dict[str, Any] = {"encoder": model.encoder}
        if isinstance(model, MAERecConfig):
            parts["decoder"] = model.decoder
        on = {name: part.remat_keeps for name, part in parts.items() if part.remat}
        if not on:
            return "off"
        which = "on" if len(on) == len(parts) else next(iter(on))
        return f"{which}, but products" if "products" in on.values() else which

    def axes(self) -> dict[str, int]:
        """The sizes of the mesh, with the devices that "data" has over all slices."""
        mesh = self.config.mesh
        data = self.topology.devices // (mesh.fsdp * mesh.tensor)
        return {"data": data, "fsdp": mesh.fsdp, "tensor": mesh.tensor}

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain values; bytes and operations are a chip's, times are in seconds."""
        prediction, chip = self.prediction, self.topology.chip
        memory = {name: _chip(value, chip.devices) for name, value in asdict(self.compiled.memory).items()}
        times = None
        if prediction is not None:
            times = {
                name: getattr(prediction, name)
                for name in (
                    "arithmetic", "memory", "links", "network", "fastest", "expected", "slowest", "bound",
                )
            }  # fmt: skip
            times["images_per_second"] = {
                name: prediction.rate(seconds)
                for name in ("fastest", "expected", "slowest")
                if (seconds := getattr(prediction, name)) is not None
            }
        work = asdict(prediction.work) if prediction else None
        return {
            "config": self.name,
            "topology": str(self.topology),
            "chips": self.topology.chips,
            "mesh": self.axes(),
            "batch_size": self.config.batch_size,
            "accumulation": self.config.accumulation,
            "image_size": list(self.compiled.image_size),
            "remat": self.remat,
            "fits": self.compiled.fits,
            "hbm_bytes": chip.hbm,
            "memory_bytes": memory,
            "flops_per_image": work,
            "compiler": {
                "flops": _chip(self.compiled.flops, chip.devices),
                "bytes_accessed": _chip(self.compiled.traffic, chip.devices),
                "cycles": self.compiled.cycles,
                "seconds": self.compiled.seconds,
            },
            "collectives": [asdict(collective) for collective in self.compiled.collectives],
            "seconds": times,
            "utilisation_assumed": UTILISATION,
            "uncertain": list(chip.uncertain),
            "versions": self.compiled.versions,
        }


def _chip(value: float | None, devices: int) -> float | None:
    return None if value is None else value * devices


def _size(value: float | None) -> str:
    """Bytes in MiB."""
    return "-" if value is None else f"{value / 2**20:,.1f}"


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1e3 * seconds:,.2f}"


def print_report(report: Report, console: Console) -> None:
    """Print tables of memory, collectives and time."""
    chip, compiled = report.topology.chip, report.compiled
    parts: list[RenderableType] = [report.title(), _memory_table(report)]
    prediction = report.prediction
    if prediction is None:
        parts.append(
            f"does not fit: {_size(compiled.memory.total * chip.devices)} MiB are needed of the "
            f"{_size(chip.hbm)} MiB of a {chip.name}. Try fewer images a chip, --model.encoder.remat True, "
            "more --mesh.fsdp or more --accumulation"
        )
    else:
        parts += [_collective_table(report), _time_table(prediction), _operations(report, prediction)]
    if report.config.data.buckets:
        height, width = compiled.image_size
        parts.append(f"of {len(report.config.data.buckets)} buckets the one with the most patches, {height}x{width}")
    parts += [f"not certain: {text}" for text in chip.uncertain]
    versions = ", ".join(f"{name} {version}" for name, version in compiled.versions.items())
    parts.append(f"compiled in {compiled.seconds:.0f} s by {versions}")
    console.print(Group(*parts))


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    return table


def _memory_table(report: Report) -> Table:
    chip, memory = report.topology.chip, report.compiled.memory
    table = _table("memory a chip", "kind", "MiB", f"of {chip.name}'s")
    for field in fields(Memory):
        value = _chip(getattr(memory, field.name), chip.devices)
        if value is not None and (value or field.name == "total"):
            table.add_row(field.name, _size(value), f"{value / chip.hbm:.1%}", end_section=field.name == "program")
    return table


def _collective_table(report: Report) -> Table:
    table = _table("collectives a step", "kind", "dtype", "between", "count", "MiB", "ms")
    for c in report.compiled.collectives:
        between = f"{c.group} {'slices' if c.between_slices else 'devices'}"
        time = communication_time(c, report.topology.chip)
        table.add_row(c.kind, c.dtype, between, f"{c.count:,}", _size(c.size), _milliseconds(time))
    return table


def _time_table(prediction: Prediction) -> Table:
    table = _table("time of a step", "what", "ms", "images/s", "of peak")
    for name in ("arithmetic", "memory", "links", "network"):
        if seconds := getattr(prediction, name):
            table.add_row(name, _milliseconds(seconds), "", "")
    rows = {
        "fastest: at peak": prediction.fastest,
        "compiler's estimate": prediction.expected,
        "slowest: nothing hidden": prediction.slowest,
    }
    table.add_section()
    for name, seconds in rows.items():
        if seconds is not None:
            share = prediction.utilisation(seconds)
            table.add_row(name, _milliseconds(seconds), f"{prediction.rate(seconds):,.0f}", f"{share:.0%}")
    return table


def _operations(report: Report, prediction: Prediction) -> str:
    work = prediction.work
    images = prediction.images / report.topology.chips
    counted = _chip(report.compiled.flops, report.topology.chip.devices)
    text = f"{work.model / 1e9:,.1f} GFLOP an image"
    if work.recomputed:
        text += f", {work.recomputed / 1e9:,.1f} more for remat"
    text += f"; {work.executed * images / 1e12:,.2f} TFLOP a chip and step"
    if counted and report.config.accumulation == 1:
        text += f" (by the compiler's count {counted / 1e12:,.2f})"
    return f"{text}; bound by {prediction.bound}"


def markdown_row(report: Report) -> str:
    """A line of a Markdown table whose headings are ``COLUMNS``."""
    memory, chip, prediction = report.compiled.memory, report.topology.chip, report.prediction
    state = (memory.parameters + memory.optimizer + memory.average) * chip.devices
    cells = [
        report.name.rsplit("/", 1)[-1].removesuffix(".py"),
        str(report.topology),
        f"{report.images_a_chip:g}",
        report.remat,
        f"{state / 2**30:.2f} GiB",
        "-" if memory.temporaries is None else f"{memory.temporaries * chip.devices / 2**30:.2f} GiB",
        f"{report.filled:.0%}",
    ]
    if prediction is None:
        return "| " + " | ".join([*cells, *["-"] * 3, "does not fit", *["-"] * 3]) + " |"
    reduced = [c for c in report.compiled.collectives if c.kind in ("all-reduce", "reduce-scatter")]
    dtypes = {c.dtype for c in reduced if c.size > 0.05 * max(x.size for x in reduced)}
    steps = [prediction.fastest, prediction.expected, prediction.slowest]
    known = [seconds for seconds in steps if seconds is not None]
    cells += [
        f"{1e3 * prediction.arithmetic:.1f} ms",
        f"{1e3 * prediction.memory:.1f} ms",
        f"{1e3 * prediction.communication:.2f} ms",
        prediction.bound,
        " / ".join("-" if seconds is None else f"{1e3 * seconds:.1f}" for seconds in steps),
        f"{_rounded(prediction.rate(known[-1]))} to {_rounded(prediction.rate(known[0]))}",
        "+".join(sorted(dtypes)) or "-",
    ]
    return "| " + " | ".join(cells) + " |"


def _rounded(value: float) -> str:
    """Three significant digits."""
    digits = 2 - math.floor(math.log10(value))
    return f"{round(value, digits):,.0f}"
