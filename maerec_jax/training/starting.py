"""Starting a run from the parameters of another: which are taken, and what is said of the others."""

import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from data_pipelines.charset import Charset
from data_pipelines.errors import UserError
from maerec_jax.config import TrainConfig
from maerec_jax.models.interface import ModelConfig, RecogniserConfig
from maerec_jax.models.lora import is_adapter
from maerec_jax.models.other_images import fit_encoder
from maerec_jax.models.vit import ViTConfig
from maerec_jax.weights.finding import load_weights

LoadedRun = tuple[TrainConfig, Any, int]
"""What ``load_weights`` returns: a run's config, its parameters and their step."""

_ADAPTERS = (
    'start from the whole model: Recognizer.load(ENCODER, adapters=FILE).save("whole.safetensors") in Python writes it '
    "(docs/lora.md)"
)
_BLOCK_SIZES = ("dim", "heads", "mlp_ratio")


def load_start(config: TrainConfig) -> LoadedRun | None:
    """Read what a new run starts from: ``init_from``, with the encoder of ``init_encoder_from``; None for neither.

    Raises:
      UserError: where either cannot be read, or the two encoders are not of the same kind; and where the run would keep
        an encoder of random numbers as it is.
    """
    if not config.init_from:
        if _rank(config.model):
            raise UserError(
                "model.encoder.lora_rank trains adapters of a frozen encoder: "
                "name the run that the encoder comes from with --init-from"
            )
        if config.init_encoder_from:
            raise UserError(
                f"--init-encoder-from {config.init_encoder_from} replaces the encoder of --init-from, which is "
                "missing; to start from an encoder alone, give it as --init-from"
            )
        return None
    source, params, step = load_weights(config.init_from, _ADAPTERS)
    if config.init_encoder_from:
        other, others, _ = load_weights(config.init_encoder_from, _ADAPTERS)
        one, two = source.model.encoder, other.model.encoder
        if one is None or two is None:
            raise UserError("--init-encoder-from is for models with a Vision Transformer")
        names = (field.name for field in fields(one) if not field.name.startswith("remat"))
        differing = [name for name in names if getattr(one, name) != getattr(two, name)]
        if differing:
            told = ", ".join(f"{name} {getattr(two, name)} instead of {getattr(one, name)}" for name in differing)
            raise UserError(
                f"the encoder of --init-encoder-from {config.init_encoder_from} cannot replace that of "
                f"--init-from {config.init_from}: {told}"
            )
        params = {**params, "encoder": others["encoder"]}
    return source, params, step


def loaded_params(config: TrainConfig, loaded_run: LoadedRun, params: Any, message: Callable[[str], None]) -> Any:
    """The parameters of ``init_from`` as far as they fit, in the place of fresh ones.

    An encoder that is trained is brought to the new run's images and number of blocks (``fitted``). Adapters are taken
    where the new run has such, too, and merged into the weights beside them otherwise. What a recogniser knows of
    characters is taken to the classes that these have in the new run (``with_characters``).

    Takes the new run, the one that it starts from, fresh parameters, and what prints a line. Raises ``UserError`` where
    nothing fits, or not all of an encoder that is not trained.
    """
    source, loaded, step = loaded_run
    rank = _rank(config.model)
    merges = _rank(source.model) not in (0, rank)
    if merges:
        loaded = source.model.merged(loaded)[1]
    refused = misfits(source.model, config.model)
    changes: list[str] = []
    if source.model.encoder is not None and config.model.encoder is not None and not rank:
        encoder, changes, fits = fitted(loaded["encoder"], source.model.encoder, config.model.encoder)
        loaded = {**loaded, "encoder": encoder}
        if fits:
            refused = {start: reason for start, reason in refused.items() if not start.startswith("encoder/")}
    characters = ""
    if isinstance(source.model, RecogniserConfig) and isinstance(config.model, RecogniserConfig):
        tables = source.model.character_tables
        loaded, new = with_characters(loaded, tables, source.model.charset, config.model.charset)
        named = ", ".join(f"{c!r} (starts as {like!r})" if like else repr(c) for c, like in new.items())
        if new:
            characters = f"  {len(new)} of {len(config.model.charset.characters)} characters are new: {named}"
    params, missing, unused = merge_params(params, loaded, refused)
    total = len(jax.tree.leaves(params))
    if len(missing) == total:
        raise UserError(f"no parameter of {config.init_from} fits: compare its model with this one's")
    if rank:
        for path, reason in missing.items():
            if _part(path) == "encoder":
                raise UserError(
                    "model.encoder.lora_rank needs an encoder that fits completely, but that of "
                    f"{config.init_encoder_from or config.init_from} does not fit: {path} ({reason})"
                )
    encoder_of = f", with the encoder of {config.init_encoder_from}" if config.init_encoder_from else ""
    message(
        f"from {config.init_from} ({source.model.kind}, step {step}){encoder_of}: "
        f"{total - len(missing)} of {total} parameters loaded, {len(missing)} newly initialised, "
        f"{len(unused)} of the source not used"
        f"{'; its adapters are merged into its weights' if merges else ''}"
    )
    for change in changes:
        message(f"  {change}")
    if characters and set(tables) <= set(flatten_dict(params, sep="/")) - set(missing):
        message(characters)
    # A part that is new altogether, such as the text decoder after pre-training, is told in one line.
    absent = {_part(path) for path in missing} - {_part(path) for path in flatten_dict(loaded, sep="/")}
    for part in sorted(absent):
        message(f"  fresh: {part} ({sum(_part(path) == part for path in missing)} parameters: not there)")
    for path, reason in missing.items():
        if _part(path) not in absent:
            message(f"  fresh: {path} ({reason})")
    return params


def fitted(params: Mapping[str, Any], source: ViTConfig, wanted: ViTConfig) -> tuple[Any, list[str], bool]:
    """A trained encoder for the number of blocks of another one, and for its images.

    New blocks are spread evenly among those that there are. Each is a copy of the one before it whose last layers,
    ``proj`` and ``fc2``, are zero: it adds nothing to the residual stream, so the encoder computes what it did, and
    both layers have gradients from the first step on (block expansion, arXiv 2401.02415, section 3.1).

    Returns:
      The parameters; a line for each thing that was changed; and whether they are for the wanted images: not where the
      width or the stem is another, or a position table does not say where patches lie ("square").
    """
    depth, changes = source.depth, []
    if wanted.depth > depth and all(getattr(source, name) == getattr(wanted, name) for name in _BLOCK_SIZES):
        origins = [i * depth // wanted.depth for i in range(wanted.depth)]
        blocks = {f"blocks_{i}": params[f"blocks_{origin}"] for i, origin in enumerate(origins)}
        new = [i for i in range(1, wanted.depth) if origins[i] == origins[i - 1]]
        for name in (f"blocks_{i}" for i in new):
            silent = {part: jax.tree.map(np.zeros_like, blocks[name][part]) for part in ("proj", "fc2")}
            blocks[name] = {**blocks[name], **silent}
        params = {**params, **blocks}
        told = ", ".join(map(str, new))
        changes = [f"blocks: {depth} become {wanted.depth}; {told} are new and add nothing at first"]
    fits = wanted.grid == source.grid or source.position_table == wanted.position_table == "grid"
    if wanted.dim != source.dim or wanted.stem != source.stem or not fits:
        return params, changes, False
    params, for_images = fit_encoder(params, source, wanted)
    return params, changes + for_images, True


def _rank(model: ModelConfig) -> int:
    """The rank of a model's adapters, 0 without any."""
    return 0 if model.encoder is None else model.encoder.lora_rank


def _part(path: str) -> str:
    """The part of a model that a parameter belongs to."""
    return "adapters" if is_adapter(path) else path.split("/")[0]


def misfits(saved: ModelConfig, wanted: ModelConfig) -> dict[str, str]:
    """Parameters of one model that mean something else in another, though their shapes may agree.

    A dict from the beginning of their paths to the reason.
    """
    found: dict[str, str] = {}
    if saved.kind != wanted.kind:
        found |= dict.fromkeys(("decoder_", "mask_token"), "another kind of decoder")  # of autoencoders
    if saved.encoder is None or wanted.encoder is None:
        return found
    if saved.encoder.patch_size != wanted.encoder.patch_size:
        found |= dict.fromkeys(("encoder/patch_embed", "decoder_pred/"), "another patch size")
    if saved.encoder.grid != wanted.encoder.grid:
        found |= dict.fromkeys(("encoder/pos_embed", "decoder_pos_embed"), "another patch grid")
    scale = ("pixel_mean", "pixel_std")
    if any(getattr(saved.encoder, name) != getattr(wanted.encoder, name) for name in scale):
        found |= {path.removesuffix("/kernel"): "another pixel scale" for path in saved.encoder.pixel_axes}
    if saved.encoder.stem != wanted.encoder.stem:
        found["encoder/patch_embed"] = "another stem"
    return found


def merge_params(fresh: Any, loaded: Any, refused: dict[str, str]) -> tuple[Any, dict[str, str], list[str]]:
    """Put loaded parameters in the place of fresh ones where path and shape agree, but for ``refused`` (``misfits``).

    Returns the merged tree; a dict from each path that stayed fresh to the reason; and loaded paths without a place.
    """
    fresh_flat, loaded_flat = flatten_dict(fresh, sep="/"), flatten_dict(loaded, sep="/")
    merged, missing = {}, {}
    for path, value in fresh_flat.items():
        other = loaded_flat.get(path)
        reason = next((why for start, why in refused.items() if path.startswith(start)), None)
        if other is None:
            reason = "not there"
        elif other.shape != value.shape:
            reason = f"has shape {other.shape}, needs {value.shape}"
        merged[path] = value if reason else other
        if reason:
            missing[path] = reason
    unused = [path for path in loaded_flat if path not in fresh_flat]
    return unflatten_dict(merged, sep="/"), missing, unused


def with_characters(
    params: Any, tables: Mapping[str, int], source: Charset, wanted: Charset
) -> tuple[Any, dict[str, str]]:
    """A recogniser's parameters for the classes of another charset.

    The rows of characters that both have, and of the special classes, stay what they are. A character that is new
    starts as one that looks like it, if there is one: its letter without accents, or in the other case; or else as the
    mean of all.

    Args:
      params: the parameters, as NumPy arrays.
      tables: those with a row for each class (``RecogniserConfig.character_tables``).
      source: the charset that they are for.
      wanted: the other.

    Returns:
      The parameters, of which only the tables are new arrays; and the new characters, each with the one that it starts
      as, or "".
    """
    new = {c: next(_like(c, source.characters), "") for c in wanted.characters if c not in source.characters}
    origins = [source.characters.find(new.get(c, c) or "\0") for c in wanted.characters]
    special = [source.start_end, source.padding, source.unknown]

    def chosen(table: np.ndarray, axis: int) -> np.ndarray:
        rows = np.moveaxis(table, axis, 0)
        beside = [place for place in special if place < len(rows)]  # some models have the end alone
        mean = rows[: len(source.characters)].mean(0)
        rows = np.stack([mean if i < 0 else rows[i] for i in origins + beside])
        return np.moveaxis(rows, 0, axis).astype(table.dtype)

    flat = flatten_dict(params, sep="/")
    flat |= {path: chosen(flat[path], axis) for path, axis in tables.items()}
    return unflatten_dict(flat, sep="/"), new


def _like(character: str, characters: str) -> Iterator[str]:
    """Those of ``characters`` that look like another, the likest first."""
    letter = unicodedata.normalize("NFD", character)[0]
    for other in (letter, letter.swapcase(), character.swapcase()):
        if len(other) == 1 and other in characters:
            yield other
