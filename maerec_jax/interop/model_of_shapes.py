"""What model a state dict is of: its kind and sizes, from the names and shapes of its tensors."""

import math
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Literal

import numpy as np

from data_pipelines.charset import MAEREC_CHARACTERS, Charset, characters_of_file
from data_pipelines.errors import UserError
from maerec_jax.interop.import_options import ImportOptions, Numbers
from maerec_jax.models.mae import MAEConfig
from maerec_jax.models.maerec import MAERecConfig
from maerec_jax.models.position import sincos_2d
from maerec_jax.models.stem import SHRINKS
from maerec_jax.models.text_decoder import TextDecoderConfig
from maerec_jax.models.vit import ViTConfig

Shapes = Mapping[str, tuple[int, ...]]
Kind = Literal["mae", "maerec", "abinet", "aster", "nrtr", "sar", "satrn", "encoder", "detector"]

IMAGENET: tuple[Numbers, Numbers] = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
"""Mean and standard deviation of pixels with which the released recognisers and DeiT were trained."""
HALF: tuple[Numbers, Numbers] = ((127.5,) * 3, (127.5,) * 3)
"""Those of pre-training."""

# The matrices that map to the few values of an adapter, by both names that each has.
_ADAPTER = r"backbone\.(query_As\.\d+|vit\.blocks\.\d+\.attn\.qkv\.linear_a_q)\.weight"
HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
"""Attention heads of the published Vision Transformers, by their width."""
WORD = (32, 128)
"""Height and width of a word in pixels."""


def contradicting(options: ImportOptions) -> list[str]:
    """The flags that were given although they are for files that do not say what they hold."""
    allowed = {"encoder_only", "merge_lora", "entry", "ignore_code"}
    return given_beside(options, allowed | ({"image_size", "patch_size"} if options.encoder_only else set()))


def given_beside(options: ImportOptions, allowed: Collection[str]) -> list[str]:
    """The flags that were given, the allowed ones left out."""
    given = [f.name for f in fields(options) if getattr(options, f.name) != f.default]
    return [f"--{name.replace('_', '-')}" for name in given if name not in allowed]


def kind_of(shapes: Shapes) -> Kind:
    """What a state dict holds: an autoencoder, a recogniser and which, a Vision Transformer alone, or a text detector.

    Raises ``ValueError`` for anything else, as all functions here do where tensors are missing or of no such model.
    """
    if any(name.startswith("preprocessor.") for name in shapes):  # the rectifier
        return "aster"
    if any(re.match(r"encoder\.layer_stack\.\d+\.feed_forward\.", name) for name in shapes):
        return "satrn"
    if any(name.startswith("encoder.layer_stack.") for name in shapes):
        return "nrtr"
    if any(name.startswith("backbone.") for name in shapes) and "decoder.classifier.weight" in shapes:
        return "maerec"
    if any(name.startswith("decoder.vision_decoder.") for name in shapes):
        return "abinet"
    if any(name.startswith("encoder.rnn_encoder.") for name in shapes):
        return "sar"
    if "decoder_embed.weight" in shapes or "decoder_pred.weight" in shapes:
        return "mae"
    if any(name.endswith("patch_embed.proj.weight") for name in shapes):
        return "encoder"
    if any(name.startswith("det_head.") for name in shapes):
        return "detector"
    shown = ", ".join(sorted(shapes)[:5])
    raise ValueError(
        "neither an autoencoder, nor a recogniser of Union14M, nor a Vision Transformer, nor a DBNet++: "
        f"it has {len(shapes):,} tensors such as {shown or 'none'}"
    )


def _count(shapes: Shapes, pattern: str) -> int:
    """How many numbers a pattern finds where a name has one: those of blocks, from 0, a few missing ones counted."""
    found = {int(match[1]) for name in shapes if (match := re.match(pattern, name))}
    last = max(found, default=-1)
    return last + 1 if last < 2 * len(found) else len(found)  # a name with a large number makes no model large


def _shape(shapes: Shapes, name: str, dimensions: int) -> tuple[int, ...]:
    if name not in shapes:
        raise ValueError(f"{name} is missing, so the sizes of the model are unknown")
    if len(shapes[name]) != dimensions:
        raise ValueError(f"{name} has shape {shapes[name]} instead of {dimensions} dimensions")
    return shapes[name]


def _heads(width: int, heads: int, part: str) -> int:
    """The number of heads, which no shape tells."""
    if heads < 1 or width % heads:
        raise ValueError(f"{heads} attention heads do not divide the width {width}: give --{part}-heads")
    return heads


def _patches(shapes: Shapes, prefix: str) -> tuple[Literal["patches", "convolutions"], tuple[int, int]]:
    """What patches are projected from, and their height and width in pixels."""
    name = f"{prefix}patch_embed.proj.weight"
    _, channels, rows, columns = _shape(shapes, name, 4)
    if f"{prefix}stem.conv1.weight" in shapes:
        return "convolutions", (rows * SHRINKS[0], columns * SHRINKS[1])
    if channels != 3:
        raise ValueError(f"{name} is for images of {channels} channels, not 3")
    return "patches", (rows, columns)


def encoder_of(shapes: Shapes, options: ImportOptions) -> ViTConfig:
    """The sizes of a Vision Transformer alone, as it is in the file; its position table has a row for the class token.

    One that fits the images that it is imported for is taken to be made for these; others to be made for square ones.
    """
    stem, patch = _patches(shapes, "")
    patches = max(0, _shape(shapes, "pos_embed", 3)[1] - 1)
    wanted, patch_size = options.image_size or WORD, options.patch_size or ((4, 4) if stem == "patches" else patch)
    grid = options.source_grid
    if grid is None and patch == patch_size and patches * math.prod(patch) == math.prod(wanted):
        grid = (wanted[0] // patch[0], wanted[1] // patch[1])
    grid = grid or (math.isqrt(patches), math.isqrt(patches))
    if grid[0] * grid[1] != patches or not patches:
        raise ValueError(f"pos_embed is for {patches} patches, not {grid[0]} x {grid[1]}: give --source-grid")
    return _vit(shapes, "", options, (grid[0] * patch[0], grid[1] * patch[1]))


def _vit(shapes: Shapes, prefix: str, options: ImportOptions, image_size: tuple[int, int] | None) -> ViTConfig:
    (stem, patch), dim = _patches(shapes, prefix), shapes[f"{prefix}patch_embed.proj.weight"][0]
    hidden = _shape(shapes, f"{prefix}blocks.0.mlp.fc1.weight", 2)[0]
    if hidden % dim:
        raise ValueError(f"the hidden width {hidden} of {prefix}blocks.0.mlp is not a multiple of {dim}")
    if image_size is None:
        patches = _shape(shapes, f"{prefix}pos_embed", 3)[1] - 1
        high = math.isqrt(max(patches, 0) // 4)
        if 4 * high * high != patches or not high:
            raise ValueError(f"{prefix}pos_embed is for {patches} patches: give --image-size")
        image_size = (high * patch[0], 4 * high * patch[1])
    return ViTConfig(
        dim=dim,
        depth=_count(shapes, rf"{re.escape(prefix)}blocks\.(\d+)\."),
        heads=_heads(dim, options.encoder_heads or HEADS.get(dim, max(1, dim // 64)), "encoder"),
        mlp_ratio=hidden // dim,
        image_size=image_size,
        patch_size=patch,
        stem=stem,
        position_table="grid",
    )


def mae_of(shapes: Shapes, options: ImportOptions) -> MAEConfig:
    """The config of a masked autoencoder."""
    dim = _shape(shapes, "decoder_embed.weight", 2)[0]
    return MAEConfig(
        encoder=_vit(shapes, "", options, options.image_size),
        decoder_dim=dim,
        decoder_depth=_count(shapes, r"decoder_blocks\.(\d+)\."),
        decoder_heads=_heads(dim, options.decoder_heads or 16, "decoder"),
    )


def maerec_of(shapes: Shapes, options: ImportOptions) -> MAERecConfig:
    """The config of a recogniser; of one whose decoder is not wanted, any characters do."""
    classes, dim = _shape(shapes, "decoder.classifier.weight", 2)
    decoder = TextDecoderConfig(
        dim=dim,
        layers=_count(shapes, r"decoder\.layer_stack\.(\d+)\."),
        heads=_heads(dim, options.decoder_heads or 8, "decoder"),
        inner_dim=_shape(shapes, "decoder.layer_stack.0.mlp.w_1.weight", 2)[0],
        max_length=options.max_length or 48,
    )
    if options.encoder_only:
        charset = Charset("".join(chr(0x4E00 + i) for i in range(max(classes - 3, 1))))
    else:
        charset = _charset(classes, options.characters)
    adapters = [name for name in shapes if re.fullmatch(_ADAPTER, name)]
    encoder = _vit(shapes, "backbone.vit." if adapters else "backbone.", options, options.image_size)
    if adapters:
        encoder = replace(encoder, lora_rank=_shape(shapes, adapters[0], 2)[0])
    return MAERecConfig(encoder=encoder, decoder=decoder, charset=charset)


def _charset(classes: int, given: str) -> Charset:
    try:
        charset = Charset(characters_of_file(Path(given)) if os.path.isfile(given) else given or MAEREC_CHARACTERS)
    except ValueError as error:
        raise UserError(f"--characters: {error}") from error
    if classes != len(charset.characters) + 3:
        source, hint = ("--characters", "others") if given else ("the published charset", "its --characters")
        raise ValueError(
            f"decoder.classifier has {classes} classes, which are {classes - 3} characters with start/end, "
            f"padding and unknown, but {source} has {len(charset.characters)}: give {hint}"
        )
    return charset


def position_layout(table: np.ndarray, encoder: ViTConfig) -> Literal["square", "grid"]:
    """The layout of ``models.position.sincos_2d`` that a position table (1, 1 + N, dim) is nearer to."""
    if math.isqrt(encoder.n_patches) ** 2 != encoder.n_patches or encoder.dim % 4:
        return "grid"
    square, grid = (np.square(table - sincos_2d(encoder.grid, encoder.dim, name)).sum() for name in ("square", "grid"))
    return "square" if square <= grid else "grid"
