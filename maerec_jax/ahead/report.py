"""The result of compiling ahead of time: as tables for the terminal, as JSON and as a line of Markdown."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Column, Table

from maerec_jax.ahead.compilation import Compiled
from maerec_jax.ahead.prediction import UTILISATION, Prediction, communication_time, predict
from maerec_jax.config import TrainConfig
from maerec_jax.costs.chips import Topology


def remat_parts(model: Any) -> dict[str, Any]:
    """The parts of a model whose blocks or layers can be recomputed in the backward pass, by their names."""
    parts = {field.name: getattr(model, field.name) for field in fields(model)}
    return {name: part for name, part in parts.items() if hasattr(part, "remat")}


@dataclass(frozen=True)
class Report:
    """A training step on a topology: what was asked for, what the compiler said, and what follows."""

    name: str
    """The config file."""
    config: TrainConfig
    topology: Topology
    compiled: Compiled

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
        parts = remat_parts(self.config.model)
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

    def of_chip(self, value: float | None) -> float | None:
        """What one device needs, for all devices of a chip."""
        return None if value is None else value * self.topology.chip.devices

    def summary(self) -> dict[str, Any]:
        """What the same program always has in common, by a compiler of the same version, for one device."""
        compiled = self.compiled
        return {
            "topology": str(self.topology),
            "flops": compiled.flops,
            "bytes_accessed": compiled.traffic,
            "fusions": compiled.fusions,
            "collectives": [asdict(collective) for collective in compiled.collectives],
            "versions": compiled.versions,
        }

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain values; bytes and operations are a chip's, times are in seconds."""
        prediction, compiled, chip = self.prediction, self.compiled, self.topology.chip
        times = None
        if prediction is not None:
            steps = {name: s for name in ("fastest", "expected", "slowest") if (s := getattr(prediction, name))}
            times = {name: value for name, value in asdict(prediction).items() if name not in ("images", "work")}
            times["images_per_second"] = {name: prediction.rate(seconds) for name, seconds in steps.items()}
        return {
            "config": self.name,
            "topology": str(self.topology),
            "chips": self.topology.chips,
            "mesh": self.axes(),
            "batch_size": self.config.batch_size,
            "accumulation": self.config.accumulation,
            "image_size": list(compiled.image_size),
            "remat": self.remat,
            "fits": compiled.fits,
            "hbm_bytes": chip.hbm,
            "memory_bytes": {name: self.of_chip(value) for name, value in asdict(compiled.memory).items()},
            "flops_per_image": prediction and asdict(prediction.work),
            "compiler": {
                "flops": self.of_chip(compiled.flops),
                "bytes_accessed": self.of_chip(compiled.traffic),
                "cycles": compiled.cycles,
                "seconds": compiled.seconds,
            },
            "collectives": [asdict(collective) for collective in compiled.collectives],
            "seconds": times,
            "utilisation_assumed": UTILISATION,
            "uncertain": list(chip.uncertain),
            "versions": compiled.versions,
        }


def _mebibytes(value: float) -> str:
    return f"{value / 2**20:,.1f}"


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:,.2f}"


def print_report(report: Report, console: Console) -> None:
    """Print tables of memory, collectives and time."""
    chip, compiled = report.topology.chip, report.compiled
    parts: list[RenderableType] = [report.title(), _memory_table(report)]
    prediction = report.prediction
    if prediction is None:
        parts.append(
            f"does not fit: {_mebibytes(compiled.memory.total * chip.devices)} MiB are needed of the "
            f"{_mebibytes(chip.hbm)} MiB of a {chip.name}. Try fewer images a chip, --model.encoder.remat True, "
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


def _table(title: str, first: str, *numbers: str) -> Table:
    columns = [Column(first), *(Column(name, justify="right") for name in numbers)]
    return Table(*columns, title=title, title_justify="left")


def _memory_table(report: Report) -> Table:
    chip = report.topology.chip
    table = _table("memory a chip", "kind", "MiB", f"of {chip.name}'s")
    for name, value in asdict(report.compiled.memory).items():
        if value or name == "total":
            value *= chip.devices
            table.add_row(name, _mebibytes(value), f"{value / chip.hbm:.1%}", end_section=name == "program")
    return table


def _collective_table(report: Report) -> Table:
    table = _table("collectives a step", "kind", "dtype", "between", "count", "MiB", "ms")
    for c in report.compiled.collectives:
        between = f"{c.group} {'slices' if c.between_slices else 'devices'}"
        time = communication_time(c, report.topology.chip)
        table.add_row(c.kind, c.dtype, between, f"{c.count:,}", _mebibytes(c.size), _milliseconds(time))
    return table


def _time_table(prediction: Prediction) -> Table:
    table = _table("time of a step", "what", "ms", "images/s", "of peak")
    for name in ("arithmetic", "memory", "links", "network"):
        if seconds := getattr(prediction, name):
            table.add_row(name, _milliseconds(seconds))
    table.add_section()
    for name, seconds in (
        ("fastest: at peak", prediction.fastest),
        ("compiler's estimate", prediction.expected),
        ("slowest: nothing hidden", prediction.slowest),
    ):
        if seconds is not None:
            share = prediction.utilisation(seconds)
            table.add_row(name, _milliseconds(seconds), f"{prediction.rate(seconds):,.0f}", f"{share:.0%}")
    return table


def _operations(report: Report, prediction: Prediction) -> str:
    work, images = prediction.work, prediction.images / report.topology.chips
    text = f"{work.model / 1e9:,.1f} GFLOP an image"
    if work.recomputed:
        text += f", {work.recomputed / 1e9:,.1f} more for remat"
    text += f"; {work.executed * images / 1e12:,.2f} TFLOP a chip and step"
    counted = report.of_chip(report.compiled.flops)
    if counted and report.config.accumulation == 1:
        text += f" (by the compiler's count {counted / 1e12:,.2f})"
    return f"{text}; bound by {prediction.bound}"


def markdown_cells(report: Report) -> dict[str, str]:
    """A row of a Markdown table by its headings, of a step that fits."""
    memory, devices, prediction = report.compiled.memory, report.topology.chip.devices, report.prediction
    assert prediction is not None
    assert memory.temporaries is not None
    state = (memory.parameters + memory.optimizer + memory.average) * devices
    steps = [prediction.fastest, prediction.expected, prediction.slowest]
    fast, *_, slow = (f"{float(f'{prediction.rate(seconds):.3g}'):,.0f}" for seconds in steps if seconds is not None)
    reduced = [c for c in report.compiled.collectives if c.kind in ("all-reduce", "reduce-scatter")]
    return {
        "config": report.name.rsplit("/", 1)[-1].removesuffix(".py"),
        "topology": str(report.topology),
        "images a chip": f"{report.images_a_chip:g}",
        "remat": report.remat,
        "state": f"{state / 2**30:.2f} GiB",
        "temporaries": f"{memory.temporaries * devices / 2**30:.2f} GiB",
        "of memory": f"{report.filled:.0%}",
        "arithmetic": f"{1e3 * prediction.arithmetic:.1f} ms",
        "HBM traffic": f"{1e3 * prediction.memory:.1f} ms",
        "communication": f"{1e3 * prediction.communication:.2f} ms",
        "bound": prediction.bound,
        "step, ms": " / ".join("-" if seconds is None else f"{1e3 * seconds:.1f}" for seconds in steps),
        "images/s": f"{slow} to {fast}",
        "gradients": "+".join(sorted({c.dtype for c in reduced if c.size > 0.05 * max(x.size for x in reduced)})),
    }
