"""Import PyTorch weights: ``python -m maerec_jax.import_pytorch maerec_s.pth runs/imported``."""

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro
from rich.console import Console

from data_pipelines.command import main_of
from data_pipelines.errors import UserError
from maerec_jax.interop.detector_import import ImportedDetector
from maerec_jax.interop.importing import Imported, import_weights
from maerec_jax.interop.model_of_shapes import HEADS, ImportOptions
from maerec_jax.models.interface import RecogniserConfig
from maerec_jax.models.vit import ViTConfig
from maerec_jax.weights.checkpoint import check_free, write_run
from maerec_jax.weights.detector_files import write_detector
from maerec_jax.weights.files import ENDING

_KINDS = {"mae": ("masked autoencoder", "MAE"), "maerec": ("recogniser", "MAERec"), "encoder": ("image encoder", "ViT")}
_KINDS |= {name.lower(): (f"{name}, recogniser", "") for name in ("ABINet", "ASTER", "NRTR", "SAR", "SATRN")}
_SIZES = {(384, 12, 6): "S", (768, 12, 12): "B"}


@dataclass(frozen=True)
class ImportArguments:
    """Convert PyTorch weights to a workdir for predict, evaluate and train (--init-from), detectors to one file.

    Takes .safetensors, .pth and .pt files. PyTorch is not needed, and no code in the file is run.

    Models: masked autoencoders and recognisers of the original code; ViTs (timm, DeiT) to train from.

    Detectors: DBNet++ with the ResNet-50 of oCLIP, as MMOCR publishes it (docs/scenes.md).

    Model and sizes are detected from the tensors; the options below override or add to that.
    """

    file: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """File of weights."""
    out: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Workdir to make: a new or empty folder. For a detector: a new file whose name ends in .safetensors."""
    options: Annotated[ImportOptions, tyro.conf.arg(name="")] = field(default_factory=ImportOptions)


def import_pytorch(arguments: ImportArguments) -> int:
    """Read, write, and print what was found, what to do now, and what was done to it."""
    check_free(arguments.out)
    one_file = arguments.out.endswith(ENDING)
    with Console(stderr=True).status(f"reading {Path(arguments.file).name}") as status:
        found = import_weights(Path(arguments.file), arguments.options)
        status.update(f"writing {arguments.out}")
        if isinstance(found, ImportedDetector):
            if not one_file:
                raise UserError(f"{arguments.file} is a text detector, which becomes a file: end OUT in {ENDING}")
            write_detector(Path(arguments.out), found.tensors)
            told = _told_of_detector(arguments.out, found)
        else:
            if one_file:
                raise UserError(f"{arguments.file} is no detector, so OUT is a folder: it cannot end in {ENDING}")
            write_run(replace(found.config, workdir=arguments.out), found.params)
            told = _told(arguments.options, found, arguments.out)
    for name, value in told.items():
        print(f"{name:<14}{value}")
    for note in found.notes:
        print(f"- {note}")
    return 0


def _told_of_detector(out: str, found: ImportedDetector) -> dict[str, str]:
    """What was found of a detector, and what to do with it, by what a line begins with."""
    told = {"model": "DBNet++, text detector", "channels": "RGB", "parameters": f"{found.parameters:,}"}
    told |= {"not imported": ", ".join(found.others)} if found.others else {}
    read = f"python -m maerec_jax.predict --detect --detection.detector {out} --crops app IMAGE ..."
    return told | {"written": out, "read with": read}


def _told(options: ImportOptions, found: Imported, out: str) -> dict[str, str]:
    """What was found, and what to do with it, by what a line begins with."""

    def heads(count: int, known: Any, part: str) -> str:
        return f"{count} heads" + ("" if known or found.says_sizes else f" (assumed; change with --{part}-heads)")

    model: Any = found.config.model
    encoder, (what, published) = model.encoder, _KINDS.get(found.kind, (f"model of kind {found.kind!r}", ""))
    size = "" if encoder is None else _SIZES.get((encoder.dim, encoder.depth, encoder.heads), "")
    told = {"model": f"{published}-{size}, {what}" if size else what}
    if encoder is not None:
        own = heads(encoder.heads, options.encoder_heads or HEADS.get(encoder.dim) == encoder.heads, "encoder")
        told["encoder"] = f"{encoder.dim} wide, {encoder.depth} blocks, {own}"
        if encoder.lora_rank:
            told["LoRA"] = f"rank {encoder.lora_rank} on queries and values"
        if found.kind == "maerec":
            dec = model.decoder
            own = heads(dec.heads, options.decoder_heads or size, "decoder")
            told["decoder"] = f"{dec.dim} wide, {dec.layers} layers, {own}"
        elif found.kind == "mae":
            own = heads(model.decoder_heads, options.decoder_heads or model.decoder_dim == 512, "decoder")
            told["decoder"] = f"{model.decoder_dim} wide, {model.decoder_depth} blocks, {own}"
        patches, table = "{} x {}".format(*encoder.patch_size), f"position table {encoder.position_table!r}"
        stem = "" if encoder.stem == "patches" else f" after {encoder.stem}"
        told["patches"] = f"{patches} pixels{stem}, {encoder.n_patches} of them, {table}"
    if isinstance(model, RecogniserConfig) and found.kind != "encoder":
        told["characters"] = f"{len(model.charset.characters)}: {model.charset.characters!r}"
    mean, std = (" ".join(f"{value:g}" for value in values) for values in (model.pixel_mean, model.pixel_std))
    told["images"] = "{} x {}".format(*model.image_size)
    told["channels"] = f"{found.color.upper()} in the file" + ("; flipped to RGB" if found.color == "bgr" else "")
    told["pixels"] = f"R, G, B minus {mean}, divided by {std}"
    told["parameters"] = f"{sum(leaf.size for leaf in jax.tree.leaves(found.params)):,}"
    if found.others:
        told["not imported"] = ", ".join(found.others)
    told["written"] = out
    if isinstance(model, RecogniserConfig):
        told["read with"] = f"python -m maerec_jax.predict --checkpoint {out} IMAGE ..."
    told["train from"] = f"python -m maerec_jax.train --config ... --init-from {out}"
    # Training takes the patch projection, too, where it has the same pixel scale.
    usual = ViTConfig()
    if encoder is not None and encoder.stem != usual.stem:
        told["train from"] += f" --model.encoder.stem {encoder.stem}"
    if encoder is not None and (model.pixel_mean, model.pixel_std) != (usual.pixel_mean, usual.pixel_std):
        told["train from"] += f" --model.encoder.pixel-mean {mean} --model.encoder.pixel-std {std}"
    return told


main = main_of(ImportArguments, import_pytorch, "maerec_jax.import_pytorch")

if __name__ == "__main__":
    sys.exit(main())
