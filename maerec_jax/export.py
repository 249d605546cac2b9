"""Write weights for other programs: ``python -m maerec_jax.export --checkpoint DIR --format onnx --output FILE``."""

import sys
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from data_pipelines.command import check_outputs, main_of

if TYPE_CHECKING:
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


@dataclass(frozen=True)
class ExportArguments:
    """Write the weights of a run to one file that other programs take.

    pytorch: a state dict with the reference's keys and shapes, of a masked autoencoder or a recogniser; for the
    reference's code with --released, and else for maerec_jax/interop/pytorch_twin.py.

    safetensors: the same tensors, and what else reading needs: --checkpoint of all commands takes it.

    onnx: a whole reader, from uint8 images to character ids and probabilities; scripts/read_exported.py reads with it.

    stablehlo: the same for JAX on CPU, GPU and TPU, without this package; scripts/read_exported.py reads with it.

    docs/interop.md says more.
    """

    format: Format
    """What to write."""
    output: str
    """The file: it ends in .pth or .pt, .safetensors, .onnx, or .stablehlo."""
    checkpoint: str = ""
    """Workdir of a run (its best checkpoint is taken), one of its checkpoints, an exported .safetensors file, or
    maerec_tiny or maerec_tiny_rendered, which come with the package (docs/weights.md); by default maerec_tiny."""
    average: tuple[str, ...] = ()
    """Further checkpoints of the same model: the mean of the weights of all is written. Where one run began with what
    the other ended with it often reads better than each (model soups, arXiv 2203.05482)."""
    int8: bool = False
    """onnx, stablehlo: weights of 8 bits. A quarter of the size; docs/interop.md tells what it costs."""
    released: bool = False
    """pytorch: write what the reference's code takes unchanged: a recogniser whose patch embedding takes BGR pixels and
    the constants of the released recognisers, or an autoencoder as the "model" of a dict."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """bfloat16 is for stablehlo: the computation's, faster on GPUs and TPUs. float16 is for safetensors: the tensors',
    half the size."""

    def __post_init__(self) -> None:
        endings = (".pth", ".pt") if self.format == "pytorch" else (f".{self.format}",)
        if not self.output.endswith(endings):
            raise ValueError(f"the output of the format {self.format} ends in {' or '.join(endings)}: {self.output}")
        for name in ("int8", "released"):
            formats = [form for form, (_, _, options) in _WRITERS.items() if name in options]
            if getattr(self, name) and self.format not in formats:
                raise ValueError(f"--{name} is for the format {' or '.join(formats)}, not for {self.format}")
        if self.format != {"bfloat16": "stablehlo", "float16": "safetensors"}.get(self.dtype, self.format):
            raise ValueError(
                "--dtype bfloat16 is for the format stablehlo, float16 for safetensors: "
                f"there is no {self.dtype} for {self.format}"
            )


def export(arguments: ExportArguments) -> int:
    """Load, write, and say what was written; returns 0."""
    from rich.console import Console

    from data_pipelines.errors import UserError
    from maerec_jax.models.interface import RecogniserConfig

    if missing := [name for name in _NEEDED.get(arguments.format, ()) if find_spec(name) is None]:
        extra = "torch" if arguments.format == "pytorch" else arguments.format
        raise UserError(
            f"the format {arguments.format} needs {' and '.join(missing)}: pip install 'maerec-jax[{extra}]' "
            "(docs/interop.md: the CPU build of PyTorch will do)"
        )
    check_outputs(arguments.output)
    console, output = Console(stderr=True), Path(arguments.output)
    with console.status("loading the checkpoint"):
        config, params, step = _load(arguments)
    if arguments.format in ("onnx", "stablehlo") and not isinstance(config.model, RecogniserConfig):
        raise UserError(f"{arguments.checkpoint} holds an autoencoder, which cannot read: fine-tune it first")
    with console.status(f"writing {output}"):
        module, writer, options = _WRITERS[arguments.format]
        write = getattr(import_module(module), writer)
        write(output, config, params, step, **{name: getattr(arguments, name) for name in options})
    print(f"{output}: {_described(arguments, config)}, step {step:,}, {output.stat().st_size / 1e6:,.1f} MB")
    return 0


def _load(arguments: ExportArguments) -> "tuple[TrainConfig, Any, int]":
    """What to write: a checkpoint, or the mean of several under the config and step of the first."""
    import jax
    import numpy as np

    from data_pipelines.errors import UserError
    from maerec_jax.weights.finding import SHIPPED, load_weights

    config, params, step = load_weights(arguments.checkpoint)
    if not arguments.average:
        return config, params, step
    if config.model.merged(params)[0] != config.model:
        raise UserError("adapters cannot be averaged: only their products with each other could, which are no adapters")
    everything = [params]
    for name in arguments.average:
        other, more, _ = load_weights(name)
        if other.model != config.model:
            checkpoint = arguments.checkpoint or SHIPPED[0]
            raise UserError(f"{name} and {checkpoint} are not of the same model: average others")
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
