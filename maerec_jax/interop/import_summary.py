"""What an import tells: what was found, and what to do with it now."""

from typing import Any

import jax

from maerec_jax.interop.detector_import import ImportedDetector
from maerec_jax.interop.import_options import ImportOptions
from maerec_jax.interop.importing import Imported
from maerec_jax.interop.model_of_shapes import HEADS
from maerec_jax.models.interface import RecogniserConfig
from maerec_jax.models.vit import ViTConfig

_KINDS = {"mae": ("masked autoencoder", "MAE"), "maerec": ("recogniser", "MAERec"), "encoder": ("image encoder", "ViT")}
_KINDS |= {name.lower(): (f"{name}, recogniser", "") for name in ("ABINet", "ASTER", "NRTR", "SAR", "SATRN")}
_SIZES = {(384, 12, 6): "S", (768, 12, 12): "B"}


def told_of_detector(out: str, found: ImportedDetector) -> dict[str, str]:
    """What was found of a detector, and what to do with it, by what a line begins with."""
    told = {"model": "DBNet++, text detector", "channels": "RGB", "parameters": f"{found.parameters:,}"}
    told |= {"not imported": ", ".join(found.others)} if found.others else {}
    read = f"python -m maerec_jax.predict --detect --detection.detector {out} --crops app IMAGE ..."
    return told | {"written": out, "read with": read}


def told_of(options: ImportOptions, found: Imported, out: str) -> dict[str, str]:
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
