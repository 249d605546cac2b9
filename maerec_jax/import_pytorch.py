"""Import PyTorch weights: ``python -m maerec_jax.import_pytorch maerec_s.pth runs/imported``."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from data_pipelines.command import run_command
from maerec_jax.interop.model_of_shapes import ImportOptions

if TYPE_CHECKING:
    from maerec_jax.interop.importing import Imported
    from maerec_jax.models.vit import ViTConfig

_SIZES = {(384, 12, 6): "S", (768, 12, 12): "B"}


@dataclass(frozen=True)
class ImportArguments:
    """Make a workdir of a file of PyTorch weights, for predict, evaluate and train (--init-from).

    The file is .safetensors, or .pth or .pt as torch.save writes it; PyTorch is not needed, and nothing that is in the
    file is run. It holds a masked autoencoder or a recogniser with the names of the original code, or another Vision
    Transformer (timm, DeiT) to start training from. What it is and how large is found out from its tensors.
    """

    file: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """The file."""
    out: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """The workdir to be made: a folder that is not there yet, or empty."""
    options: Annotated[ImportOptions, tyro.conf.arg(name="")] = field(default_factory=ImportOptions)


def import_pytorch(arguments: ImportArguments) -> int:
    """Read, write, and print what was found."""
    from dataclasses import replace

    from rich.console import Console
    from rich.progress import Progress

    from maerec_jax.interop.importing import import_weights
    from maerec_jax.weights.checkpoint import check_free, write_run

    check_free(arguments.out)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task(f"reading {Path(arguments.file).name}", total=None)
        found = import_weights(
            Path(arguments.file),
            arguments.options,
            lambda done, total: progress.update(bar, completed=done, total=total),
        )
        progress.update(bar, description=f"writing {arguments.out}", total=None)
        write_run(replace(found.config, workdir=arguments.out), found.params)
    _print(arguments, found)
    return 0


def _print(arguments: ImportArguments, found: "Imported") -> None:
    """What was found, what to do now, and what was done to it."""
    rows = _rows(arguments.options, found)
    rows.append(("written", arguments.out))
    if found.kind == "maerec":
        rows.append(("read with", f"python -m maerec_jax.predict --checkpoint {arguments.out} IMAGE ..."))
    rows.append(("train from", f"python -m maerec_jax.train --config ... --init-from {arguments.out}{_flags(found)}"))
    for name, value in rows:
        print(f"{name:<14}{value}")
    for note in found.notes:
        print(f"- {note}")


def _rows(options: ImportOptions, found: "Imported") -> list[tuple[str, str]]:
    from maerec_jax.interop.importing import count_params
    from maerec_jax.interop.model_of_shapes import heads_are_known
    from maerec_jax.models.maerec import MAERecConfig

    model: Any = found.config.model
    encoder: ViTConfig = model.encoder
    size = _SIZES.get((encoder.dim, encoder.depth, encoder.heads), "")
    names = {"mae": "masked autoencoder", "maerec": "recogniser", "encoder": "image encoder"}
    published = {"mae": f"MAE-{size}", "maerec": f"MAERec-{size}", "encoder": f"ViT-{size}"}
    heads = f"{encoder.heads} heads"
    if not (found.says_sizes or options.encoder_heads or heads_are_known(encoder)):
        heads += " (assumed: else --encoder-heads)"
    decoder_known = found.says_sizes or options.decoder_heads
    rows = [
        ("model", f"{published[found.kind]}, {names[found.kind]}" if size else names[found.kind]),
        ("encoder", f"{encoder.dim} wide, {encoder.depth} blocks, {heads}"),
    ]
    if encoder.lora_rank:
        rows.append(("LoRA", f"rank {encoder.lora_rank} on queries and values"))
    if isinstance(model, MAERecConfig):
        decoder = model.decoder
        heads = f"{decoder.heads} heads{'' if decoder_known or size else ' (assumed: else --decoder-heads)'}"
        rows.append(("decoder", f"{decoder.dim} wide, {decoder.layers} layers, {heads}"))
        rows.append(("characters", f"{len(model.charset.characters)}: {model.charset.characters!r}"))
    elif found.kind == "mae":
        heads = f"{model.decoder_heads} heads"
        if not decoder_known and model.decoder_dim != 512:
            heads += " (assumed: else --decoder-heads)"
        rows.append(("decoder", f"{model.decoder_dim} wide, {model.decoder_depth} blocks, {heads}"))
    rows += [
        ("images", f"{encoder.image_size[0]} x {encoder.image_size[1]}, patches {_by(encoder.patch_size)}"),
        ("positions", f"{encoder.n_patches} patches, numbered as {encoder.position_table!r} tables are"),
        ("channels", f"{found.color.upper()} in the file" + ("; flipped to RGB" if found.color == "bgr" else "")),
        ("pixels", f"R, G, B minus {_numbers(encoder.pixel_mean)}, divided by {_numbers(encoder.pixel_std)}"),
        ("parameters", f"{count_params(found.params):,}"),
    ]
    if found.others:
        rows.append(("not imported", ", ".join(found.others)))
    return rows


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)


def _flags(found: "Imported") -> str:
    """What a training config has to say to take the patch projection, too: the pixel scale, where it is another."""
    from maerec_jax.models.vit import ViTConfig

    encoder: ViTConfig = found.config.model.encoder
    usual = ViTConfig()
    if (encoder.pixel_mean, encoder.pixel_std) == (usual.pixel_mean, usual.pixel_std):
        return ""
    mean, std = _numbers(encoder.pixel_mean), _numbers(encoder.pixel_std)
    return f" --model.encoder.pixel-mean {mean} --model.encoder.pixel-std {std}"


if __name__ == "__main__":
    sys.exit(run_command(ImportArguments, import_pytorch, "python -m maerec_jax.import_pytorch"))
