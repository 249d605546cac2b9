"""From a file of PyTorch weights to a run's config and parameters: everything that is in it is used, or told."""

import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.images.resizing import Interpolation
from maerec_jax.config import DataConfig, TrainConfig
from maerec_jax.interop.baselines_of_shapes import SAR_PIXELS, abinet_of, aster_of, nrtr_of, sar_of, satrn_of
from maerec_jax.interop.detector_import import ImportedDetector, import_detector
from maerec_jax.interop.encoder_weights import DROPPED, flip_channels, table_with_class_row
from maerec_jax.interop.foreign_files import WeightFile, open_weights
from maerec_jax.interop.import_options import ImportOptions, Numbers
from maerec_jax.interop.model_of_shapes import (
    HALF,
    IMAGENET,
    WORD,
    Kind,
    contradicting,
    encoder_of,
    kind_of,
    mae_of,
    maerec_of,
    position_layout,
)
from maerec_jax.interop.state_dict_checks import compare, compare_copies, drop_constants, note_dropped
from maerec_jax.models.interface import ModelConfig
from maerec_jax.models.mae import MAEConfig
from maerec_jax.models.other_images import fit_encoder
from maerec_jax.models.vit import ViTConfig
from maerec_jax.weights.files import BASE, detector_of, run_of_metadata
from maerec_jax.weights.state_dicts import name_table, params_from_state_dict, state_dict_shapes

_PUBLISHED: dict[Kind, tuple[Callable[..., Any], Interpolation, str, tuple[Numbers, Numbers]]] = {
    "mae": (mae_of, "bicubic", "rgb", HALF),
    "maerec": (maerec_of, "bilinear", "bgr", IMAGENET),
    "abinet": (abinet_of, "bilinear", "bgr", IMAGENET),
    "aster": (aster_of, "bilinear", "bgr", HALF),
    "nrtr": (nrtr_of, "bilinear", "bgr", IMAGENET),
    "sar": (sar_of, "bilinear", "bgr", SAR_PIXELS),
    "satrn": (satrn_of, "bilinear", "bgr", IMAGENET),
}
"""For each kind its config of shapes, and how images were prepared: resizing, channels, mean and std of pixels."""
_CONSTANTS = ("data_preprocessor.mean", "data_preprocessor.std")  # what mmengine may keep of the pixel scale


@dataclass(frozen=True)
class Imported:
    """What a file of weights was made into."""

    config: TrainConfig
    params: dict[str, Any]
    kind: str
    """What was found; for "encoder" the parameters are those of the encoder alone."""
    color: str
    """The order of channels in the file."""
    others: tuple[str, ...]
    """Entries of the file that were left where they are."""
    notes: list[str]
    """What was changed, dropped or assumed."""
    says_sizes: bool
    """Whether the file says itself how many attention heads there are."""


def import_weights(path: Path, options: ImportOptions) -> Imported | ImportedDetector:
    """Read a file of PyTorch weights; ``options`` are what it does not say.

    Raises ``UserError`` where it cannot be read, is of an unknown model, or lacks, has too much or has in another shape
    what that model has; all such tensors are named.
    """
    with open_weights(path, options.entry, options.ignore_code) as weights:
        try:
            if weights.about:
                return _our_own(weights, options)
            kind = kind_of(weights.shapes)
            if kind == "detector":
                return import_detector(weights, options)
            if kind == "encoder":
                return _encoder(weights, options)
            return _model(weights, kind, options)
        except ValueError as error:  # also of sizes that no model can have
            raise UserError(f"{path}: {error}") from error


def _model(weights: WeightFile, kind: Kind, options: ImportOptions) -> Imported:
    """A masked autoencoder or a recogniser, or the encoder of one."""
    config_of, interpolation, color, scale = _PUBLISHED[kind]
    model = config_of(weights.shapes, options)
    params, constants = _params(weights, model, _CONSTANTS)
    mean, std, color = _pixels(constants, options, color, scale)
    if model.encoder is None:
        model = replace(model, pixel_mean=mean, pixel_std=std)
    else:
        layout = position_layout(params["encoder"]["pos_embed"], model.encoder)
        model = replace(model, encoder=replace(model.encoder, position_table=layout, pixel_mean=mean, pixel_std=std))
    run = TrainConfig(model=model, data=DataConfig(interpolation=interpolation))
    return _finished(weights, kind, options, run, params, color)


def _our_own(weights: WeightFile, options: ImportOptions) -> Imported:
    """A file that says itself what it holds."""
    path = weights.path
    if detector_of(weights.about):
        raise UserError(f"{path}: holds a text detector that was imported already: give it as --detection.detector")
    if given := contradicting(options):
        raise UserError(f"{path}: the file already says what it holds: leave out {', '.join(given)}")
    run, _, about = run_of_metadata(weights.about, weights.shapes)
    if BASE in about:
        usage = "give it to predict or evaluate as --adapters, and their encoder as --checkpoint"
        raise UserError(f"{path} holds adapters: {usage}")
    params, _ = _params(weights, run.model)
    weights.notes.append("sizes, characters and pixel scale are those that the file names itself")
    return _finished(weights, run.model.kind, options, run, params, about.get("color", "rgb"))


def _params(
    weights: WeightFile, model: ModelConfig, aside: Collection[str] = ()
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The parameters of a model, and the tensors ``aside``, which may be there and are none of it."""
    wanted, constants = state_dict_shapes(model), name_table(model).constants
    compare(weights.shapes, wanted, {*constants, *aside})
    state = weights.read()
    beside = {name: state.pop(name) for name in aside if name in state}
    drop_constants(state, constants, weights.notes)
    compare_copies(state, wanted, weights.notes)
    return params_from_state_dict(state, model), beside


def _finished(
    weights: WeightFile, kind: str, options: ImportOptions, run: TrainConfig, params: dict[str, Any], color: str
) -> Imported:
    """A model whose tensors are in their places: channels, adapters, and what of it is wanted.

    An encoder that others start from has the pixel scale that they have.
    """
    model, notes = run.model, weights.notes
    if model.encoder is None and options.encoder_only:
        raise ValueError("it has no Vision Transformer, which --encoder-only is about")
    if color == "bgr":
        params = flip_channels(params, model)
    if model.encoder is not None and model.encoder.lora_rank and (options.merge_lora or options.encoder_only):
        notes.append(f"LoRA: adapters of rank {model.encoder.lora_rank} are merged into the encoder's weights")
        model, params = model.merged(params)
    if options.encoder_only:
        note_dropped(notes, (name for name in weights.shapes if "decoder" in name or name == "mask_token"))
        # A stem keeps its patches, and cannot take another mean of the pixels.
        usual = ViTConfig() if model.encoder.stem == "patches" else model.encoder
        encoder = replace(
            model.encoder,
            image_size=options.image_size or WORD,
            patch_size=options.patch_size or usual.patch_size,
            pixel_mean=usual.pixel_mean,
            pixel_std=usual.pixel_std,
        )
        fitted, changes = fit_encoder(params["encoder"], model.encoder, encoder)
        encoder = replace(encoder, position_table=position_layout(fitted["pos_embed"], encoder))
        # Autoencoders are what encoders come from; the one named here has no decoder yet.
        run = TrainConfig(model=MAEConfig(encoder=encoder), data=DataConfig(interpolation="bicubic"))
        return Imported(run, {"encoder": fitted}, "encoder", color, weights.others, [*notes, *changes], False)
    return Imported(replace(run, model=model), params, kind, color, weights.others, notes, bool(weights.about))


def _encoder(weights: WeightFile, options: ImportOptions) -> Imported:
    """A Vision Transformer alone."""
    state, notes = weights.read(), weights.notes
    dropped = [name for name in state if re.fullmatch(DROPPED, name)]
    note_dropped(notes, dropped)
    tensors = {name: value for name, value in state.items() if name not in dropped}
    if "pos_embed" in tensors and tensors["pos_embed"].ndim == 3:
        patches = math.prod(options.source_grid or (0,))
        tensors["pos_embed"], changed = table_with_class_row(tensors["pos_embed"], "dist_token" in dropped, patches)
        notes += [f"position table: {changed}"] if changed else []
    shapes = {name: value.shape for name, value in tensors.items()}
    source = encoder_of(shapes, options)
    # As part of the smallest model that has such an encoder, whose other tensors are made up.
    smallest = MAEConfig(encoder=source, decoder_dim=4, decoder_depth=0, decoder_heads=1)
    everything = state_dict_shapes(smallest)
    wanted = {name: found for name, found in everything.items() if found[0].startswith("encoder/")}
    compare(shapes, wanted)
    made_up = {name: np.zeros(shape, np.float32) for name, (_, shape) in everything.items()}
    params = params_from_state_dict(made_up | tensors, smallest)
    ours = source.image_size == (options.image_size or WORD)
    mean, std, color = _pixels({}, options, "rgb", HALF if ours else IMAGENET)
    run = TrainConfig(model=replace(smallest, encoder=replace(source, pixel_mean=mean, pixel_std=std)))
    return _finished(weights, "encoder", replace(options, encoder_only=True), run, params, color)


def _pixels(
    constants: Mapping[str, np.ndarray], options: ImportOptions, color: str, scale: tuple[Numbers, Numbers]
) -> tuple[Numbers, Numbers, str]:
    """Mean and standard deviation of R, G and B, and the order of channels in the file."""
    color = color if options.color == "auto" else options.color
    given = (options.pixel_mean, options.pixel_std)
    found: list[Numbers] = []
    for wish, name, usual in zip(given, _CONSTANTS, scale, strict=True):
        kept = constants.get(name)
        first, second, third = wish or (usual if kept is None or kept.size != 3 else kept.ravel().round(4).tolist())
        found.append((third, second, first) if color == "bgr" else (first, second, third))
    return found[0], found[1], color
