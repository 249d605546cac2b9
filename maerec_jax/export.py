"""Write weights for other programs: ``python -m maerec_jax.export --checkpoint DIR --format onnx --output FILE``."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from data_pipelines.command import check_outputs, main_of
from data_pipelines.errors import UserError

if TYPE_CHECKING:  # what takes long to import has no part in --help
    from maerec_jax.config import TrainConfig

Format = Literal["pytorch", "safetensors", "onnx", "stablehlo"]

# What has to be installed; and which module and function write a format, and the options that it has.
_NEEDED = {"pytorch": ("torch",), "onnx": ("torch", "onnx", "onnxscript", "onnxruntime")}
_WRITERS = {
    "pytorch": ("maerec_jax.interop.pytorch_file", "write_pytorch", ("released",)),
    "safetensors": ("maerec_jax.weights.finding", "save_weights", ("dtype",)),
    "onnx": ("maerec_jax.interop.onnx_file", "write_onnx", ("int8",)),
    "stablehlo": ("maerec_jax.interop.stablehlo_file", "write_stablehlo", ("int8", "dtype")),
}
# The same for detectors.
_DETECTOR_NEEDED = {"pytorch": ("torch",), "onnx": ("onnx",)}
_DETECTOR_WRITERS = {
    "pytorch": ("maerec_jax.interop.pytorch_file", "write_pytorch_detector"),
    "onnx": ("maerec_jax.interop.onnx_detector", "write_onnx_detector"),
}


@dataclass(frozen=True)
class ExportArguments:
    """Export a model to one file for other programs (see docs/interop.md).

    pytorch: a state dict in the layout of the original MAERec code.

    safetensors: weights and settings; all commands accept the file as --checkpoint.

    onnx: a complete reader, from uint8 images to characters. scripts/read_exported.py is an example.

    stablehlo: the same for JAX on CPU, GPU and TPU, without this package.

    An imported detector (docs/scenes.md) can be written as onnx and pytorch.
    """

    format: Format
    """Format to write."""
    output: str
    """File to write; it must end in .pth or .pt, .safetensors, .onnx, or .stablehlo."""
    checkpoint: str = ""
    """Workdir (its best checkpoint), checkpoint, .safetensors file or built-in model; default: maerec_tiny."""
    average: tuple[str, ...] = ()
    """More checkpoints of this model: write the mean of all weights (model soups, arXiv 2203.05482)."""
    int8: bool = False
    """onnx, stablehlo: 8-bit weights, a quarter of the size (accuracy: docs/interop.md)."""
    released: bool = False
    """pytorch: write a file that the original code loads unchanged: BGR input, its pixel scale (docs/interop.md)."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """bfloat16: stablehlo that computes faster on GPU and TPU. float16: safetensors of half the size."""

    def __post_init__(self) -> None:
        endings = (".pth", ".pt") if self.format == "pytorch" else (f".{self.format}",)
        if not self.output.endswith(endings):
            raise ValueError(f"--output {self.output} must end in {' or '.join(endings)} for --format {self.format}")
        for name in ("int8", "released"):
            formats = [form for form, (_, _, options) in _WRITERS.items() if name in options]
            if getattr(self, name) and self.format not in formats:
                raise ValueError(f"--{name} is for --format {' or '.join(formats)}, not {self.format}")
        if self.format != {"bfloat16": "stablehlo", "float16": "safetensors"}.get(self.dtype, self.format):
            raise ValueError(
                "--dtype bfloat16 is for --format stablehlo, float16 for safetensors; "
                f"{self.format} has no {self.dtype}"
            )


def export(arguments: ExportArguments) -> int:
    """Load, write, and say what was written; returns 0."""
    from maerec_jax.models.interface import RecogniserConfig
    from maerec_jax.weights.detector_files import holds_detector

    if holds_detector(arguments.checkpoint):
        return _export_detector(arguments)
    _check_installed(arguments.format, _NEEDED.get(arguments.format, ()))
    check_outputs(arguments.output)
    console, output = Console(stderr=True), Path(arguments.output)
    with console.status("loading the checkpoint"):
        config, params, step = _load(arguments)
    if arguments.format in ("onnx", "stablehlo") and not isinstance(config.model, RecogniserConfig):
        raise UserError(f"{arguments.checkpoint} is a masked autoencoder, which cannot read: fine-tune it first")
    with console.status(f"writing {output}"):
        module, writer, options = _WRITERS[arguments.format]
        write = getattr(import_module(module), writer)
        write(output, config, params, step, **{name: getattr(arguments, name) for name in options})
    print(f"{output}: {_described(arguments, config)}, step {step:,}, {output.stat().st_size / 1e6:,.1f} MB")
    return 0


def _check_installed(format_: str, packages: Sequence[str]) -> None:
    if missing := [name for name in packages if find_spec(name) is None]:
        extra = "torch" if format_ == "pytorch" else format_
        raise UserError(
            f"--format {format_} needs {' and '.join(missing)}: pip install -e '.[{extra}]' in the project's "
            "folder (the CPU build of PyTorch is enough, see docs/interop.md)"
        )


def _export_detector(arguments: ExportArguments) -> int:
    """Write a detector, and say what was written; returns 0."""
    from maerec_jax.weights.detector_files import read_detector

    path, output = arguments.checkpoint, Path(arguments.output)
    if arguments.format not in _DETECTOR_WRITERS:
        raise UserError(f"{path} holds a text detector: --format must be {' or '.join(_DETECTOR_WRITERS)}")
    given = {"int8": arguments.int8, "average": arguments.average, "released": arguments.released}
    if wrong := [f"--{name}" for name, value in given.items() if value]:
        raise UserError(f"{path} holds a text detector: leave out {', '.join(wrong)}")
    _check_installed(arguments.format, _DETECTOR_NEEDED[arguments.format])
    check_outputs(arguments.output)
    module, writer = _DETECTOR_WRITERS[arguments.format]
    getattr(import_module(module), writer)(output, read_detector(Path(path)))
    print(f"{output}: text detector, {output.stat().st_size / 1e6:,.1f} MB")
    return 0


def _load(arguments: ExportArguments) -> "tuple[TrainConfig, Any, int]":
    """What to write: a checkpoint, or the mean of several under the config and step of the first."""
    import jax
    import numpy as np

    from maerec_jax.weights.finding import load_weights
    from maerec_jax.weights.shipped_files import SHIPPED

    config, params, step = load_weights(arguments.checkpoint)
    if not arguments.average:
        return config, params, step
    if config.model.merged(params)[0] != config.model:
        raise UserError("--average works for whole models only, not for LoRA adapters")
    everything = [params]
    for name in arguments.average:
        other, more, _ = load_weights(name)
        if other.model != config.model:
            checkpoint = arguments.checkpoint or SHIPPED[0]
            raise UserError(f"--average: {name} and {checkpoint} are different models; give checkpoints of one model")
        everything.append(more)
    return config, jax.tree.map(lambda *leaves: np.mean(leaves, axis=0, dtype=np.float32), *everything), step


def _described(arguments: ExportArguments, config: "TrainConfig") -> str:
    """A few words on what was written."""
    from maerec_jax.models.interface import RecogniserConfig

    model: Any = config.model
    reads = isinstance(model, RecogniserConfig)
    found = ["recogniser", f"{len(model.charset.characters)} characters"] if reads else ["autoencoder"]
    if arguments.format in ("onnx", "stablehlo"):
        return ", ".join([*found, "int8 weights" if arguments.int8 else "float32 weights"])
    if arguments.released and reads:
        found.append("for BGR pixels with the released constants")
    else:
        mean, std = ("/".join(f"{value:g}" for value in values) for values in (model.pixel_mean, model.pixel_std))
        found.append(f"for RGB pixels, mean {mean}, std {std}")
    if config.data.buckets and arguments.format == "pytorch":
        height, width = model.image_size
        found.append(f"for images of {height} x {width} only: PyTorch has no buckets")
    return ", ".join(found)


main = main_of(ExportArguments, export, "maerec_jax.export")

if __name__ == "__main__":
    sys.exit(main())
