"""From a file of PyTorch weights to a run's config and parameters: everything that is in it is used, or told."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from pydantic import TypeAdapter

from data_pipelines.errors import UserError
from data_pipelines.images.resizing import Interpolation
from maerec_jax.config import DataConfig, TrainConfig
from maerec_jax.interop.encoder_weights import (
    flip_channels,
    for_words,
    is_dropped,
    params_of_encoder,
    table_with_class_row,
)
from maerec_jax.interop.foreign_files import WeightFile, open_weights
from maerec_jax.interop.model_of_shapes import (
    HALF,
    IMAGENET,
    WORD,
    ImportOptions,
    Kind,
    Numbers,
    contradicting,
    encoder_of,
    kind_of,
    mae_of,
    maerec_of,
    position_layout,
)
from maerec_jax.interop.state_dict_checks import compare, compare_copies, drop_constants, grouped, note_dropped
from maerec_jax.models.interface import ModelConfig
from maerec_jax.models.lora import merge_lora
from maerec_jax.models.mae import MAEConfig
from maerec_jax.models.maerec import MAERecConfig
from maerec_jax.models.other_images import fit_encoder
from maerec_jax.models.vit import ViTConfig
from maerec_jax.weights.files import BASE, compare_sizes
from maerec_jax.weights.state_dicts import params_from_state_dict, state_dict_shapes

_CONSTANTS = ("data_preprocessor.mean", "data_preprocessor.std")  # what mmengine may keep of the pixel scale
_ADAPTER = TypeAdapter(TrainConfig)
Progress = Callable[[int, int], None]
"""Is told how many numbers have been read, and of how many."""


@dataclass(frozen=True)
class Imported:
    """What a file of weights was made into."""

    config: TrainConfig
    params: dict[str, Any]
    kind: Kind
    """What was found; for "encoder" the parameters are those of the encoder alone."""
    color: str
    """The order of channels in the file."""
    others: tuple[str, ...]
    """Entries of the file that were left where they are."""
    notes: list[str] = field(default_factory=list)
    """What was changed, dropped or assumed."""
    says_sizes: bool = False
    """Whether the file says itself how many attention heads there are."""


def import_weights(path: Path, options: ImportOptions, progress: Progress = lambda *_: None) -> Imported:
    """Read a file of PyTorch weights.

    Args:
      path: the file.
      options: what it does not say.
      progress: is told how far the reading is.

    Raises:
      UserError: where the file cannot be read, is of an unknown model, or lacks, has too much or has in another shape
        what that model has; all such tensors are named.
    """
    with open_weights(path, options.entry, options.ignore_code) as weights:
        kind = kind_of(path, weights.shapes)
        if weights.no_tensors:
            raise UserError(f"{path}: no tensors: {grouped(weights.no_tensors)}")
        total = sum(int(np.prod(shape)) for shape in weights.shapes.values())
        read = 0

        def count(more: int) -> None:
            nonlocal read
            read += more
            progress(read, total)

        try:
            if weights.about:
                return _our_own(weights, options, count)
            if kind == "encoder":
                return _encoder(weights, options, count)
            return _model(weights, kind, options, count)
        except ValueError as error:  # of sizes that no model can have
            raise UserError(f"{path}: {error}") from error


def _model(weights: WeightFile, kind: Kind, options: ImportOptions, count: Callable[[int], None]) -> Imported:
    """A masked autoencoder or a recogniser, or the encoder of one."""
    path, notes = weights.path, weights.notes
    make = mae_of if kind == "mae" else maerec_of
    model: MAEConfig | MAERecConfig = make(path, weights.shapes, options)
    compare(path, weights.shapes, state_dict_shapes(model), {*_constants_of(model), *_CONSTANTS})
    state = _floats(weights, count)
    mean, std, color = _pixels(
        state, options, "bgr" if kind == "maerec" else "rgb", IMAGENET if kind == "maerec" else HALF
    )
    drop_constants(path, state, model, notes)
    compare_copies(state, state_dict_shapes(model), notes)
    params: dict[str, Any] = params_from_state_dict(state, model)
    layout = position_layout(params["encoder"]["pos_embed"], model.encoder)
    model = replace(model, encoder=replace(model.encoder, position_table=layout, pixel_mean=mean, pixel_std=std))
    interpolation: Interpolation = "bicubic" if kind == "mae" else "bilinear"
    run = TrainConfig(model=model, data=DataConfig(interpolation=interpolation))
    return _finished(weights, options, run, params, color)


def _constants_of(model: ModelConfig) -> set[str]:
    """What PyTorch's state dict of a model holds that can be computed."""
    names = model.names()
    return set() if names is None else set(names.constants)


def _finished(
    weights: WeightFile, options: ImportOptions, run: TrainConfig, params: dict[str, Any], color: str
) -> Imported:
    """A model whose tensors are in their places: channels, adapters, and what of it is wanted."""
    model, notes = run.model, weights.notes
    if color == "bgr":
        params = flip_channels(params, model.encoder)
    if model.encoder.lora_rank and (options.merge_lora or options.encoder_only):
        notes.append(f"LoRA: adapters of rank {model.encoder.lora_rank} are merged into the encoder's weights")
        model, params = merge_lora(model, params)
    if options.encoder_only:
        note_dropped(notes, (name for name in weights.shapes if "decoder" in name or name == "mask_token"))
        return _encoder_alone(weights, options, params["encoder"], model.encoder, color)
    kind: Kind = "mae" if isinstance(model, MAEConfig) else "maerec"
    return Imported(replace(run, model=model), params, kind, color, weights.others, notes, bool(weights.about))


def _our_own(weights: WeightFile, options: ImportOptions, count: Callable[[int], None]) -> Imported:
    """A file that says itself what it holds."""
    path = weights.path
    if given := contradicting(options):
        raise UserError(f"{path}: the file says itself what it holds: leave out {', '.join(given)}")
    try:
        about = json.loads(weights.about)
        if BASE in about:
            usage = "give it to predict or evaluate as --adapters, and their encoder as --checkpoint"
            raise UserError(f"{path} holds adapters: {usage}")
        color = about.get("color", "rgb")
        compare_sizes(about["model"], weights.shapes)
        run = _ADAPTER.validate_python({name: about[name] for name in ("model", "data", "dtype") if name in about})
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        lines = (f"{type(error).__name__}: {error}" if isinstance(error, LookupError) else str(error)).splitlines()
        raise UserError(f"{path}: it cannot be what it says that it holds ({'; '.join(lines[:3])})") from error
    model = run.model
    if not isinstance(model, MAEConfig | MAERecConfig):
        raise UserError(f"{path}: a model of kind {model.kind!r} has no PyTorch names")
    compare(path, weights.shapes, state_dict_shapes(model), _constants_of(model))
    state = _floats(weights, count)
    drop_constants(path, state, model, weights.notes)
    params = params_from_state_dict(state, model)
    weights.notes.append("sizes, characters and pixel scale are those that the file names itself")
    return _finished(weights, options, run, params, color)


def _encoder(weights: WeightFile, options: ImportOptions, count: Callable[[int], None]) -> Imported:
    """A Vision Transformer alone."""
    path, shapes = weights.path, dict(weights.shapes)
    bare = "backbone." if all(name.startswith("backbone.") for name in shapes) else ""
    shapes = {name.removeprefix(bare): shape for name, shape in shapes.items()}
    dropped = [name for name in shapes if is_dropped(name)]
    note_dropped(weights.notes, dropped)
    if len(shapes.get("pos_embed", ())) == 3:
        grid = options.source_grid
        rows = np.zeros((*shapes["pos_embed"][:2], 1), np.float32)
        table, _ = table_with_class_row(rows, "dist_token" in shapes, grid[0] * grid[1] if grid else 0)
        shapes["pos_embed"] = (1, table.shape[1], shapes["pos_embed"][2])
    source = encoder_of(path, shapes, options)
    smallest = MAEConfig(encoder=source, decoder_dim=4, decoder_depth=0, decoder_heads=1)
    wanted = {key: found for key, found in state_dict_shapes(smallest).items() if found[0].startswith("encoder/")}
    compare(path, shapes, wanted, set(dropped))
    state = {name.removeprefix(bare): value for name, value in _floats(weights, count).items()}
    state["pos_embed"], changed = table_with_class_row(
        state["pos_embed"], "dist_token" in state, source.n_patches if options.source_grid else 0
    )
    if changed:
        weights.notes.append(f"position table: {changed}")
    ours = source.image_size == (options.image_size or WORD)
    mean, std, color = _pixels(state, options, "rgb", HALF if ours else IMAGENET)
    params = params_of_encoder({name: value for name, value in state.items() if not is_dropped(name)}, source)
    source = replace(source, pixel_mean=mean, pixel_std=std)
    if color == "bgr":
        params = flip_channels({"encoder": params}, source)["encoder"]
    return _encoder_alone(weights, options, params, source, color)


def _encoder_alone(
    weights: WeightFile, options: ImportOptions, params: Mapping[str, Any], source: ViTConfig, color: str
) -> Imported:
    """The run of an encoder that others start from, with the pixel scale that they have."""
    wanted = for_words(source, options.image_size or WORD, options.patch_size or (4, 4))
    fitted, changes = fit_encoder(params, source, wanted)
    wanted = replace(wanted, position_table=position_layout(fitted["pos_embed"], wanted))
    # Autoencoders are what encoders come from; the one named here has no decoder yet.
    run = TrainConfig(model=MAEConfig(encoder=wanted), data=DataConfig(interpolation="bicubic"))
    return Imported(run, {"encoder": fitted}, "encoder", color, weights.others, [*weights.notes, *changes])


def _floats(weights: WeightFile, count: Callable[[int], None]) -> dict[str, np.ndarray]:
    """All tensors, float32. Raises ``UserError`` for others, naming all of them."""
    state = weights.read(count)
    others = [f"{name} ({value.dtype})" for name, value in state.items() if value.dtype != np.float32]
    if others:
        raise UserError(f"{weights.path}: no floating-point numbers: {', '.join(others)}")
    if broken := [name for name, value in state.items() if not np.isfinite(value).all()]:
        weights.notes.append(f"warning: not all numbers are finite in {grouped(broken)}")
    return state


def _pixels(
    state: dict[str, np.ndarray], options: ImportOptions, color: str, scale: tuple[Numbers, Numbers]
) -> tuple[Numbers, Numbers, str]:
    """Mean and standard deviation of R, G and B, and the order of channels in the file. Takes the constants out."""
    color = color if options.color == "auto" else options.color
    given = (options.pixel_mean, options.pixel_std)
    found: list[Numbers] = []
    for wish, name, usual in zip(given, _CONSTANTS, scale, strict=True):
        kept = state.pop(name, None)
        first, second, third = wish or (usual if kept is None or kept.size != 3 else kept.ravel().round(4).tolist())
        found.append((third, second, first) if color == "bgr" else (first, second, third))
    return found[0], found[1], color


def count_params(params: Any) -> int:
    """The number of numbers in a parameter tree."""
    return sum(int(np.size(x)) for x in jax.tree.leaves(params))
